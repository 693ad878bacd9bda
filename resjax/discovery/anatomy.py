"""The units of one function at each batch size, dtype and mode: found once, and again where shapes differ."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resjax.discovery import chain as chains
from resjax.discovery import selection
from resjax.discovery.given import Cast, Given
from resjax.discovery.graph import Graph
from resjax.discovery.names import Path, common
from resjax.discovery.program import Origin, Program
from resjax.discovery.refusal import NotFound
from resjax.discovery.units import Sum, find_sums


@dataclasses.dataclass(frozen=True, eq=False)
class Anatomy:
    """What was found in one trace.

    Attributes:
      program, graph: the trace.
      units: the residual units in order; ``names`` theirs.
      chain: stem, units and head, or None where some unit is bypassed by other connections.
      bypassed: whether each unit is.
      nested: the number of residual sums inside of units' branches.
      others: {reason: sums of equal shapes that are no units}.
      updates: {array: the value of its new statistics}, in training mode.
    """

    program: Program
    graph: Graph
    units: tuple[Sum, ...]
    names: tuple[str, ...]
    chain: chains.Chain | None
    bypassed: tuple[bool, ...]
    nested: int
    others: Mapping[str, list[int]]
    updates: Mapping[Origin, int]

    @functools.cached_property
    def from_key(self) -> set[int | None]:
        """The values that are made of the program's random key, and the key; empty without one."""
        made: set[int | None] = {self.program.key} - {None}
        for node in self.program.nodes if made else ():
            if made.intersection(node.ins):
                made.update(node.outs)
        return made

    @property
    def parameters(self) -> list[frozenset[Origin]]:
        """The parameters of each unit's branch."""
        return [frozenset(self.program.origins[v] for v in unit.leaves) for unit in self.units]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A given function, and how its units are chosen. Traces are kept, by batch size, dtypes and mode."""

    given: Given
    grain: str
    boundaries: tuple[str, ...]
    conditions: frozenset[int] = frozenset()  # numbers of the inputs that are context

    @functools.cached_property
    def _known(self) -> dict[Any, Anatomy]:
        return {}

    @property
    def first(self) -> Anatomy:
        """The trace in which the units were found first."""
        return next(iter(self._known.values()))

    def best(self, batch: int) -> Source:
        """With that input alone as the signal, or all of them, with which most units are on a chain, or else
        with which most are found."""
        program, n = self.given.trace(batch), len(jax.tree.leaves(self.given.example))
        alone = [frozenset(range(n)) - {i} for i in range(n)] if n > 1 else []
        sources = [dataclasses.replace(self, conditions=trial) for trial in (frozenset[int](), *alone)]
        found = [source._find(program) for source in sources]
        on_chain = [(sum(not b for b in one.bypassed), len(one.units)) for one in found]
        i = max(range(len(sources)), key=lambda i: (*on_chain[i], -i))
        sources[i]._known[_key(batch, None, None, False)] = found[i]
        return sources[i]

    def anatomy(
        self, batch: int, cast: Cast | None = None, cast_x: Cast | None = None, train: bool = False
    ) -> Anatomy:
        """The units in a trace for this batch size; ``cast`` and ``cast_x`` exchange floating dtypes.

        Raises:
          NotFound: other units than in the first trace, or training mode without ``train_fn``.
        """
        key = _key(batch, cast, cast_x, train)
        if key not in self._known:
            found = self._find(self.given.trace(batch, cast, cast_x, train))
            if found.parameters != self.first.parameters:
                mode = "in training mode (train_fn)" if train else f"with {batch} examples"
                raise NotFound(
                    f"{mode} other units are found, {', '.join(found.names) or 'none'}, than before: "
                    f"{', '.join(self.first.names)}; fn and train_fn must be one network at every batch size"
                )
            self._known[key] = found
        return self._known[key]

    def matching(self, part: int, arrays: Mapping[Origin, Any], state: Any, train: bool) -> Anatomy:
        """The trace in which part ``part`` (0 is the stem) has these arrays and this state, or this input.

        Raises:
          ValueError: an input of another structure than the example's, or a state of an impossible dtype.
        """
        first = self.first
        cast = _casts((self.given.leaves[i].spec.dtype, v.dtype) for (i, _), v in arrays.items())
        leaves = jax.tree.leaves(state)
        batch = leaves[0].shape[0]  # a symbol, where a program for any number is exported
        if part == 0:
            before, leaves = jax.tree.leaves(self.given.example), self.given.inputs(state)
            cast_x = _casts((b.dtype, v.dtype) for b, v in zip(before, leaves, strict=True))
            return self.anatomy(batch, cast, cast_x, train)
        assert first.chain is not None
        values = first.chain.states[part - 1], first.units[min(part, len(first.units)) - 1].out
        own = _casts((first.program.avals[v].dtype, state.dtype) for v in values)
        for trial in (cast, own):
            found = self.anatomy(batch, cast, trial, train)
            assert found.chain is not None
            ends = found.chain.states[part - 1], found.units[min(part, len(found.units)) - 1].out
            if state.dtype in {found.program.avals[v].dtype for v in ends}:
                return found
        raise ValueError(
            f"the network has no state of dtype {state.dtype} here, whatever the dtype of its input; with "
            f"that of the example the state is {first.program.avals[values[0]].dtype}: cast the state to it"
        )

    def _find(self, program: Program) -> Anatomy:
        _check_results(program)
        graph = Graph(program, self.conditions)
        trained = frozenset(
            v for v, (array, _) in enumerate(program.origins) if self.given.leaves[array].kind == "params"
        )
        sums, others = find_sums(graph, trained)
        paths = paths_of(self.given, program)
        sizes = [int(np.prod(program.avals[v].shape)) for v in program.leaves]
        units = tuple(selection.selected(sums, paths, sizes, self.grain, self.boundaries))
        # What one unit alone makes of a condition, such as its own layer for the time, belongs to the unit.
        readers = Counter(v for unit in units for v in unit.conditional)
        alone = [frozenset(v for v in unit.conditional if readers[v] == 1) for unit in units]
        units = tuple(
            dataclasses.replace(u, leaves=u.leaves | own) for u, own in zip(units, alone, strict=True)
        )
        bypassed = tuple(not chains.on_chain(graph, unit) for unit in units)
        chain = chains.cut(graph, units) if units and not any(bypassed) else None
        taken = {one.out for unit in units for one in (unit, *unit.members)}
        nested = sum(one.out not in taken for one in sums)
        names = tuple(selection.named(units, paths, sizes))
        updates = _updates(self.given, program)
        return Anatomy(program, graph, units, names, chain, bypassed, nested, others, updates)


def _key(batch: int, cast: Cast | None, cast_x: Cast | None, train: bool) -> Any:
    casts = (tuple(sorted((str(a), str(b)) for a, b in (c or {}).items())) for c in (cast, cast_x))
    return batch, *casts, train, bool(jax.config.read("jax_enable_x64"))


def _check_results(program: Program) -> None:
    """Refuses several outputs; in training mode, anything but logits and statistics."""
    shape = program.out_tree
    if program.key is not None:
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise NotFound("train_fn must return two things, (logits, new statistics); {} for no statistics")
        shape = shape[0]
    leaves = jax.tree.leaves(shape)
    if len(leaves) != 1:
        raise NotFound(
            f"fn returns {len(leaves)} arrays, of shapes {_shapes(leaves, program)}; let it return logits "
            "alone, such as lambda variables, x: model(variables, x)[0]"
        )
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise NotFound(f"fn returns {leaves[0].dtype}, and logits are floats: return what argmax is taken of")


def _shapes(leaves: Sequence[Any], program: Program) -> str:
    """'[B, 10], [16]' of the first few results; B is the size of the batch."""
    batch = program.avals[program.inputs[0]].shape[0]
    sizes = [["B" if i == 0 and n == batch else n for i, n in enumerate(v.shape)] for v in leaves[:4]]
    texts = [f"[{', '.join(map(str, size))}]" for size in sizes]
    return ", ".join([*texts, *["…"][: len(leaves) > 4]]) or "none"


def _updates(given: Given, program: Program) -> dict[Origin, int]:
    """{array: value of its new statistics}; empty outside training mode.

    Raises:
      NotFound: statistics that are no part of the variables.
    """
    if program.key is None:
        return {}
    found: dict[Origin, int] = {}
    leaves = dict(zip(program.origins, program.leaves, strict=True))
    statistics = jax.tree_util.tree_flatten_with_path(program.out_tree[1])[0]
    for (path, _), value in zip(statistics, program.outs[1:], strict=True):
        array = given.array_at(path)
        rows = program.rows.get(value)
        layers = [o for o in program.origins if o[0] == array and o[1]]
        pairs = (
            [((array, ()), value)]
            if rows is None or not layers
            else list(zip(sorted(layers), rows, strict=True))
        )
        found.update({origin: new for origin, new in pairs if new != leaves[origin]})
    return found


def _casts(pairs: Any) -> dict[Any, Any]:
    """{dtype: dtype instead of it} of floating dtypes that differ."""
    return {a: b for a, b in pairs if a != b and jax.numpy.issubdtype(a, jax.numpy.inexact)}


def paths_of(given: Given, program: Program) -> list[Path]:
    """The paths of a program's leaves. The number of a row stands where the layers of its scan begin."""
    found: list[Path] = []
    rows = {array for array, row in program.origins if row}
    indexed = sorted(rows.difference(*program.scans))  # layers[i] in a Python loop
    groups = [*program.scans, indexed]
    roots = {a: common(given.leaves[b].path for b in group) for group in groups for a in group}
    for array, row in program.origins:
        path = given.leaves[array].path
        if row:
            n = len(roots[array])
            path = (*path[:n], *map(str, row), *path[n:])
        found.append(path)
    return found
