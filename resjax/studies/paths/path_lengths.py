"""Arithmetic of path lengths: numbers of paths, and statistics of weights over lengths.

``path_counts`` explains the closed forms. A network has r residual units, which a path crosses by the
shortcut or through the branch, and p plain units, which every path crosses through the branch.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from resjax.network import Network
from resjax.studies.intervals import LEVEL

# The attenuation is fitted on lengths up to this share of the residual units.
FITTED = 40 / 54


def path_lengths(residual: int, plain: int = 0) -> np.ndarray:
    """int [length]: the lengths that paths can have, ``plain`` … ``plain + residual``."""
    if residual < 0 or plain < 0 or residual + plain < 1:
        raise ValueError(f"residual={residual}, plain={plain}; allowed: 0 or more, 1 unit in all")
    return np.arange(plain, plain + residual + 1)


def path_shares(residual: int, plain: int = 0) -> np.ndarray:
    """[length]: the share of all paths that have each of the ``path_lengths``; sums to 1."""
    lengths = path_lengths(residual, plain)
    return np.array([math.comb(residual, int(k) - plain) / 2**residual for k in lengths])


def log_path_counts(residual: int, plain: int = 0) -> np.ndarray:
    """[length]: the natural logarithm of the number of paths of each of the ``path_lengths``."""
    lengths = path_lengths(residual, plain)
    return np.array([math.log(math.comb(residual, int(k) - plain)) for k in lengths])


def surviving_share(residual: int, deleted: int, plain: int = 0) -> np.ndarray:
    """[length]: the share of the paths of each length that avoid ``deleted`` residual units."""
    if not 0 <= deleted <= residual:
        raise ValueError(f"deleted={deleted}; allowed: 0 … {residual}, the residual units")
    through = path_lengths(residual, plain) - plain
    left = residual - deleted
    return np.array([math.comb(left, int(j)) / math.comb(residual, int(j)) for j in through])


def attenuated_shares(residual: int, g: float, plain: int = 0) -> np.ndarray:
    """[length]: the share of the total gradient if each branch multiplies a path's gradient by ``g``."""
    if not g >= 0:
        raise ValueError(f"attenuation g={g}; allowed: 0 or more")
    through = path_lengths(residual, plain) - plain
    # scipy's binomial overflows for g near 0.
    log = log_path_counts(residual, plain) + special.xlogy(through, g) - residual * np.log1p(g)
    return np.exp(log)


def central_range(lengths: np.ndarray, weights: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """First and last length of the central ``level`` of non-negative weights, both included; NaN if all
    are 0 or one is not finite."""
    total = np.sum(weights)
    if not (np.isfinite(total) and total > 0):
        return math.nan, math.nan
    below, tail = np.cumsum(weights) / total, (1 - level) / 2
    # Tolerance for shares that equal the tail up to rounding.
    low, high = (int(np.argmax(below >= edge - 1e-12)) for edge in (tail, 1 - tail))
    return float(lengths[low]), float(lengths[high])


def central_range_interval(lengths: np.ndarray, below: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[end, 2]: intervals of the two lengths of ``central_range``, from those of the shares up to each
    length.

    A length may be the first that reaches 2.5 % (or 97.5 %) if the upper end at this length reaches it, and
    the lower end at no smaller length does. NaN where an end is NaN.

    Args:
      below: lower and upper ends [length] of the interval of the share of the weights up to each length.
    """
    low, high = below
    if not np.isfinite([low, high]).all():
        return np.full((2, 2), math.nan)

    def first(ends: np.ndarray, edge: float) -> float:
        reached = np.append(ends[:-1] >= edge - 1e-12, True)  # all weights lie up to the last length
        return float(lengths[np.argmax(reached)])

    edges = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return np.array([[first(ends, edge) for edge in edges] for ends in (high, low)])


def share_between(residual: int, low: float, high: float, plain: int = 0) -> float:
    """The share of all paths whose length is ``low`` … ``high``, both included; NaN for a NaN end."""
    if np.isnan([low, high]).any():
        return math.nan
    lengths = path_lengths(residual, plain).tolist()
    return sum(math.comb(residual, k - plain) for k in lengths if low <= k <= high) / 2**residual


def count_units(network: Network) -> tuple[int, int]:
    """How many residual and how many plain units a network has."""
    residual = int(network.residual.sum())
    return residual, network.num_units - residual


def shares(values: np.ndarray) -> np.ndarray:
    """[..., length] divided by their sum; NaN where the sum is 0 or not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return values / values.sum(-1, keepdims=True)


def fit_attenuation(
    mean: np.ndarray, length: np.ndarray, num_residual: int, num_plain: int
) -> tuple[float, float]:
    """g and R² of the least-squares line log(mean) = a + k·log(g), for lengths k from 1 to ``FITTED``.

    NaN where fewer than three of the means are positive and finite.
    """
    last = num_plain + math.ceil(FITTED * num_residual)
    use = (length > num_plain) & (length <= last) & np.isfinite(mean) & (mean > 0)
    if use.sum() < 3:
        return math.nan, math.nan
    k, y = length[use].astype(float), np.log(mean[use])
    slope, offset = np.polyfit(k, y, 1)
    spread = np.sum((y - y.mean()) ** 2)
    rest = np.sum((y - offset - slope * k) ** 2)
    flat = spread < 1e-20  # then the residuals are rounding errors
    return float(np.exp(slope)), 1.0 if flat else float(1 - rest / spread)


def totals(mean: np.ndarray, num_residual: int, num_plain: int) -> np.ndarray:
    """Number of paths × mean norm [..., length], divided by the sum; NaN where all means are 0."""
    logs = log_path_counts(num_residual, num_plain)
    # Numbers of paths overflow in deep networks, so they are relative to the most frequent length.
    return shares(np.exp(logs - logs.max()) * mean)
