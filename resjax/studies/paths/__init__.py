"""Paths through a network: how many, how long, what the gradient owes to each, and how they vote."""
