"""Verdicts on a number that is only known within an interval: met, missed, or undecided.

*Question.* A criterion allows a range of values, such as "at most 15 points". The measured value has an
interval. A point estimate inside the range does not show that the true value is inside, and one outside does
not show that it is outside.

*Rule.* The criterion is met if the whole interval lies in the range, missed if the whole interval lies
outside of it, and undecided if the interval crosses an end. With a 95 % interval, a criterion whose true
value lies exactly on an end is met by mistake in at most 2.5 % of all repetitions, and missed by mistake in
as many. A value without an interval (one draw, one seed) is undecided. An exact value, such as a number of
parameters, has an interval of width 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MET, MISSED, UNDECIDED = "met", "missed", "undecided"


def judged(
    low: float,
    high: float,
    *,
    least: float = -np.inf,
    most: float = np.inf,
) -> str:
    """'met', 'missed' or 'undecided': whether a value known within ``low`` … ``high`` lies in a range.

    Args:
      low, high: ends of the interval of the value; NaN where it has none.
      least, most: ends of the allowed range, both included.

    Raises:
      ValueError: an interval or a range whose ends are exchanged.
    """
    if low > high or least > most:
        raise ValueError(f"interval {low} … {high}, allowed {least} … {most}; the lower end comes first")
    if low >= least and high <= most:
        return MET
    if high < least or low > most:
        return MISSED
    return UNDECIDED


def all_of(verdicts: Iterable[str]) -> str:
    """The verdict on "all of these hold": missed if one is missed, met if all are met.

    A true claim of many criteria, each with an interval of 95 %, is missed by mistake more often than in
    2.5 %: for "missed", give each of n criteria an interval of Bonferroni's level, 1 − 0.05/n.
    """
    given = set(verdicts)
    if MISSED in given:
        return MISSED
    return MET if given == {MET} else UNDECIDED
