"""Measurements against the paper's own way of doing it: ``python -m benchmarks``."""
