"""Tests of validations."""
