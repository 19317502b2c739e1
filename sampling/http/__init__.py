"""The HTTP backend: two models served elsewhere."""
