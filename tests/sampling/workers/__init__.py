"""Tests of sampling/remote."""
