"""Target layer over the stock target: it commits before it checkpoints."""
