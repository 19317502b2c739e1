"""Tests of the object store, against a real server."""
