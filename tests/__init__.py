"""The tests, which follow the folders of the source."""
