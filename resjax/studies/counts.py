"""How sure a count over units is: "20 of 27 units may go" on these examples, and on others?

The count compares each unit's rise of the error with one percentage point. A rise on N examples has a
standard error of about √(share of changed outcomes ÷ N): on 397 images, a unit that costs 0.5 points and one
that costs 1.5 are hard to tell apart.

*Method.* A paired bootstrap over examples: N examples are drawn with replacement, 2,000 times, and the
changed and the intact network are compared on the same ones. ``spared_share`` is the share of these draws in
which a change costs at most one point. The interval of the count goes from the number of units with a share
of at least 95 % to that of units with a share of at least 5 %: those that may go beyond doubt, and those for
which it can't be excluded.

*Why not the percentiles of the resampled counts.* Noise moves units over the line, mostly from the side where
there are more, so the count is biased, and resampling adds the same noise once more. In simulations of 27
units, percentiles cover the true number in 0 to 100 % of cases, depending on how many units are close to the
line; this interval covers it in 92 to 100 % (``tests/test_counts.py``), and is up to three times as wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resjax.studies.intervals import LEVEL
from resjax.studies.scores import Scores
from resjax.studies.verdicts import spared

RESAMPLES = 2_000
_AT_ONCE = 50
_DIFFERENT = 100  # changes of examples; a metric with more values is resampled for all networks together


def resampled_rises(wrong: np.ndarray, intact: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """Rises of the error on examples drawn with replacement, float [resamples, m], the same examples for all.

    Args:
      wrong: [m, N], the metric of each changed network: whether it is wrong, or how far (or in which share of
        draws).
      intact: [N], that of the network with which they are compared.
      resamples: number of draws of N examples.
    """
    changes, count = (wrong.astype(float) - intact).T, len(intact)
    rng, rises = np.random.default_rng(0), []
    for start in range(0, resamples, _AT_ONCE):
        often = rng.multinomial(count, np.full(count, 1 / count), min(_AT_ONCE, resamples - start))
        rises.append(often @ changes / count)
    return np.concatenate(rises)


def spared_share(wrong: np.ndarray, intact: np.ndarray) -> np.ndarray:
    """[m], the share of resamples in which the error rises by at most one point; NaN where ``wrong`` is.
    Arguments are those of ``resampled_rises``."""
    count, rng = len(intact), np.random.default_rng(0)
    shares, fine = np.full(len(wrong), np.nan), []
    for i, own in enumerate(wrong):
        change, often = np.unique(own.astype(float) - intact, return_counts=True)
        if not np.isfinite(change).all():
            continue
        if len(change) > _DIFFERENT:
            fine.append(i)
            continue
        # A resample of N examples holds a multinomial number of each change: −1, 0 or 1 new error.
        drawn = rng.multinomial(count, often / count, RESAMPLES) @ change
        shares[i] = spared(drawn / count, 0.0).mean()
    if fine:
        shares[fine] = spared(resampled_rises(wrong[fine], intact), 0.0).mean(0)
    return shares


def fields_of(scores: Scores, intact: Scores) -> dict[str, Any]:
    """The fields of a ``Compared`` result from the scores of its networks and of the intact one: their means,
    ``spared``, and what describes the intact network."""
    return {**scores.means, "spared": spared_share(scores.wrong, intact.wrong[0]), **intact.as_intact}


def ends(count: Callable[[np.ndarray], Any], share: np.ndarray | None) -> tuple[int, int] | None:
    """The interval of a count.

    Args:
      count: bool array, shaped like ``share`` → the count, if just these changes cost at most one point.
      share: from ``spared_share``; NaN where a change is impossible; None if it was not measured.
    """
    if share is None:
        return None
    return int(count(share >= LEVEL)), int(count(share >= 1 - LEVEL - 1e-9))


def between(interval: tuple[int, int] | None) -> str:
    """' (17 to 22)', '' for an interval that was not measured."""
    return "" if interval is None else f" ({interval[0]} to {interval[1]})"
