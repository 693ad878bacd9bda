"""Residual units: sums of signals, one of whose addends is clearly the lesser.

A sum ``y = a + b + …`` is a residual unit if

* its addends have the shape of y, and one value d, its immediate dominator, encloses them: nothing computed
  between d and y is used elsewhere;
* one addend is the lesser, the *shortcut*: identity < linear without parameters < affine < nonlinear, and
  then fewer contractions; the others are the *branch*;
* the branch reads parameters, and its parts share no layer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from resjax.discovery.graph import CONTEXT, SIGNAL, Graph
from resjax.discovery.linear import ADDS, NONLINEAR, Kind, kind_of, linear_in


class Addend(NamedTuple):
    """``value`` with ``sign`` in the sum that equation ``eqn`` completes or begins."""

    value: int
    sign: int


@dataclasses.dataclass(frozen=True)
class Sum:
    """One residual sum, or the sums of one layer joined to one unit.

    Attributes:
      start: the value that encloses it; ``out``: the sum.
      shortcut: the lesser addend; ``branches``: the others.
      kind: what is done to ``start`` on the way to the shortcut.
      region: its equations; ``leaves``: parameters that its branches read.
      conditional: parameters that its branches read through context values.
      members: the sums that it joins, itself alone if none.
      notes: what a person should know.
    """

    start: int
    out: int
    shortcut: Addend
    branches: tuple[Addend, ...]
    kind: Kind
    region: frozenset[int]
    leaves: frozenset[int]
    conditional: frozenset[int]
    members: tuple[Sum, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def addends(self) -> tuple[Addend, ...]:
        """The shortcut, and the branches."""
        return self.shortcut, *self.branches

    def parts(self, values: Iterable[Any]) -> tuple[Any, Any]:
        """The shortcut, and the sum of the branches, of the values of ``addends``."""
        signed = (v if a.sign > 0 else -v for v, a in zip(values, self.addends, strict=True))
        shortcut, first, *rest = signed
        return shortcut, sum(rest, first)


# Why a sum is not a unit: {reason: what to call several of them}.
EARLY = "adds values before any signal"
BARE = "its branch reads no parameters"
STREAMS = "its inner values are used elsewhere"
DENSE = "its branches share layers"
CROSSED = "it adds to one stream what was made of another"
ALIKE = "no addend is clearly the lesser"


def find_sums(graph: Graph, trained: frozenset[int]) -> tuple[list[Sum], dict[str, list[int]]]:
    """All residual sums in order, nested ones included, and {reason: other sums of equal shapes}.

    Args:
      graph: of the program.
      trained: leaves that are parameters; running statistics and buffers are not.
    """
    merging = {k for k in graph.main if _merges(graph, k)}
    found: list[Sum] = []
    others: dict[str, list[int]] = {}
    for k in sorted(merging):
        out = graph.program.nodes[k].outs[0]
        users = graph.uses[out]
        if len(users) == 1 and users[0] in merging and graph.above[~users[0]] == graph.above[~k]:
            continue  # it begins a longer sum
        unit = _unit(graph, out, _addends(graph, merging, k, 1), graph.above[~k], trained)
        if isinstance(unit, str):
            others.setdefault(unit, []).append(k)
        else:
            found.append(unit)
    return found, others


def join(sums: Sequence[Sum]) -> Sum | None:
    """Consecutive sums as one unit, x + (a(x) + b(x + a(x))); None if something else stands between them."""
    first, last = sums[0], sums[-1]
    for one, following in itertools.pairwise(sums):
        if following.start != one.out or following.kind.what or following.shortcut.sign < 0:
            return None
    if len(sums) == 1:
        return first
    return Sum(
        start=first.start,
        out=last.out,
        shortcut=first.shortcut,
        branches=tuple(b for one in sums for b in one.branches),
        kind=first.kind,
        region=frozenset().union(*(one.region for one in sums)),
        leaves=frozenset().union(*(one.leaves for one in sums)),
        conditional=frozenset().union(*(one.conditional for one in sums)),
        members=tuple(sums),
        notes=tuple(dict.fromkeys(note for one in sums for note in one.notes)),
    )


def _merges(graph: Graph, k: int) -> bool:
    """Whether an equation adds two signals of the shape of their sum."""
    node, avals = graph.program.nodes[k], graph.program.avals
    if node.name not in ADDS or len(node.ins) != 2 or any(v is None for v in node.ins):
        return False
    alike = {(avals[v].shape, avals[v].dtype) for v in (*node.ins, node.outs[0]) if v is not None}
    return (
        len(alike) == 1
        and all(graph.level[v] == SIGNAL for v in graph.ins(k))
        and len(avals[node.outs[0]].shape) > 1
    )


def _addends(graph: Graph, merging: set[int], k: int, sign: int) -> list[Addend]:
    found = []
    for position, value in enumerate(graph.program.nodes[k].ins):
        assert value is not None
        own = -sign if position and graph.program.nodes[k].name == "sub" else sign
        inner = graph.maker.get(value)
        # A sum that is used here alone, and is not a unit of its own, is a part of this one.
        if inner in merging and graph.uses[value] == [k] and graph.above[~inner] == graph.above[~k]:
            found += _addends(graph, merging, inner, own)
        else:
            found.append(Addend(value, own))
    return found


def _unit(
    graph: Graph, out: int, addends: list[Addend], start: int | None, trained: frozenset[int]
) -> Sum | str:
    """The unit of a sum, or the reason why it is none."""
    if start is None:
        return EARLY
    ways = [graph.between(start, [a.value]) for a in addends]
    kinds = [kind_of(graph, way) for way in ways]
    least = min(range(len(ways)), key=lambda j: kinds[j])
    others = [j for j in range(len(ways)) if j != least]
    leaves = frozenset().union(*(graph.leaves_of(ways[j]) for j in others)) & trained
    region = frozenset(graph.between(start, [out]))
    if not leaves:
        return BARE
    if any(set(graph.uses[v]) - region for k in region for v in graph.program.nodes[k].outs if v != out):
        taken = {v for j in others for k in ways[j] for v in graph.ins(k)}
        crossed = addends[least].value != start and addends[least].value not in taken
        return CROSSED if crossed else STREAMS
    if _share_layers(graph, [ways[j] for j in others]):
        return DENSE
    rest = min(kinds[j] for j in others)
    nonlinear = kinds[least].what == NONLINEAR
    if kinds[least] == rest or (nonlinear and kinds[least].contractions >= rest.contractions):
        return ALIKE
    notes = []
    if nonlinear:
        notes.append("its shortcut is nonlinear")
    if addends[least].sign < 0:
        notes.append("its shortcut is subtracted")
    if len(others) > 1:
        notes.append(f"{len(others)} parallel branches")
    return Sum(
        start=start,
        out=out,
        shortcut=addends[least],
        branches=tuple(addends[j] for j in others),
        kind=kinds[least],
        region=region,
        leaves=leaves,
        conditional=graph.leaves_of((k for j in others for k in ways[j]), CONTEXT) & trained,
        notes=tuple(notes),
    )


def _share_layers(graph: Graph, ways: list[list[int]]) -> bool:
    """Whether two branches have a contraction with parameters in common."""
    seen: set[int] = set()
    for way in ways:
        own = {k for k in way if _is_layer(graph, k)}
        if own & seen:
            return True
        seen |= own
    return False


def _is_layer(graph: Graph, k: int) -> bool:
    node = graph.program.nodes[k]
    taken = [v is not None and graph.level[v] == SIGNAL for v in node.ins]
    return linear_in(node.eqn, taken)[1] > 0 and any(graph.owns[v] for v in graph.ins(k))
