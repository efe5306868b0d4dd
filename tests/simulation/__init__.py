"""A deterministic simulation of whole loads; see :mod:`tests.simulation.harness`."""
