"""Benchmarks: every method on the same loop, data and metrics."""
