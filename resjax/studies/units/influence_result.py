"""The result of ``influence``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from resjax.studies.result import Compared

SCORES = ("influence", "distance", "size", "novelty")
DAMAGES = ("loss", "error")


@dataclasses.dataclass(frozen=True)
class Influence(Compared):
    """Scores of each run of units from ``first`` to ``last``, and the network without it; NaN where a run was
    not measured, and below the diagonal."""

    unit: tuple[str, ...]  # names of all units in order, on the axes first and last
    kind: tuple[str, ...]  # of each, the group of its stack, such as 'attention' or 'mlp'; '' without
    score: tuple[str, ...]  # SCORES
    value: Annotated[np.ndarray, "score", "first", "last"]  # mean over examples
    low: Annotated[np.ndarray, "score", "first", "last"]  # ends of its 95 % interval over examples
    high: Annotated[np.ndarray, "score", "first", "last"]
    loss: Annotated[np.ndarray, "first", "last"]  # mean, without the run
    error: Annotated[np.ndarray, "first", "last"]  # share of wrong predictions without it, 0 … 1
    length: Annotated[np.ndarray, "length"]  # int, units in the runs that were deleted
    damage: tuple[str, ...]  # DAMAGES
    rho: Annotated[np.ndarray, "damage", "length", "score"]  # Spearman's ρ over the runs of one length
    rho_low: Annotated[np.ndarray, "damage", "length", "score"]  # ends of its 95 % interval over units
    rho_high: Annotated[np.ndarray, "damage", "length", "score"]
    left_out: dict[str, str]  # {unit: why it can't be deleted}

    def of(self, score: str, length: int = 1) -> np.ndarray:
        """[first]: one of ``score`` for the runs of a length."""
        return np.diagonal(self.value[self.score.index(score)], length - 1)
