"""Benchmarks: run by hand, they print figures that the README quotes; no test asserts a speed."""
