"""How gradients and signals are shown."""
