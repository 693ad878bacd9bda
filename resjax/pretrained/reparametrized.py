"""Weights that a file holds as two tensors or more: pruning masks, weight normalization."""

from resjax.pretrained.files import Tensors


def effective(tensors: Tensors) -> Tensors:
    """``tensors`` with the weights that the network computes with."""
    return tensors
