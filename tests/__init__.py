"""The tests, which mirror the source file for file."""
