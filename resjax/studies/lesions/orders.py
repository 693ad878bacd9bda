"""Orders of units for ``reorder``: random swaps, shuffles, and how far they are from the true order.

The first draws of a random generator are the same however many there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

Classes = Sequence[np.ndarray]
"""The numbers of the units of each class, in order; together 0, 1, … n − 1 (``Network.classes``)."""


def kendall_tau(orders: np.ndarray, classes: Classes | None = None) -> np.ndarray:
    """Rank correlation of permutations int [m, n] with 0, 1, … n − 1 (Kendall 1938): [m]; 1 where n = 1.

    Args:
      orders: each permutes units within their classes.
      classes: only pairs of one class count as wrong; None counts all pairs.
    """
    n, wrong = orders.shape[-1], np.zeros(len(orders), int)
    for own in [np.arange(n)] if classes is None else classes:
        before, after = own[np.stack(np.triu_indices(len(own), 1))]
        wrong += (orders[:, before] > orders[:, after]).sum(1)
    return 1 - 4 * wrong / max(n * (n - 1), 1)


def neighbour_swaps(classes: Classes) -> np.ndarray:
    """Every swap of two neighbours of a class: int [orders, n]."""
    pairs = [pair for own in classes for pair in itertools.pairwise(own)]
    orders = _true(classes, len(pairs))
    for order, (i, j) in zip(orders, pairs, strict=True):
        order[[i, j]] = j, i
    return orders


def layer_swaps(layers: Sequence[np.ndarray], parts: Sequence[str]) -> np.ndarray:
    """Every swap of two neighbouring layers of several units each: int [orders, n].

    Args:
      layers: the units of each layer, in order (``periods.layers_of``).
      parts: of each unit (``UnitInfo.part``); only layers of the same parts change places.
    """
    orders = []
    for one, other in itertools.pairwise(layers):
        if len(one) > 1 and [parts[u] for u in one] == [parts[u] for u in other]:
            order = np.arange(len(parts))
            order[one], order[other] = other, one
            orders.append(order)
    return np.array(orders, int).reshape(-1, len(parts))


def swapped(classes: Classes, k: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """k random pairs of one class swapped, one after the other: int [draws, n]."""
    pairs = np.concatenate([own[np.stack(np.triu_indices(len(own), 1), 1)] for own in classes])
    orders = _true(classes, draws)
    for order in orders:
        for i, j in pairs[rng.integers(len(pairs), size=k)]:
            order[[i, j]] = order[[j, i]]
    return orders


def shuffled(classes: Classes, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Every class in random order: int [draws, n]."""
    orders = _true(classes, draws)
    for order in orders:
        for own in classes:
            order[own] = rng.permutation(own)
    return orders


def reverse(classes: Classes) -> np.ndarray:
    """Every class reversed: int [1, n]."""
    orders = _true(classes, 1)
    for own in classes:
        orders[0, own] = own[::-1]
    return orders


def _true(classes: Classes, count: int) -> np.ndarray:
    """``count`` times the true order."""
    return np.tile(np.arange(sum(map(len, classes))), (count, 1))
