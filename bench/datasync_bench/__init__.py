"""Benchmark of this project beside other ways to load the same events."""
