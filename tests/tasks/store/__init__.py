"""Tests of `tasks.store`: on an in-memory S3, and (slow) on a real server."""
