"""Tests of the HTTP backend."""
