"""A chaos test of the real pipeline, see :mod:`tests.chaos.chaos`."""
