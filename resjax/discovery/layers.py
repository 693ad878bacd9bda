"""The layers inside the parts of a found network, and what each responds.

A *layer* is a contraction of a signal with a parameter, its kernel: a convolution or a product, also one with
a derivative of its own. Products of two signals, as in attention, are none; what a loop repeats, or a
nonlinear function with a derivative of its own contains, is not seen. The *response* of a layer is what
follows from its output by sums and products with parameters and running statistics (bias, scale, BatchNorm in
inference), or by a normalization with the output's own mean and deviation (LayerNorm, GroupNorm), where
nothing else takes it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from resjax.discovery.anatomy import Anatomy, Source
from resjax.discovery.graph import SIDE, SIGNAL, Graph
from resjax.discovery.linear import linear_in
from resjax.discovery.normalization import PASSES, SCALES, normalized_by_itself
from resjax.discovery.pieces import Piece, pieces_of


class Layer(NamedTuple):
    """``kernel`` is a leaf, by number; ``response`` a value, ``normalized`` if a normalization made it."""

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
        elif not normalized and (behind := normalized_by_itself(graph, which, value)) is not None:
            value, normalized = behind, True
        else:
            return value, normalized


def _affine(graph: Graph, k: int) -> bool:
    """Whether it passes a signal on, or adds to it or multiplies it with something made of variables.

    Constants do not count: the scale of an attention's queries may as well be that of its products.
    """
    node = graph.program.nodes[k]
    taken = [v is not None and graph.level[v] == SIGNAL for v in node.ins]
    if sum(taken) != 1 or any(graph.level[v] not in (SIDE, SIGNAL) for v in graph.ins(k)):
        return False
    scales = node.name in SCALES and bool(_sides(graph, k)) and linear_in(node.eqn, taken)[0]
    return node.name in PASSES or scales
