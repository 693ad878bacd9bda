"""The error of an analysis that a network does not allow."""

from resjax.network.refusal import Refusal

__all__ = ["Refusal"]
