"""The benchmark of dual sampling against its own two models."""
