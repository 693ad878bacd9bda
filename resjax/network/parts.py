"""The variables of one part of a network, and the loop over the units of a stack.

``Network.apply`` with gates, an order and a tap is enough for most analyses. An analysis that changes what a
unit computes, or that looks inside a unit, runs the units itself::

    variables = network.bound(variables, images)
    h, _ = network.run_stem(variables, images)
    places = network.places(variables)
    xs = [(place.variables, place.gates) for place in places]
    h, seen = scan_places(places, step, h, xs)    # step(place, h, of the unit) -> (h, output)
    logits, _ = network.run_head(variables, h)

``resjax.network.periods`` has ``scan_places``, and says which units form a place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax

from resjax.network.unit import Stack


def part_of(variables: Mapping[str, Any], part: str | Stack) -> dict[str, Any]:
    """The variables of the stem, the head, one stack or a whole group, {collection: …}.

    Args:
      variables: {collection: {part: …}}.
      part: 'stem', 'head', a name of a stack without a group, or of a group; or a stack, whose variables are
        as its module takes them, stacked, with a leading axis of its n units.
    """
    name = part if isinstance(part, str) else part.part
    own = {collection: tree[name] for collection, tree in variables.items() if name in tree}
    if isinstance(part, str) or not part.group:
        return own
    return jax.tree.map(lambda v: v[part.start : part.start + part.n], own)


def scan_units(
    n: int,
    step: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    xs: Any,
    *,
    reverse: bool = False,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Runs ``step`` at each of n equal units in one ``lax.scan``.

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
