"""The depth that a curve over k = 0 … n branches or units shows, with an interval over images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from resjax.studies.intervals import LEVEL, wilson
from resjax.studies.verdicts import MAY_GO, spared

if TYPE_CHECKING:
    from resjax.studies.paths.forward_depth import ForwardDepth

CUTS = ("paths", "linearized", "units")
"""The ways of ``forward_depth`` to cut a network to k branches or units."""


class Depth(NamedTuple):
    """A number of branches or units, with its interval over images."""

    value: int
    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.value}" if self.low == self.high else f"{self.value} ({self.low} to {self.high})"


AGREES = 0.99  # share of equal predictions, for the depth by agreement


def depth_of(result: ForwardDepth, cut: str = "paths", by: str = "error") -> Depth:
    """The smallest k from which on the error stays within one point of the intact network's (``by`` =
    'error'), or 99 % of predictions stay the same ('agreement'); what was not measured does not count."""
    holds: tuple[np.ndarray, ...]
    i, images = CUTS.index(cut), result.num_examples
    if by == "agreement":
        share = result.agreement[i]
        low, high = wilson(share, images)
        holds = (share >= AGREES, high >= AGREES, low >= AGREES)
    else:
        lost, rise = result.lost[i], result.error[i] - result.intact_error
        ends = paired(lost, lost - rise, images)
        holds = (spared(result.error[i], result.intact_error), *(end <= MAY_GO for end in ends))
    # All n branches are the network itself.
    value, least, most = (_from(np.append(good[:-1], True)) for good in holds)
    return Depth(value, min(least, value), max(most, value))


def _from(holds: np.ndarray) -> int:
    """The first index from which on everything holds."""
    return int(len(holds) - np.argmin(np.append(holds[::-1], False)))


def paired(lost: np.ndarray, won: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the rise, lost − won, of shares among the same images, each with half an image more
    (Agresti & Min 2005)."""
    more, less = ((images * share + 0.5) / (images + 2) for share in (lost, won))
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((more + less - (more - less) ** 2) / (images + 2))
    return more - less - half, more - less + half
