"""Gradients and activations on their way through a network."""
