"""What was done to a network on the page: factors of branches, an order of units, BatchNorm's statistics.

A state is a value. The page sends one with each question, so the server keeps none, and an address, a line of
the log and the lines of Python that compute it are three ways to write the same thing down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from resjax.network import Network
from resjax.network.order import checked

MOST = 2.0  # the largest factor


class Wrong(ValueError):
    """A request that the page can mend; the text is for its reader."""


@dataclasses.dataclass(frozen=True)
class State:
    """Arguments of ``Network.apply``, and whether BatchNorm's statistics are those of the changed network."""

    gates: tuple[float, ...]  # [units], a factor 0 … ``MOST`` on each branch; 0 deletes the unit
    order: tuple[int, ...]  # [units], which unit runs at each place
    reestimated: bool = False

    @classmethod
    def intact(cls, units: int) -> State:
        return cls((1.0,) * units, tuple(range(units)))

    @property
    def moved(self) -> bool:
        """Whether units run in another order."""
        return self.order != tuple(range(len(self.order)))

    @property
    def gate_array(self) -> np.ndarray:
        """float32 [units]."""
        return np.array(self.gates, np.float32)

    @property
    def order_array(self) -> np.ndarray:
        """int32 [units]."""
        return np.array(self.order, np.int32)


def read(given: Any, network: Network, deletable: np.ndarray, has_statistics: bool) -> State:
    """The state that a request describes, ``{"gates": […], "order": […], "reestimated": false}``.

    Args:
      given: decoded JSON, of any form.
      network: the network of the state.
      deletable: bool [units], which units can be deleted.
      has_statistics: whether the network has statistics of BatchNorm.

    Raises:
      Wrong: not a state of this network; the text says why.
    """
    if not isinstance(given, Mapping):
        raise Wrong('a state is an object: {"gates": […], "order": […], "reestimated": false}')
    n = network.num_units
    gates, order = given.get("gates", [1.0] * n), given.get("order", list(range(n)))
    _check_list("gates", gates, n, (int, float), f"{n} numbers, one for each unit")
    _check_list("order", order, n, (int,), f"{n} whole numbers, one for each place")
    for unit, gate in zip(network.units, gates, strict=True):
        if not 0 <= gate <= MOST:  # also NaN
            raise Wrong(f"the factor of {unit.name} is {gate}; allowed: 0 to {MOST:g}")
        if gate != 1 and not deletable[unit.index]:
            raise Wrong(f"{unit.name} changes the shape and has no shortcut, so it must stay as it is")
    if sorted(order) != list(range(n)):
        raise Wrong(f"the order must have each of the units 0 to {n - 1} once")
    if order != list(range(n)):
        _check_order(order, network)
    reestimated = given.get("reestimated", False)
    if not isinstance(reestimated, bool):
        raise Wrong(f"reestimated is {reestimated!r}; allowed: true or false")
    if reestimated and not has_statistics:
        raise Wrong("this network has no statistics of BatchNorm that could be re-estimated")
    return State(tuple(map(float, gates)), tuple(order), reestimated)


def _check_list(name: str, values: Any, n: int, kinds: tuple[type, ...], wanted: str) -> None:
    of_kind = isinstance(values, list) and len(values) == n
    if not of_kind or not all(isinstance(v, kinds) and not isinstance(v, bool) for v in values):
        raise Wrong(f"{name} must be {wanted}")


def _check_order(order: list[int], network: Network) -> None:
    if not network.chained:
        raise Wrong("other connections bypass the units of this network, so they can't change places")
    try:
        checked(np.array(order), network.units, train=False)
    except ValueError as error:
        raise Wrong(str(error)) from error
