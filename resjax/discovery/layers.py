"""The layers inside the parts of a found network, and what each responds.

A *layer* is a contraction of a signal with a parameter, its kernel: a convolution or a product, also one with a
derivative of its own. Products of two signals, as in attention, are none; what a loop repeats, or a nonlinear
function with a derivative of its own contains, is not seen. The *response* of a layer is what follows from its
output by sums and products with values that do not depend on the input (bias, scale, BatchNorm in inference) or by
a normalization with the output's own mean and deviation (LayerNorm, GroupNorm), where nothing else takes it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from resjax.discovery.anatomy import Anatomy, Source
from resjax.discovery.graph import SIDE, SIGNAL, Graph
from resjax.discovery.linear import ADDS, FREE, linear_in
from resjax.discovery.pieces import Piece, pieces_of

_AFFINE = FREE | ADDS | {"mul", "div", "neg"}
# What normalizes a value with its own mean and variance. The second set is of the statistics alone.
_EVERYWHERE = _AFFINE | {"square", "integer_pow", "reduce_sum"}
_ROOTS = {"sqrt", "rsqrt", "pow"}
_OF_STATISTICS = _ROOTS | {"max", "abs"}


class Layer(NamedTuple):
    """``kernel`` is a leaf, by number; ``response`` a value; ``normalized``: whether a normalization made it."""

    kernel: int
    response: int
    normalized: bool


@functools.lru_cache(maxsize=64)
def layers_of(source: Source, found: Anatomy) -> tuple[tuple[tuple[Layer, ...], ...], ...]:
    """The layers of the stem and of each unit, by half, in the order of the equations; none on shortcuts."""
    pieces, graph = pieces_of(found), found.graph
    aside: list[set[int]] = [set()]
    for unit in found.units:
        branches = graph.between(unit.start, [a.value for a in unit.branches])
        aside.append(set(graph.between(unit.start, [unit.shortcut.value])).difference(branches))
    return tuple(
        tuple(_in_piece(source, found, piece, skipped) for piece in halves)
        for halves, skipped in zip(pieces[:-1], aside, strict=True)
    )


def _in_piece(source: Source, found: Anatomy, piece: Piece, aside: set[int]) -> tuple[Layer, ...]:
    graph, program, which, layers = found.graph, found.program, set(piece.which), []
    kinds = [source.given.leaves[array].kind for array, _ in program.origins]

    def size(leaf: int) -> int:
        return int(np.prod(program.avals[program.leaves[leaf]].shape))

    for k in sorted(which - aside):
        node = program.nodes[k]
        # Integers, too: a convolution may take images as they are stored.
        taken = [v is not None and graph.level[v] > SIDE for v in node.ins]
        linear, contractions = linear_in(node.eqn, taken)
        owns = sorted(v for v in _sides(graph, k) if kinds[v] == "params")
        if linear and contractions and owns and sum(taken) == 1 and len(node.outs) == 1:
            response, normalized = _response(graph, which, kinds, node.outs[0])
            layers.append(Layer(max(owns, key=size), response, normalized))
    return tuple(layers)


def _sides(graph: Graph, k: int) -> frozenset[int]:
    """Leaves that the side operands of an equation are made of."""
    return frozenset().union(*(graph.owns[v] for v in graph.ins(k) if graph.level[v] == SIDE))


def _response(graph: Graph, which: set[int], kinds: list[str], value: int) -> tuple[int, bool]:
    """What follows from a layer's output, and whether a normalization took part."""
    normalized = False
    while True:
        users = graph.uses[value]
        if len(users) == 1 and users[0] in which and _affine(graph, users[0]):
            normalized |= any(kinds[v] == "batch_stats" for v in _sides(graph, users[0]))
            value = graph.program.nodes[users[0]].outs[0]
        elif not normalized and (behind := _normalized(graph, which, value)) is not None:
            value, normalized = behind, True
        else:
            return value, normalized


def _affine(graph: Graph, k: int) -> bool:
    node = graph.program.nodes[k]
    taken = [v is not None and graph.level[v] == SIGNAL for v in node.ins]
    sides = all(graph.level[v] in (SIDE, SIGNAL) for v in graph.ins(k))
    return node.name in _AFFINE and sum(taken) == 1 and sides and linear_in(node.eqn, taken)[0]


def _normalized(graph: Graph, which: set[int], value: int) -> int | None:
    """``value`` minus its mean, over its deviation; None if it isn't normalized, or is used elsewhere."""
    program, inside, names = graph.program, {value}, set[str]()
    for k in sorted(which):
        node = program.nodes[k]
        if not inside.intersection(graph.signals(k)):
            continue
        small = program.avals[node.outs[0]].size < program.avals[value].size
        allowed = _EVERYWHERE | (_OF_STATISTICS if small else set())
        if node.name not in allowed or not inside.issuperset(graph.signals(k)):
            return None
        inside.update(node.outs)
        names.add(node.name)
        waiting = {v for v in inside if any(user > k or user not in which for user in graph.uses[v])}
        if names & _ROOTS and waiting <= set(node.outs) and not small:
            return node.outs[0]
    return None
