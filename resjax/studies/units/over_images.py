"""What ``identity`` says of units and stages, and its intervals over images.

Images are resampled with replacement, the same ones for all units (Efron & Tibshirani 1993, §8): units of one
network see the same images, so what is said of several units, such as the share with a negative cosine, needs
the paired resamples. Ends are percentiles of 1,000 resamples. These intervals say how other images of the
same kind would have changed the numbers of *this* network; they say nothing of other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 1000


def averages(of_each: Mapping[str, np.ndarray], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the images that have a value, each counted ``counts`` [resample, N] times: [unit, N] →
    [unit, resample]; NaN where none has."""
    found = {}
    for name, values in of_each.items():
        known = np.isfinite(values)
        total = np.where(known, values, 0).astype(np.float64) @ counts.T
        weight = known.astype(np.float64) @ counts.T
        found[name] = total / np.where(weight > 0, weight, np.nan)
    return found


def statistics(mean: Mapping[str, np.ndarray], stage: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that is said, from means [unit, resample] of what ``additions`` returns.

    By unit: ratio, cosine, novelty, estimation_mean and _std, scale, estimation, bias; by stage: lead and
    remaining; below, of all units.
    """
    deviation = np.sqrt(np.maximum(mean["square"] - mean["estimation"] ** 2, 0))
    scale = np.sqrt(mean["last"])
    return {
        **{name: mean[name] for name in ("ratio", "cosine", "novelty")},
        "estimation_mean": mean["estimation"],
        "estimation_std": deviation,
        "scale": scale,
        "estimation": over(deviation, scale),
        "bias": over(mean["estimation"], deviation),
        "below": below(mean["cosine"]),
        "lead": lead(stage, mean["ratio"]),
        "remaining": remaining(stage, deviation),
    }


def intervals(of_each: Mapping[str, np.ndarray], stage: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """95 % intervals over images [..., end] of everything in ``statistics``; NaN where that is undefined."""
    images = len(next(iter(of_each.values()))[0])
    draw = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    made = statistics(averages(of_each, draw.astype(np.float64)), stage)
    return {name: _percentiles(values) for name, values in made.items()}


def _percentiles(values: np.ndarray) -> np.ndarray:
    """[..., resample] → [..., end]; NaN where a resample has no value."""
    flat = values.reshape(-1, values.shape[-1])
    ends = np.full((2, len(flat)), np.nan)
    known = np.isfinite(flat).all(1)
    ends[:, known] = np.quantile(flat[known], (0.025, 0.975), axis=1)
    return np.moveaxis(ends.reshape(2, *values.shape[:-1]), 0, -1)


def over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a ÷ b; NaN where b is 0."""
    return a / np.where(b == 0, np.nan, b)


def below(cosine: np.ndarray) -> np.ndarray:
    """[unit, …] → […]: share of negative cosines among the units that have one; NaN where none has."""
    known = np.isfinite(cosine).sum(0)
    return over(np.sum(cosine < 0, axis=0), known.astype(float))


def lead(stage: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """[unit, …] → [stage, …]: the ratio of a stage's first unit ÷ the largest of its other units."""
    return _by_stage(stage, ratio, lambda own: over(own[0], own[1:].max(0)))


def remaining(stage: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """[unit, …] → [stage, …]: the mean deviation from a_last of the units between a stage's first and last, ÷
    that of its first.

    Additions of one size in directions of their own leave √((n − i)/(n − 1)) behind unit i of n, on average
    0.71 (n = 3) to 0.67 (many units).
    """
    return _by_stage(stage, deviation, lambda own: over(own[1:-1].mean(0), own[0]))


def _by_stage(stage: np.ndarray, values: np.ndarray, run: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``run`` of the values of each stage with three units or more, NaN for the others."""
    groups = [values[stage == s] for s in np.unique(stage)]
    none = np.full(values.shape[1:], np.nan)
    return np.stack([run(own) if len(own) >= 3 else none for own in groups])
