"""Whether the error is proportional to the number of deleted units, and whether single rises add up.

*Question.* "The error is proportional to the number of units deleted" is a statement on the mean over sets
of k units, E(k). It says that E(k) = E(0) + s·k, with one slope s; that line has one parameter, because it
starts at the intact network. Medians cannot show it: where a few units do most of the harm, the median stays
low until half of the sets contain one of them, and then jumps.

*Line.* Least squares of E(k) − E(0) on k, each measured k counted alike, and R² = 1 − Σ(residual²)/Σ(E −
Ē)². An error can't rise beyond chance, so the line is fitted up to the last k whose mean is at most half of
the way from the intact network to chance (``halfway``). ``range`` is the largest k up to which such a line
has R² ≥ 0.95.

*Intervals.* Percentile bootstrap over sets within each size; sizes of which all sets were taken stay as they
are, and a size with one set of several is not used for lines. The interval of R² reaches from the lower to
the upper end of two intervals, the percentile one and the reflected one (``intervals.reflected``). Noise of
the means lowers R², which reflecting corrects; but with few sets the means may by chance look straighter
than they are, which it exaggerates. It is cut off at 1.

*Additive prediction.* If units did harm independently of each other, the rise of a set would be the sum of
its units' single rises, E(S) = E(0) + Σ_{u∈S} (E({u}) − E(0)). Then E(k) would be exactly proportional to k,
with the mean single rise as slope, whichever units do the harm. ``additive`` compares the prediction with
each set of two units or more, by rank.

*The worst units.* A random set of k of n units contains a given unit with probability k/n, which is itself
proportional to k. So a straight line can also come from a few units that break the network alone. Sets
without the worst single units tell: if the rest is proportional too, their means are on a line.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from resjax.studies.intervals import percentiles, reflected
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.ranks import spearman
from resjax.studies.spread import intact_value
from resjax.studies.words import correlation, count, join, percent

FITS = 0.95  # the R² of a line that fits
LEAST = 3  # numbers of deleted units that a line needs, besides 0
MOST_WORST = 3  # units that are called the worst, and at most a quarter of all that can be deleted
RESAMPLES = 1000


class Line(NamedTuple):
    """Means over sets of k units, and the line from the intact network through them."""

    amount: np.ndarray  # int [amount], the first is 0
    mean: np.ndarray  # [amount]
    low: np.ndarray  # [amount], 95 % interval of the mean over sets; NaN for a single set of several
    high: np.ndarray  # [amount]
    up_to: int  # the largest number that the line was fitted to; 0 where there are too few
    slope: float  # rise per deleted unit
    slope_interval: tuple[float, float]
    r2: float
    r2_interval: tuple[float, float]
    range: int  # the largest number up to which a line has R² ≥ 0.95; 0 where none has


class Additive(NamedTuple):
    """Spearman's correlations with the measured value, over sets of two units or more."""

    rank: float  # of the additive prediction
    rank_interval: tuple[float, float]
    number_rank: float  # of the number of units alone
    number_interval: tuple[float, float]


def complete_numbers(result: Deletions) -> list[int]:
    """Numbers of deleted units of which every set was taken."""
    pool, number = len(result.unit) - len(result.left_out), result.number
    return [k for k in np.unique(number).tolist() if math.comb(pool, k) == np.sum(number == k)]


def halfway(result: Deletions) -> int:
    """The last measured number of units before the mean error first is more than half of the way from the
    intact network's to chance; 0 where the first is beyond."""
    number, half = result.number, (result.intact_error + result.chance_error) / 2
    last = 0
    for k in np.unique(number[number > 0]).tolist():
        if _values(result, "error")[number == k].mean() > half:
            break
        last = k
    return last


def line_of(result: Deletions, what: str = "error", rows: np.ndarray | None = None) -> Line:
    """Means of ``error``, ``loss`` or ``kl`` by number, and the line up to ``halfway``.

    Args:
      result: of ``deletions``.
      rows: bool [deletion], the sets that count; None for all.
    """
    number, values, intact = result.number, _values(result, what), intact_value(result, what)
    used = (number > 0) if rows is None else (number > 0) & rows
    amounts, exact = np.unique(number[used]), complete_numbers(result)
    rng, means, made = np.random.default_rng(0), [intact], [np.full(RESAMPLES, intact)]
    for k in amounts.tolist():
        own = values[used & (number == k)]
        drawn = own[rng.integers(0, len(own), (RESAMPLES, len(own)))].mean(1)
        alone = np.full(RESAMPLES, own.mean() if k in exact else math.nan)
        means.append(own.mean())
        made.append(alone if k in exact or len(own) < 2 else drawn)
    amount, mean, resampled = np.append(0, amounts), np.array(means), np.stack(made, -1)
    low, high = percentiles(resampled)
    known = np.isfinite(low)  # a single set of several tells nothing of the mean
    x, y, made_y = amount[known], mean[known], resampled[:, known]
    fits = [j for j in range(LEAST + 1, len(x) + 1) if _fitted(x[:j], y[:j])[1] >= FITS]
    holds, end = int(x[fits[-1] - 1]) if fits else 0, int(np.sum(x <= halfway(result)))
    if end <= LEAST:
        nowhere = (math.nan, math.nan)
        return Line(amount, mean, low, high, 0, math.nan, nowhere, math.nan, nowhere, holds)
    slope, r2 = (float(v) for v in _fitted(x[:end], y[:end]))
    slopes, r2s = _fitted(x[:end], made_y[:, :end])
    around, percentile = percentiles(slopes), percentiles(r2s)
    ends = np.array([*percentile, *reflected(r2, percentile)], float)
    between = (float(ends.min()), min(float(ends.max()), 1.0))  # no R² exceeds 1
    slope_interval = (float(around[0]), float(around[1]))
    return Line(amount, mean, low, high, int(x[end - 1]), slope, slope_interval, r2, between, holds)


def _fitted(amount: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and R² of the line from the first point, for means [..., amount]."""
    rise = mean - mean[..., :1]
    slope = rise @ amount / np.sum(amount**2)
    left = np.sum((rise - slope[..., None] * amount) ** 2, -1)
    whole = np.sum((mean - mean.mean(-1, keepdims=True)) ** 2, -1)
    return slope, 1 - left / np.where(whole > 0, whole, np.nan)


def single_rises(result: Deletions, what: str = "error") -> np.ndarray | None:
    """[unit]: the rise by the deletion of each unit alone, NaN for a unit that can't be deleted; None if not
    every other unit was deleted alone."""
    alone = result.number == 1
    rises = np.full(len(result.unit), np.nan)
    rises[result.deleted[alone].argmax(1)] = _values(result, what)[alone] - intact_value(result, what)
    missing = {name for name, rise in zip(result.unit, rises, strict=True) if np.isnan(rise)}
    return None if missing - set(result.left_out) else rises


def sum_of_rises(result: Deletions, rises: np.ndarray, what: str = "error") -> np.ndarray:
    """[deletion]: the additive prediction of ``what`` from single ``rises`` [unit], not cut off at chance."""
    return np.asarray(intact_value(result, what) + result.deleted @ np.nan_to_num(rises))


def additive(result: Deletions, rises: np.ndarray, what: str = "error") -> Additive:
    """How well ``sum_of_rises`` ranks sets of two units or more, beside the number of units alone."""
    several = result.number > 1
    own = _values(result, what)[several].round(12)  # sums that differ in their last bits are ties
    others = sum_of_rises(result, rises, what)[several].round(12), result.number[several]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, max(len(own), 1), (RESAMPLES // 2, len(own)))
    found: list[Any] = []
    for other in others:
        made = _rank_correlations(other[drawn], own[drawn]) if len(own) > 1 else np.array([math.nan])
        low, high = percentiles(made)  # NaN where a resample holds one size or one value only
        found += [spearman(other, own) if len(own) > 1 else math.nan, (float(low), float(high))]
    return Additive(*found)


def _rank_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each row; NaN where a row is constant."""
    ranks = [stats.rankdata(v, axis=1) for v in (x, y)]
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    size = np.sqrt(np.sum(a**2, 1) * np.sum(b**2, 1))
    return np.asarray(np.sum(a * b, 1) / np.where(size > 0, size, np.nan))


def worst_units(result: Deletions, rises: np.ndarray) -> np.ndarray:
    """int: the units with the largest single rises, the worst first; at most three and a quarter of all that
    can be deleted."""
    count = min(MOST_WORST, (len(result.unit) - len(result.left_out)) // 4)
    return np.argsort(-np.nan_to_num(rises, nan=-np.inf), kind="stable")[:count]


def without_worst(result: Deletions) -> tuple[np.ndarray, Line] | None:
    """The worst single units, and the means of sets without them; None where not all single units were
    deleted, or there are too few units."""
    rises = single_rises(result)
    worst = np.zeros(0, int) if rises is None else worst_units(result, rises)
    spared = np.asarray(~result.deleted[:, worst].any(1))
    if not len(worst) or not (spared & (result.number > 1)).any():
        return None
    return worst, line_of(result, rows=spared)


def _values(result: Deletions, what: str) -> np.ndarray:
    return np.asarray(getattr(result, what), float)


# --- in words ---


def points_each(line: Line) -> str:
    """'3.3 points (2.9 to 3.7)', the slope and its interval."""
    return f"{100 * line.slope:.1f} points ({' to '.join(f'{100 * v:.1f}' for v in line.slope_interval)})"


def _fit(line: Line) -> str:
    """'R² 0.996 (0.990 to 0.998)'."""
    return f"R² {line.r2:.3f} ({line.r2_interval[0]:.3f} to {line.r2_interval[1]:.3f})"


def told_line(label: str, result: Deletions) -> str:
    """The line of mean errors, and that of mean KL."""
    line, kl = line_of(result), line_of(result, "kl")
    if not line.up_to:
        return (
            f"{label}: no line is fitted to the mean errors, because fewer than {LEAST} measured numbers of "
            "units leave the mean within half of the way to chance."
        )
    further = f"A line with R² of {FITS} or more reaches to {line.range} units."
    return (
        f"{label}: up to {line.up_to} units, at most half of the way to chance, the mean error rises by "
        f"{points_each(line)} for each deleted unit, with {_fit(line)}; the mean KL has {_fit(kl)}. "
        f"{further if line.range else f'No line has R² of {FITS} or more.'}"
    )


def told_sums(label: str, result: Deletions, k: int) -> list[str]:
    """The additive prediction and the worst units, at ``k`` deleted units."""
    rises, without = single_rises(result), without_worst(result)
    if rises is None or not (result.number > 1).any():
        return []
    sums, at_k, units = additive(result, rises), result.number == k, count(k, "unit")
    own, number = (
        correlation(rank) + (f" ({' to '.join(map(correlation, ends))})" if np.isfinite(ends).all() else "")
        for rank, ends in ((sums.rank, sums.rank_interval), (sums.number_rank, sums.number_interval))
    )
    predicted = percent(sum_of_rises(result, rises)[at_k].mean())
    single, mean = f"{100 * np.nanmean(rises):.1f} points", percent(result.error[at_k].mean())
    found = [
        f"{label}: a single deletion costs {single} in the mean. With {units} deleted, the sum of single "
        f"rises predicts {predicted}, and the mean is {mean}. Rank correlations with the error, over sets of "
        f"two units or more: {own} of this prediction, {number} of the number of units."
    ]
    if without is None:
        return found
    worst, line = without
    hit = np.asarray(result.deleted[:, worst].any(1))
    names = join([f"{result.unit[u]} ({percent(rises[u] + result.intact_error)})" for u in worst])
    text = f"{label}: the worst single deletions are {names}."
    if (at_k & hit).any() and (at_k & ~hit).any():
        free, broken = (
            f"{percent(float(np.median(result.error[side])))} ({count(int(side.sum()), 'set')})"
            for side in (at_k & ~hit, at_k & hit)
        )
        text += (
            f" With {units} deleted, the median is {free} without them, {broken} with one of them or more."
        )
    if line.up_to:
        text += f" The line of sets without them: {points_each(line)} for each unit, {_fit(line)}."
    return [*found, text]
