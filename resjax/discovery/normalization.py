"""Normalizations of a value with its own mean and deviation (LayerNorm, GroupNorm) among equations."""

from __future__ import annotations

from collections.abc import Sequence

from resjax.discovery.graph import SIGNAL, Graph
from resjax.discovery.linear import ADDS, FREE

PASSES, SCALES = FREE | {"neg"}, ADDS | {"mul", "div"}
_SQUARES, _ROOTS = {"square", "integer_pow"}, {"sqrt", "rsqrt", "pow"}
_OF_STATISTICS = PASSES | SCALES | _SQUARES | _ROOTS | {"max"}


def normalized_by_itself(graph: Graph, which: set[int], value: int) -> int | None:
    """``value`` minus its mean (which may be missing, as in RMSNorm), over its deviation.

    None where the equations ``which`` do not normalize it, or use it for something else, too.
    """
    # Of what is made of ``value``, how often it is a factor. Means are statistics, and have none.
    degrees, rooted = {value: 1}, False
    for k in sorted(which):
        node = graph.program.nodes[k]
        if not degrees.keys() & graph.signals(k):
            continue
        own = [degrees.get(v) if v is not None and graph.level[v] == SIGNAL else 0 for v in node.ins]
        degree = _degree(node.name, own)
        if degree is None:
            return None
        degrees.update(dict.fromkeys(node.outs, degree))
        rooted = rooted or node.name in _ROOTS
        waiting = {v for v in degrees if any(user > k or user not in which for user in graph.uses[v])}
        if rooted and degree == 1 and waiting <= set(node.outs):
            return node.outs[0]
    return None


def _degree(name: str, operands: Sequence[int | None]) -> int | None:
    """The degree of an equation's output; None if it is no part of a normalization."""
    known = [degree for degree in operands if degree is not None]
    if len(known) < len(operands):
        return None
    if name == "reduce_sum" or (max(known) == 0 and name in _OF_STATISTICS):
        return 0
    if name in PASSES or (name in ADDS and max(known) == 1):
        return max(known)
    if name == "mul" or (name == "div" and known[1] == 0):
        return sum(known) if sum(known) <= 2 else None
    return 2 if name in _SQUARES and known == [1] else None
