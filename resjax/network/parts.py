"""The variables of one part of a network, and the loop over the units of a stack.

``Network.apply`` with gates, an order and a tap is enough for most analyses. An analysis that changes what a
unit computes, or that looks inside a unit, loops over the units itself::

    h, _ = network.run_stem(variables, images)
    for place in network.places(variables):
        own = (place.variables, place.gates)
        h, seen = scan_units(place.stack.n, step, h, own)    # step(h, own) -> (h, output)
    logits, _ = network.run_head(variables, h)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax

from resjax.network.unit import Stack


class Place(NamedTuple):
    """One stack of a network: the indices of its units, its stacked variables as its module takes them, and
    its gates [n] outside training, which are None without stochastic depth."""

    stack: Stack
    units: slice
    variables: dict[str, Any]
    gates: jax.Array | None


def part_of(variables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The variables of the stem, the head or one stack, as its module takes them: {collection: …}."""
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def scan_units(
    n: int,
    step: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    xs: Any,
    *,
    reverse: bool = False,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Runs ``step`` at each unit of a stack in one ``lax.scan``.

    A single unit runs without a loop, because it may change the shape of the state.

    Args:
      n: the number of units.
      step: (state, entry of ``xs``) → (new state, output).
      state: the state before the first unit.
      xs: pytree of arrays with a leading axis n, one entry for each unit.
      reverse: from the last unit to the first.
      unroll: units in one iteration of the loop.

    Returns:
      The last state, and the outputs of ``step`` with a leading axis n, in the order of the units.
    """
    if n == 1:
        state, seen = step(state, jax.tree.map(lambda v: v[0], xs))
        return state, jax.tree.map(lambda v: v[None], seen)
    return lax.scan(step, state, xs, n, reverse=reverse, unroll=unroll)
