"""The pipeline's flows and its command line."""
