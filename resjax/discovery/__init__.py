"""Finds the residual units of any JAX function: ``resjax.discover(fn, variables, example)``."""

from resjax.discovery.found import Found, FoundUnit, discover
from resjax.discovery.refusal import NotFound

__all__ = ["Found", "FoundUnit", "NotFound", "discover"]
