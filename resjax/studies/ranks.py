"""Rank correlation, also of what is left when other quantities are held fixed, and its resamples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

_NOTHING = 1e-9  # a share of the variance of ranks that only rounding leaves


def spearman(x: np.ndarray, y: np.ndarray, given: Sequence[np.ndarray] = ()) -> float:
    """Spearman's ρ of two series of one length, −1 … 1, or the partial one; NaN if either is constant.

    With ``given``, series of the same length, it is the correlation of what a linear fit by the ranks of
    these leaves of the ranks of x and of y (Kendall 1942 for one series; Conover & Iman 1981 for fits to
    ranks). With the covariance matrix C of all ranks that is

        S = C_ab − C_ag C_gg⁻¹ C_gb,  a, b ∈ {x, y};    ρ = S_xy / √(S_xx S_yy).

    A 0/1 series stands for belonging to a group. NaN if the fit leaves nothing of either series, as where one
    rises or falls with the given one without exception: then nothing is known about the rest.
    """
    ranks = stats.rankdata(np.stack([np.asarray(v, float) for v in (x, y, *given)]), axis=-1)
    c = np.atleast_2d(np.cov(ranks))
    left = c[:2, :2] - c[:2, 2:] @ np.linalg.pinv(c[2:, 2:], hermitian=True) @ c[2:, :2]
    if np.any(np.diag(left) <= _NOTHING * np.diag(c)[:2]):
        return float("nan")
    return float(np.clip(left[0, 1] / np.sqrt(left[0, 0] * left[1, 1]), -1, 1))


def spearman_of_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[m]: Spearman's ρ of each row of x with that of y, [m, n] both; NaN where either is constant."""
    a, b = (stats.rankdata(v, axis=-1) - (v.shape[-1] + 1) / 2 for v in (x, y))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return (a * b).sum(-1) / np.where(size > 0, size, np.nan)


def moving_blocks(count: int, length: int, resamples: int, seed: int) -> np.ndarray:
    """int [resample, count]: which of ``count`` values each resample of the moving-block bootstrap holds
    (Künsch 1989). Neighbours are drawn in blocks of ``length``; with 1 it is the ordinary bootstrap."""
    starts = (resamples, -(-count // length))
    drawn = np.random.default_rng(seed).integers(0, count - length + 1, starts)
    return (drawn[..., None] + np.arange(length)).reshape(resamples, -1)[:, :count]
