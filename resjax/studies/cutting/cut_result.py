"""What the study ``cut`` returns, and what follows from its numbers."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from resjax.studies import counts, verdicts
from resjax.studies.cutting.cost import median
from resjax.studies.result import Classified


@dataclasses.dataclass(frozen=True)
class Cut(Classified):
    """Networks without the first k units of the greedy order, for some sizes k; NaN where not measured."""

    unit: tuple[str, ...]  # names of all units in order
    order: Annotated[np.ndarray, "round"]  # int, the units in the order in which they go, counted from 0
    number: Annotated[np.ndarray, "size"]  # int, how many are gone, rising from 0
    pool: int  # how many can go; one unit stays
    error: Annotated[np.ndarray, "size"]  # as cut; share of wrong predictions, 0 … 1, as all errors
    recalibrated: Annotated[np.ndarray, "size"]  # with BatchNorm's statistics re-estimated
    # Share of resampled examples on which the error of ``mended`` rises by at most one point.
    spared: Annotated[np.ndarray, "size"]
    last: Annotated[np.ndarray, "size"]  # the last units are gone instead, mended as ``mended``
    random: Annotated[np.ndarray, "size", "draw"]  # random units are gone instead, likewise
    mapped: Annotated[np.ndarray, "size"]  # linear maps in their place, likewise
    trained: Annotated[np.ndarray, "size", "seed"]  # mended, then trained on
    scratch: Annotated[np.ndarray, "size", "seed"]  # of this depth, trained from random weights
    multiply_adds: Annotated[np.ndarray, "size"]  # of one input
    mapped_multiply_adds: Annotated[np.ndarray, "size"]
    seconds: Annotated[np.ndarray, "size", "turn"]  # of a forward pass of one batch
    mapped_seconds: Annotated[np.ndarray, "size", "turn"]
    map_rank: int
    training: str  # how long networks were trained on
    left_out: dict[str, str]  # {unit: why it can't be deleted}
    num_examples: int  # evaluated
    num_choice_examples: int

    @property
    def intact_error(self) -> float:
        """Error of the whole network with its running statistics, with which all others are compared."""
        return float(self.error[0])

    @property
    def mended(self) -> np.ndarray:
        """[size], errors with re-estimated statistics, or as cut where there are none to re-estimate."""
        return self.error if np.isnan(self.recalibrated).all() else self.recalibrated

    @property
    def found(self) -> int:
        """Index of the largest size up to which no measured one costs more than a point."""
        return before_harm(verdicts.spared(self.mended, self.intact_error))

    @property
    def found_ends(self) -> tuple[int, int]:
        """The interval of ``found`` over examples."""
        ends = counts.ends(before_harm, self.spared)
        assert ends is not None
        return ends

    def time_share(self, seconds: np.ndarray) -> np.ndarray:
        """[3, size], the share of the intact network's time that ``seconds`` are: the median over rounds of
        the ratio of the turns of one round, and the ends of its interval."""
        known = [bool(np.isfinite(row).all()) for row in seconds]
        shares = [
            median(row / self.seconds[0]) if have and row.size > 1 else (np.nan,) * 3
            for row, have in zip(seconds, known, strict=True)
        ]
        return np.array(shares, float).T

    def saved_share(self, products: np.ndarray) -> np.ndarray:
        """[size], the share of the intact network's multiply-adds."""
        return products / self.multiply_adds[0]


def before_harm(harmless: np.ndarray) -> int:
    """Index of the last size before the first that does harm; that of the intact network is the first."""
    return int(np.argmin([*harmless[1:], False]))


def tried_further(found: int, sizes: int, most: int = 3) -> range:
    """Indices of at most ``most`` sizes: those behind ``found``, the first of which costs more than a point;
    where there are fewer, also the ones before them. 0, the intact network, is none of them."""
    end = min(sizes, found + 1 + most)
    return range(max(1, end - most), end)
