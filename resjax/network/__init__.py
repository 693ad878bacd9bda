"""The decomposition that everything shares: a network is a stem, stacks of units, and a head.

This package imports no other part of resjax.
"""

from resjax.network.network import Network, Output, Tap, Variables
from resjax.network.unit import Parts, Stack, Unit, UnitInfo

__all__ = ["Network", "Output", "Parts", "Stack", "Tap", "Unit", "UnitInfo", "Variables"]
