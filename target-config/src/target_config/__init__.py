"""Layer over the stock target that commits rows before it checkpoints."""
