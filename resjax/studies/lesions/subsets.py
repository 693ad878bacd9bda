"""Which sets of units to delete: the units that can be deleted, random sets, all pairs, runs of neighbours.

``deletions`` measures the remaining network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from resjax.network import Network, Variables
from resjax.network.example import one_example
from resjax.network.refusal import Refusal
from resjax.studies.examples import checked_inputs, tracing

_STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500)


def candidates(
    network: Network, variables: Variables, images: Any, *, transitions: bool = True
) -> tuple[np.ndarray, dict[str, str]]:
    """bool [units], which units can be deleted on these inputs, and {name: reason} of the others.

    Only shapes are evaluated. Without ``transitions``, units that change the shape are excluded.

    Raises:
      ValueError: if the images have a wrong shape, or no unit can be deleted.
    """
    images = checked_inputs(network, images)
    with tracing(images):
        reasons = why_not(network, network.deletable(variables, images))
    if not transitions:
        x = one_example(images)
        taps = jax.eval_shape(lambda v, x: network.apply(v, x, tap=lambda p: (p.x, p.y)).taps, variables, x)
        for unit in network.units:
            before, behind = taps[unit.stack.name]
            if before.shape != behind.shape:
                reasons.setdefault(unit.name, "changes the shape, and such units were excluded")
    allowed = np.array([unit.name not in reasons for unit in network.units], bool)
    if not allowed.any():
        raise Refusal(
            f"none of the {network.num_units} units can be deleted: a unit without a shortcut can be deleted "
            "only where its input and output have one shape"
        )
    return allowed, reasons


def why_not(network: Network, can_go: np.ndarray) -> dict[str, str]:
    """{name: reason} of the units that can't be deleted."""
    reason = "no shortcut, and its input and output differ in shape"
    return {u.name: reason for u, can in zip(network.units, can_go, strict=True) if not can}


def default_numbers(n: int) -> tuple[int, ...]:
    """1, 2, 3, 5, 7, 10, 15, 20, 30, … up to n, and n itself."""
    return tuple(sorted({k for k in _STEPS if k < n} | {n}))


def random_subsets(allowed: np.ndarray, ks: Sequence[int], draws: int, seed: int) -> np.ndarray:
    """``draws`` different random subsets of each size, or all if there are no more: bool [subset, unit].

    Args:
      allowed: bool [units], the units that may be in a subset.
      ks: sizes. Each has its own random numbers, so its subsets do not depend on the other sizes.

    Raises:
      ValueError: for no size, for a size below 0 or above the number of allowed units, and for no draw.
    """
    pool = np.flatnonzero(allowed)
    wrong = sorted(k for k in ks if not 0 <= k <= len(pool))
    if wrong or not len(ks) or draws < 1:
        raise ValueError(
            f"ks={tuple(ks)}, draws={draws}; allowed: one or more sizes from 0 to the {len(pool)} units "
            "that can be deleted, and 1 draw or more"
        )
    subsets = []
    for k in sorted(set(ks)):
        if math.comb(len(pool), k) <= draws:
            subsets += list(itertools.combinations(pool.tolist(), k))
            continue
        rng = np.random.default_rng((seed, k))
        subsets += _different((rng.permutation(pool)[:k] for _ in itertools.count()), draws)
    return _as_mask(subsets, len(allowed))


def random_halves(allowed: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """``draws`` different random subsets that hold each allowed unit with probability ½, or all where there
    are no more: bool [subset, unit]."""
    pool = np.flatnonzero(allowed)
    if 2 ** len(pool) <= draws:
        every = (itertools.combinations(pool.tolist(), k) for k in range(len(pool) + 1))
        return _as_mask(list(itertools.chain(*every)), len(allowed))
    # ``random_subsets`` uses this seed for no size.
    rng = np.random.default_rng((seed, len(pool) + 1))
    drawn = (pool[rng.random(len(pool)) < 0.5] for _ in itertools.count())
    return _as_mask(_different(drawn, draws), len(allowed))


def _different(drawn: Iterator[np.ndarray], count: int) -> list[tuple[int, ...]]:
    """The first ``count`` different sets."""
    found: dict[tuple[int, ...], None] = {}  # keeps their order
    while len(found) < count:
        found[tuple(np.sort(next(drawn)).tolist())] = None
    return list(found)


def pairs_and_runs(allowed: np.ndarray) -> np.ndarray:
    """Every allowed unit alone, every pair, and every run of consecutive units: bool [subset, unit]."""
    pool, n = np.flatnonzero(allowed).tolist(), len(allowed)
    runs = [range(i, j + 1) for i in range(n) for j in range(i, n) if allowed[i : j + 1].all()]
    subsets = [*((i,) for i in pool), *itertools.combinations(pool, 2), *map(tuple, runs)]
    return _as_mask(list(dict.fromkeys(subsets)), n)


def _as_mask(subsets: Sequence[tuple[int, ...]], n: int) -> np.ndarray:
    mask = np.zeros((len(subsets), n), bool)
    for row, units in enumerate(subsets):
        mask[row, list(units)] = True
    return mask
