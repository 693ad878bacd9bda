"""The chain of a network's units: stem, units, head, each a list of equations.

Units whose start and sum dominate the logits form a chain. The state before a unit is the state behind the
one before it: its sum, and the operations that most units have behind their sums (the ReLU of a
post-activation unit). All equations between that state and the addends of the sum belong to the unit.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from resjax.discovery.graph import CONTRACTIONS, Graph
from resjax.discovery.linear import FREE, kind_of
from resjax.discovery.units import Sum


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """Equations by part.

    Attributes:
      graph: of the program.
      units: n residual units in order.
      states: n + 1 values: before the first unit, and behind each.
      splits, merges: for each unit, the equations from its state to the addends, and from the sum to the
        next.
      stem, head: the others.
    """

    graph: Graph
    units: tuple[Sum, ...]
    states: tuple[int, ...]
    splits: tuple[list[int], ...]
    merges: tuple[list[int], ...]
    stem: list[int]
    head: list[int]


def on_chain(graph: Graph, unit: Sum) -> bool:
    """Whether every path to the logits passes the unit's start and its sum."""
    dominators = set(graph.dominators(graph.out))
    return unit.start in dominators and unit.out in dominators


def cut(graph: Graph, units: tuple[Sum, ...]) -> Chain:
    """The chain of units that are all on it, in order."""
    ends = [*(u.start for u in units[1:]), graph.out]
    rows = [_behind(graph, u.out, end) for u, end in zip(units, ends, strict=True)]
    typical = _typical(graph, rows)
    states = [units[0].start]
    for unit, row in zip(units, rows, strict=True):
        n = 0
        while n < min(len(row), len(typical)) and row[n][1] == typical[n]:
            n += 1
        states.append(row[n - 1][0] if n else unit.out)
    splits = tuple(
        graph.between(state, [a.value for a in u.addends])
        for state, u in zip(states[:-1], units, strict=True)
    )
    merges = tuple(graph.between(u.out, [state]) for u, state in zip(units, states[1:], strict=True))
    stem, head = graph.between(None, [states[0]]), graph.between(states[-1], [graph.out])
    return Chain(graph, units, tuple(states), splits, merges, stem, head)


def _behind(graph: Graph, out: int, end: int) -> list[tuple[int, tuple[str, ...]]]:
    """The values that dominate ``end`` behind the sum ``out``, each with the names of the equations to it."""
    values, v = [], end
    while v != out:
        values.append(v)
        above = graph.above[v]
        assert above is not None
        v = above
    values = values[::-1]
    names = []
    for top, bottom in zip([out, *values], values, strict=False):
        names.append(tuple(graph.program.nodes[k].name for k in graph.between(top, [bottom])))
    return list(zip(values, names, strict=True))


def _typical(graph: Graph, rows: list[list[tuple[int, tuple[str, ...]]]]) -> list[tuple[str, ...]]:
    """What most units have behind their sums, up to the first layer with a kernel."""
    inner = rows[:-1]
    if inner:
        often = Counter(tuple(names for _, names in row) for row in inner).most_common(1)[0][0]
    else:  # of a single unit: what keeps the shape, and has no parameters
        (row,) = rows
        shape = graph.program.avals[graph.out].shape if not row else None
        often = ()
        for value, names in row:
            own = [graph.maker[value]]
            shape = shape or graph.program.avals[graph.ins(own[0])[0]].shape
            if graph.leaves_of(own) or graph.program.avals[value].shape != shape or len(names) > 1:
                break
            often = (*often, names)
    typical = []
    for names in often:
        if CONTRACTIONS & set(names):
            break
        typical.append(names)
    return typical


def follows(chain: Chain, i: int) -> str:
    """What stands behind the sum of unit ``i``, in words."""
    nodes = [chain.graph.program.nodes[k] for k in chain.merges[i]]
    words = list(dict.fromkeys(node.word for node in nodes if node.name not in FREE))
    if any(node.name == "rsqrt" for node in nodes):
        functions = {node.word for node in nodes if node.word != node.name and not node.word.startswith("_")}
        words = ["normalization", *(word for word in words if word in functions - {"var", "mean"})]
    return ", ".join(words[:3]) + (f", … ({len(nodes)} operations)" if len(words) > 3 else "")


def starts_late(chain: Chain, i: int) -> bool:
    """Whether layers stand between the state in front of unit ``i`` and the start of its shortcut."""
    before = chain.graph.between(chain.states[i], [chain.units[i].start])
    return kind_of(chain.graph, before).contractions > 0
