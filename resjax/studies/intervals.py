"""Confidence intervals: of statistics of random draws, of means, and of a counted error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

LEVEL = 0.95
FEW = 20
TOGETHER = 2**20  # numbers of resampled draws at a time


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
    # All at once would need values × resamples numbers in memory; one at a time, most of the time of a median
    # would be its start.
    if statistic is np.median:
        step = max(1, TOGETHER // max(1, values.size))
        parts = [np.median(values[..., rows[i : i + step]], axis=-1) for i in range(0, resamples, step)]
        return percentiles(np.moveaxis(np.concatenate(parts, axis=-1), -1, 0), level)
    return percentiles(np.stack([statistic(values[..., row], axis=-1) for row in rows]), level)


def percentiles(made: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Ends [...] of the percentile interval of resampled values [resample, ...]; NaN where any is missing."""
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

    Use it for statistics that noise biases and that are no smooth function of a mean, which has the
    ``jackknife``. Resampled draws contain the noise twice, so their percentiles lie too low by about the bias
    of the estimate. Reflecting the percentiles at the estimate corrects for that. The estimate itself can lie
    outside the interval.
    """
    low, high = ends
    return 2 * estimate - high, 2 * estimate - low


def jackknife(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray | float], level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Jackknife interval (Tukey 1958) of a smooth function of a mean over the last axis.

    Of n draws, the pseudo-value of draw i is n·θ − (n − 1)·θᵢ, where θᵢ leaves draw i out. Pseudo-values are
    treated as n draws of θ: their mean is θ without its bias of order 1/n, and Student's t gives the
    interval. With few draws it is wider than percentiles of the bootstrap, which are too narrow; and it holds
    true values such as R² = 1, which noise can only miss from below.

    Args:
      values: [..., draws], two draws or more.
      statistic: mean over draws [...] → array or number.
      level: of the interval.

    Returns:
      Lower and upper ends, each shaped like the statistic. They may lie outside the statistic's range.

    Raises:
      ValueError: fewer than two draws.
    """
    values = np.asarray(values, float)
    draws = values.shape[-1]
    if draws < 2:
        raise ValueError(f"{draws} draw has no interval; use 2 or more")
    whole, mean = np.asarray(statistic(values.mean(-1))), values.mean(-1)
    rest = (mean - values[..., i] / draws for i in range(draws))
    without = np.stack([np.asarray(statistic(part * draws / (draws - 1))) for part in rest])
    return of_mean(draws * whole - (draws - 1) * without, 0, level)


def of_mean(values: np.ndarray, axis: int, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Student's t interval of the mean over ``axis``, such as batches; NaN if ``axis`` has length 1.

    The mean weighs all values alike. Values that differ by orders of magnitude, such as norms, should be
    made comparable first (shares, logarithms): the interval of a mean that a few values decide is too narrow.
    """
    values = np.asarray(values, float)
    count = values.shape[axis]
    mean = values.mean(axis)
    if count < 2:
        nowhere = np.full(mean.shape, np.nan)
        return nowhere, nowhere
    return student(mean, values.std(axis, ddof=1) / np.sqrt(count), count - 1, level)


def of_positive_mean(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """As ``of_mean`` for positive values with a long tail, such as norms: Student's t interval of the
    logarithm of the mean, whose standard error is that of the mean divided by the mean (delta method).

    It reaches farther up than down and never to 0. Of 30 log-normal values with σ = 1.2 it holds the true
    mean in 88 % of cases; the symmetric interval in 85 %, the percentile bootstrap in 87 %; of 5 in 87, 78
    and 66 %.
    """
    mean = np.mean(values, axis)
    low, high = of_mean(values, axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        stretch = np.exp((high - low) / 2 / mean)
        return np.where(mean > 0, mean / stretch, low), np.where(mean > 0, mean * stretch, high)


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
