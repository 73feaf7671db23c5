"""Benchmarks: figures, not tests. README.md lists them."""
