"""Summary of random draws for each number of changes: the median, its interval, the quartiles, and a
curve."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resjax.studies import style
from resjax.studies.intervals import LEVEL, bootstrap
from resjax.studies.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Spread(NamedTuple):
    """Distribution over draws, for each amount of change; arrays [amount], the first amount is 0.

    ``low`` and ``high`` are the interval of the median, of 95 % unless another level was asked for
    (percentile bootstrap over draws). They equal the median if all possible draws were made, and are NaN for
    a single draw.
    """

    amount: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    quartiles: np.ndarray
    draws: np.ndarray

    def told(self, i: int, show: Callable[[float], str] = percent) -> str:
        """'41.6 % (25.7 % to 65.9 %)': median ``i`` and its interval; the median alone where it is exact."""
        median, low, high = (show(float(v[i])) for v in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low} to {high})"

    def cells(self, show: Callable[[float], str] = percent) -> list[str]:
        """``told`` of every amount."""
        return [self.told(i, show) for i in range(len(self.amount))]


def spread(
    amount: np.ndarray,
    values: np.ndarray,
    intact: float,
    exact: Collection[int] = (),
    level: float = LEVEL,
) -> Spread:
    """Summarizes draws.

    Args:
      amount: int [draw], 1 or more: how many units were deleted, or pairs swapped.
      values: [draw].
      intact: value of the intact network, which becomes the entry of amount 0.
      exact: amounts for which ``values`` holds all possible draws.
      level: of the intervals of medians.
    """
    amounts = np.unique(amount[amount > 0])
    rows = [(intact, intact, intact, intact, intact, 1.0)]
    for k in amounts.tolist():
        own = values[amount == k]
        median = float(np.median(own))
        low, high = (median, median) if k in exact else (np.nan, np.nan)
        if k not in exact and len(own) > 1:
            low, high = _interval_of_median(tuple(own.tolist()), level)
        rows.append((median, low, high, *np.quantile(own, (0.25, 0.75)).tolist(), len(own)))
    median, low, high, lower, upper, draws = np.array(rows).T
    quartiles = np.stack([lower, upper], axis=1)
    return Spread(np.append(0, amounts), median, low, high, quartiles, draws.astype(int))


@functools.lru_cache(maxsize=4096)  # figure, finding and table of a report need the same intervals
def _interval_of_median(values: tuple[float, ...], level: float) -> tuple[float, float]:
    # As many resamples lie beyond the ends at every level.
    resamples = round(1000 * (1 - LEVEL) / (1 - level))
    low, high = bootstrap(np.array(values), np.median, level=level, resamples=resamples)
    return float(low), float(high)


def intact_value(result: Any, what: str) -> float:
    """``error``, ``loss``, ``kl``, ``agreement`` or ``tau`` of the network that a result compares with."""
    of_itself = {"kl": 0.0, "agreement": 1.0, "tau": 1.0}
    return of_itself[what] if what in of_itself else float(getattr(result, f"intact_{what}"))


def draw_spread(ax: Axes, i: int, curve: Spread, x: np.ndarray, label: str) -> None:
    """The curve of run ``i``, in percent, over ``x``."""
    look: dict[str, Any] = {"color": style.color(i)}
    ax.fill_between(x, *(100 * curve.quartiles.T), alpha=0.22, lw=0, **look)
    below, above = curve.median - curve.low, curve.high - curve.median
    bars = 100 * np.nan_to_num(np.stack([below, above]).clip(0))
    ax.errorbar(x, 100 * curve.median, bars, fmt=f"{style.marker(i)}-", capsize=2.5, label=label, **look)


def style_errors(ax: Axes, chance: float) -> None:
    """The axis of errors in percent, and a line at the chance error."""
    style.draw_chance(ax, chance)
    ax.set(ylabel="error (%)", ylim=(-3, 104))
