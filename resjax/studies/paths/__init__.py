"""Paths through a network: their number and lengths, the gradient through them, and votes of sub-networks."""
