"""Loops over the units of a network: one for each stack, or one for stacks that alternate.

In a transformer, attention and MLP alternate. They are stacks of one unit each, in two groups
(``Stack.group``), and their sequence attention, mlp, attention, mlp, … has a period of two stacks. One
``lax.scan`` over the periods runs them all. Its body runs the stacks of one period, so a program does not
grow with the number of periods.

The units at one place of the period form a ``Place``. A stack outside such a sequence is a place of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resjax.network.parts import part_of, scan_units
from resjax.network.unit import Stack

Step = Callable[["Place", Any, Any], tuple[Any, Any]]


class Place(NamedTuple):
    """Equal units that one loop runs: those of a stack, or those at one place of a period.

    Attributes:
      stacks: one in each period, all with the same unit and number of units.
      units: int [m], the indices of their units, in order.
      variables: of these units, as their module takes them, with a leading axis m.
      gates: [m], or None.
      loop: the number of the loop; places with the same number alternate.
    """

    stacks: tuple[Stack, ...]
    units: np.ndarray
    variables: dict[str, Any]
    gates: jax.Array | None
    loop: int

    @property
    def stack(self) -> Stack:
        """The first stack; the others differ from it in name and rows."""
        return self.stacks[0]

    def take(self, of_units: Any) -> Any:
        """The entries of this place in a pytree of arrays with a leading axis of all units; None stays."""
        return _take(of_units, self.units)

    def join(self, of_stacks: Mapping[str, Any]) -> Any:
        """The entries of this place, from those of each stack: {stack: pytree of arrays [its units, …]}."""
        own = [of_stacks[stack.name] for stack in self.stacks]
        return jax.tree.map(lambda *v: jnp.concatenate(v), *own) if own[1:] else own[0]


def places_of(stacks: Sequence[Stack], variables: Mapping[str, Any], gates: jax.Array | None) -> list[Place]:
    """All places, in the order in which their first units run.

    Args:
      stacks: of a network, in order.
      variables: of the network.
      gates: [units], or None.
    """
    first = np.cumsum([0, *(stack.n for stack in stacks)])
    found = []
    for loop, (start, period, times) in enumerate(_periods(stacks)):
        for k in range(start, start + period):
            own = range(k, k + period * times, period)
            units = np.concatenate([first[i] + np.arange(stacks[i].n) for i in own])
            at = tuple(stacks[i] for i in own)
            found.append(Place(at, units, _rows(variables, at), _take(gates, units), loop))
    return found


def loops(places: Sequence[Place]) -> list[list[Place]]:
    """The places of each loop; only stacks of groups have a loop with two places or more."""
    return [list(own) for _, own in itertools.groupby(places, key=lambda place: place.loop)]


def layers_of(stacks: Sequence[Stack]) -> list[np.ndarray]:
    """The units of each layer, int [units] each, in order: those of a period where stacks alternate, such as
    attention and MLP; elsewhere each unit is a layer."""
    first = np.cumsum([0, *(stack.n for stack in stacks)]).tolist()
    found: list[np.ndarray] = []
    for start, period, times in _periods(stacks):
        ends = range(start, start + period * times + 1, period)
        own = [np.arange(first[a], first[b]) for a, b in itertools.pairwise(ends)]
        found += own if period > 1 else [np.array([unit]) for unit in np.concatenate(own)]
    return found


def scan_places(
    places: Sequence[Place],
    step: Step,
    state: Any,
    xs: Sequence[Any],
    *,
    reverse: bool = False,
    unroll: Callable[[int], int] = lambda n: 1,
) -> tuple[Any, list[Any]]:
    """Runs ``step`` at each unit, from the first to the last.

    Args:
      places: all of a network, or those of one of its ``loops``.
      step: (place, state, entry of ``xs``) → (new state, output).
      state: the state before the first unit.
      xs: for each place, a pytree of arrays with a leading axis of its units.
      reverse: from the last unit to the first.
      unroll: number of units in a loop → units in one of its iterations.

    Returns:
      The last state; and for each place the outputs of ``step`` with a leading axis of its units, which
      ``by_unit``, ``by_stack`` and ``by_part`` put together.
    """
    numbered = list(enumerate(places))
    grouped = [list(own) for _, own in itertools.groupby(numbered, key=lambda pair: pair[1].loop)]
    seen: list[Any] = [None] * len(places)
    for loop in reversed(grouped) if reverse else grouped:
        numbers, own = zip(*loop, strict=True)
        state, found = _scan_loop(own, step, state, [xs[i] for i in numbers], reverse, unroll)
        for i, out in zip(numbers, found, strict=True):
            seen[i] = out
    return state, seen


def _scan_loop(
    places: Sequence[Place],
    step: Step,
    state: Any,
    xs: list[Any],
    reverse: bool,
    unroll: Callable[[int], int],
) -> tuple[Any, list[Any]]:
    n = sum(len(place.units) for place in places)
    if len(places) == 1:
        at = partial(step, places[0])
        state, out = scan_units(n, at, state, xs[0], reverse=reverse, unroll=unroll(n))
        return state, [out]
    times = len(places[0].stacks)

    def period(state: Any, xs: list[Any]) -> tuple[Any, list[Any]]:
        seen: list[Any] = [None] * len(places)
        numbers = range(len(places))
        for k in reversed(numbers) if reverse else numbers:
            at, n = partial(step, places[k]), places[k].stack.n
            state, seen[k] = scan_units(n, at, state, xs[k], reverse=reverse)
        return state, seen

    xs = jax.tree.map(lambda v: v.reshape(times, -1, *v.shape[1:]), xs)
    each = max(1, unroll(n) * times // n)
    state, seen = lax.scan(period, state, xs, times, reverse=reverse, unroll=each)
    return state, jax.tree.map(lambda v: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]), seen)


def by_unit(places: Sequence[Place], seen: Sequence[Any]) -> Any:
    """Outputs of all units in their order, as one pytree of arrays with a leading axis of units.

    Args:
      places: all of a network.
      seen: for each place, arrays with a leading axis of its units, or of equally many rows for each unit.
    """

    def of_loop(times: int, *values: jax.Array) -> jax.Array:
        if len(values) == 1:
            return values[0]
        rows = [v.reshape(times, -1, *v.shape[1:]) for v in values]
        return jnp.concatenate(rows, axis=1).reshape(-1, *values[0].shape[1:])

    rest, found = iter(seen), []
    for own in loops(places):
        join = partial(of_loop, len(own[0].stacks))
        found.append(jax.tree.map(join, *(next(rest) for _ in own)))
    return jax.tree.map(lambda *v: jnp.concatenate(v), *found)


def by_stack(places: Sequence[Place], seen: Sequence[Any]) -> dict[str, Any]:
    """Outputs of each stack, {stack: pytree of arrays with a leading axis of its units}."""
    found = {}
    for place, out in zip(places, seen, strict=True):
        for i, stack in enumerate(place.stacks):
            own = slice(i * stack.n, (i + 1) * stack.n)
            found[stack.name] = jax.tree.map(lambda v, own=own: v[own], out) if place.stacks[1:] else out
    return found


def by_part(places: Sequence[Place], seen: Sequence[Any]) -> dict[str, Any]:
    """Outputs in the order of the variables, {part: pytree of arrays with a leading axis of its rows}."""
    found: dict[str, list[Any]] = {}
    for place, out in zip(places, seen, strict=True):
        found.setdefault(place.stack.part, []).append((_row_numbers(place.stacks), out))
    parts = {}
    for part, own in found.items():
        order = np.argsort(np.concatenate([rows for rows, _ in own]))
        out = own[0][1]
        if own[1:]:
            out = jax.tree.map(lambda *v: jnp.concatenate(v), *(out for _, out in own))
        parts[part] = _take(out, order)
    return parts


def _periods(stacks: Sequence[Stack]) -> Iterator[tuple[int, int, int]]:
    """(first stack, stacks in a period, periods) of each loop: the longest one, with the shortest period."""
    kinds = [(stack.group, stack.n) if stack.group else (stack.name,) for stack in stacks]
    start, count = 0, len(kinds)
    while start < count:
        period, times = 1, 1
        for p in range(1, (count - start) // 2 + 1):
            pairs = zip(kinds[start:], kinds[start + p :], strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            if p * (1 + same // p) > max(period * times, p):
                period, times = p, 1 + same // p
        yield start, period, times
        start += period * times


def _row_numbers(stacks: Sequence[Stack]) -> np.ndarray:
    return np.concatenate([stack.start + np.arange(stack.n) for stack in stacks])


def _rows(variables: Mapping[str, Any], stacks: Sequence[Stack]) -> dict[str, Any]:
    own = part_of(variables, stacks[0].part)
    return _take(own, _row_numbers(stacks)) if stacks[0].group else own


def _take(tree: Any, numbers: np.ndarray) -> Any:
    """Entries along the leading axis; neighbours are sliced, which copies less than a gather."""
    first, last = (int(numbers[0]), int(numbers[-1])) if len(numbers) else (0, -1)
    whole = np.arange(first, last + 1)

    def take(v: Any) -> Any:
        if not np.array_equal(numbers, whole):
            return v[numbers]
        return v if len(v) == len(whole) else v[first : last + 1]

    return jax.tree.map(take, tree)
