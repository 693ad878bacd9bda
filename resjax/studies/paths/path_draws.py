"""Norms of random paths relative to the whole gradient, and their means over the draws of each batch."""

from __future__ import annotations

import numpy as np

from resjax.studies.intervals import bootstrap


def relative(norm: np.ndarray, total: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, norm / total, np.nan)


def by_batch(relative: np.ndarray, batches: int | None) -> np.ndarray:
    """[length, batch]; with a single batch [length, draw], because its draws are all that there is."""
    draws = relative.shape[1]
    count = draws if batches in (None, 1) else min(batches or draws, draws)
    return np.stack([relative[:, first::count].mean(1) for first in range(count)], axis=1)


def median_interval(relative: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[end, length]: bootstrap over batches of the median over draws."""
    if count == relative.shape[1]:
        return np.stack(bootstrap(relative, np.median, seed=seed))

    def median(chosen: np.ndarray, axis: int) -> np.ndarray:
        return np.median(np.concatenate([relative[:, b::count] for b in chosen.astype(int)], axis=1), axis=1)

    return np.stack(bootstrap(np.arange(count), median, seed=seed))
