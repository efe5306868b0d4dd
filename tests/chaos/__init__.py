"""A kill storm over the real pipeline; see :mod:`tests.storm.storm`."""
