"""The forward pass of one batch, unit by unit, which keeps its states for the next pass.

A change on the page usually touches one unit. The states in front of it are those of the pass before, so only
the units behind it are computed again: on average half of them. Every unit is a small program, compiled once
for each kind of unit, whatever its factor and wherever it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.parts import part_of
from resjax.network.unit import Unit
from resjax.play.state import State
from resjax.studies.lesions import prefixes

KEPT = 2**29  # bytes of kept states of a network, at most; the first of each batch is always kept
LEAST = 2**11  # elements of an example's state; smaller ones gain nothing from a few examples at a time


class Passed(NamedTuple):
    """``logits`` [B, …, classes]; ``shortcut`` and ``branch`` [places, B], the norms of each place's two
    summands, None where no states stand between the units."""

    logits: jax.Array
    shortcut: jax.Array | None = None
    branch: jax.Array | None = None


class Walk:
    """The forward passes of one batch, on one device."""

    def __init__(
        self, core: on_cores.Cores, network: Network, x: Any, walks: int, go_on: Callable[[], None]
    ) -> None:
        """``walks``: how many there are of this network; they share the memory for states. ``go_on`` is
        called in front of each unit; its error ends the pass."""
        self._core, self._network, self._walks, self._go_on = core, network, walks, go_on
        self._x = core.split(jax.device_put(x))
        self._units = network.units
        self._given: Variables | None = None

    def __call__(self, variables: Variables, state: State) -> Passed:
        """The outputs in this state; ``variables`` are on the device of the batch."""
        if not self._network.chained:
            gates = state.gate_array
            return Passed(_whole(self._core, self._network, variables, self._x, gates))
        if self._given is not variables:
            self._start(variables)
        self._go([(unit, state.gates[unit]) for unit in state.order])
        logits = prefixes.run_head(self._core, self._network, self._bound, self._last)
        return Passed(logits, *(jnp.stack([own[i] for own in self._norms]) for i in (0, 1)))

    def _start(self, variables: Variables) -> None:
        self._given = None  # until the first state is there
        self._bound, first = prefixes.start(self._core, self._network, variables, self._x)
        self._states, self._last = {0: first}, first
        self._norms: list[Any] = []
        self._before: list[tuple[int, float]] = []
        most = max(1, KEPT // (first.nbytes * self._walks))
        self._stride = math.ceil(len(self._units) / most)
        self._given = variables

    def _go(self, places: list[tuple[int, float]]) -> None:
        """Runs the units, each with its gate, from the last kept state in front of the first change."""
        shared = prefixes.shared_places(places, self._before) if self._before else 0
        if shared == len(places):
            return
        start = max(place for place in self._states if place <= shared)
        self._before, self._norms = [], self._norms[:start]  # no pass before, should an error end this one
        self._states = {place: kept for place, kept in self._states.items() if place <= start}
        h = self._states[start]
        own_gates = self._network.test_gates
        for place in range(start, len(places)):
            self._go_on()
            if place % self._stride == 0:
                self._keep(place, h)
            u, gate = places[place]
            unit, own = self._units[u], part_of(self._bound, self._units[u].part)
            factor = np.float32(gate) if own_gates is None else own_gates[u] * gate
            h, norms = _step(self._core, unit.stack.unit, own, np.int32(unit.row), h, factor)
            self._norms.append(norms)
            jax.block_until_ready(h)  # or dispatch would run ahead, and the pass could not be ended
        self._last, self._before = h, places

    def _keep(self, place: int, h: jax.Array) -> None:
        """Keeps a state, unless it is too much: some states are larger than the first."""
        held = sum(kept.nbytes for other, kept in self._states.items() if other != place)
        if (held + h.nbytes) * self._walks <= KEPT:
            self._states[place] = h


@on_cores.jit(static=2)
def _whole(
    cores: on_cores.Cores, network: Network, variables: Variables, x: Any, gates: jax.Array
) -> jax.Array:
    def run(given: Any, x: Any) -> jax.Array:
        return network.apply(given[0], x, gates=given[1]).logits

    return on_cores.few_at_a_time(cores, run, (variables, gates), x)


@on_cores.jit(static=2)
def _step(cores: on_cores.Cores, unit: Unit, stacked: Any, row: Any, h: jax.Array, factor: Any) -> Any:
    """The state behind a unit, and the norms [B] of its shortcut, 0 without one, and of its scaled branch."""
    own = jax.tree.map(lambda v: v[row], stacked)

    def run(given: Any, h: jax.Array) -> Any:
        own, factor = given
        parts: Any = unit.apply(own, h, factor, method="parts")
        branch = factor * _norms(parts.branch)
        return parts.y, (_norms(parts.shortcut) if unit.residual else jnp.zeros_like(branch), branch)

    # What a unit reads beside its state belongs to the whole batch.
    if "context" in own or math.prod(h.shape[1:]) < LEAST:
        return run((own, factor), h)
    return on_cores.few_at_a_time(cores, run, (own, factor), h, elements=on_cores.OF_A_UNIT)


def _norms(x: jax.Array) -> jax.Array:
    """[B]: ‖x‖₂ of each example, in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(jnp.square(wide), tuple(range(1, x.ndim))))
