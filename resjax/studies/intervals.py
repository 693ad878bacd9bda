"""Confidence intervals: of statistics of random draws, of means, and of a counted error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

LEVEL = 0.95
FEW = 20


def bootstrap(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over the last axis (Efron & Tibshirani 1993, §13.3).

    The mean of fewer than 20 draws gets Student's t interval instead: resampled means never leave the range
    of the draws, so with 3, 5 or 8 draws the percentile interval covers the true mean in 76, 85 or 90 % of
    cases instead of 95 %. Intervals of other statistics of few draws are too narrow by a similar amount.

    Args:
      values: [..., draws], two draws or more.
      statistic: (array, axis=) → array, such as ``np.mean`` or ``np.median``.
      level: of the interval.
      resamples: number of resampled sets of draws.
      seed: seed of the resampling.

    Returns:
      Lower and upper ends, each of shape [...].

    Raises:
      ValueError: fewer than two draws.
    """
    values = np.asarray(values, float)
    draws = values.shape[-1]
    if draws < 2:
        raise ValueError(f"{draws} draw has no interval; use 2 or more")
    if statistic is np.mean and draws < FEW:
        error = values.std(-1, ddof=1) / np.sqrt(draws)
        return student(values.mean(-1), error, draws - 1, level)
    rows = np.random.default_rng(seed).integers(0, draws, (resamples, draws))
    # One resample at a time: all at once would need values × resamples numbers in memory.
    made = np.stack([statistic(values[..., row], axis=-1) for row in rows])
    tail = (1 - level) / 2
    low, high = np.quantile(made, (tail, 1 - tail), axis=0)
    return low, high


def student(
    estimate: np.ndarray, error: np.ndarray, degrees: np.ndarray | float, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of an estimate, from its standard error and degrees of freedom."""
    half = stats.t.ppf((1 + level) / 2, degrees) * error
    return estimate - half, estimate + half


def reflected(
    estimate: np.ndarray | float, ends: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Basic bootstrap interval (Davison & Hinkley 1997, §5.2), from the ``ends`` that ``bootstrap`` returns.

    Use it for statistics that noise biases: noise lowers, for example, the R² of a fit to means. Resampled
    means contain the noise twice, so their percentiles lie too low by about the bias of the estimate.
    Reflecting the percentiles at the estimate corrects for that. The estimate itself can lie outside the
    interval.
    """
    low, high = ends
    return 2 * estimate - high, 2 * estimate - low


def of_mean(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of the mean over ``axis``, such as batches; NaN if ``axis`` has length 1."""
    values = np.moveaxis(np.asarray(values, float), axis, -1)
    if values.shape[-1] < 2:
        nowhere = np.full(values.shape[:-1], np.nan)
        return nowhere, nowhere
    return bootstrap(values)


def of_difference(one: np.ndarray, other: np.ndarray, level: float = LEVEL) -> tuple[float, float, float]:
    """mean(one) − mean(other) and the ends of Welch's t interval (1947), for independent samples whose
    variances may differ, of two values or more each."""
    parts = [values.var(ddof=1) / len(values) for values in (one, other)]
    gap, variance = float(one.mean() - other.mean()), sum(parts)
    if not variance:
        return gap, gap, gap
    terms = [part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True)]
    low, high = student(np.array(gap), np.sqrt(variance), variance**2 / sum(terms), level)
    return gap, float(low), float(high)


def wilson(share: np.ndarray | float, count: int, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval (1927) of a share, such as an error, among ``count`` examples."""
    share = np.asarray(share, float)
    z = stats.norm.ppf((1 + level) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
