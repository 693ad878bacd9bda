"""Running a network stack by stack, for analyses that change what a unit does or look inside of one.

``Network.apply`` with gates, an order and a tap serves most analyses. One that needs more writes the loop
over the units itself::

    h, _ = network.run_stem(variables, images)
    for place in places(network, variables):
        h, seen = over_units(place, step, h)        # step(h, variables, gate, x) -> (h, what it saw)
    logits, _ = network.run_head(variables, h)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from resjax.network.network import Network, Variables
from resjax.network.unit import Stack


class Place(NamedTuple):
    """Where a stack stands: ``units`` are its units in the network; ``part`` its variables, stacked, as its
    module takes them; ``gates`` [n] those of stochastic depth outside of training, None without."""

    stack: Stack
    units: slice
    part: Any
    gates: jax.Array | None


def places(network: Network, variables: Variables) -> list[Place]:
    """One entry a stack, in order."""
    gates = network.unit_dropout.at_test() if network.unit_dropout else None
    found, start = [], 0
    for stack in network.stacks:
        own = slice(start, start + stack.n)
        part = {c: tree[stack.name] for c, tree in variables.items() if stack.name in tree}
        found.append(Place(stack, own, part, None if gates is None else gates[own]))
        start += stack.n
    return found


Step = Callable[[Any, Any, jax.Array | None, Any], tuple[Any, Any]]
"""(state, the unit's variables, its gate or None, its x) → (state, what it saw)."""


def over_units(
    place: Place, step: Step, state: Any, xs: Any = None, *, reverse: bool = False
) -> tuple[Any, Any]:
    """Runs ``step`` at each unit of a stack, in a loop; a single unit alone, as it may change the shape.

    Args:
      place: the stack.
      step: what to do at a unit.
      state: in front of the first unit.
      xs: pytree of arrays with a leading axis n, one entry a unit.
      reverse: from the last unit to the first.

    Returns:
      The last state, and what ``step`` saw, with a leading axis n in the order of the units.
    """
    own = (place.part, place.gates, xs)
    if place.stack.n == 1:
        state, seen = step(state, *jax.tree.map(lambda v: v[0], own))
        return state, jax.tree.map(lambda v: v[None], seen)
    return lax.scan(
        lambda state, own: step(state, *own), state, own, place.stack.n, reverse=reverse
    )
