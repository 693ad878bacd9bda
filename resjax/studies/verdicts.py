"""Thresholds and words that several studies share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resjax.studies.subject import Subject
from resjax.studies.words import join

# A unit "may go" if its deletion raises the error by at most this (Veit et al. 2016: no noticeable change).
MAY_GO = 0.01
# A network whose error exceeds this share of the chance error has learned too little to lose anything.
LEARNED = 0.8
UNTRAINED = "there is no verdict on {}, which learned too little to lose anything"


def spared(error: np.ndarray, intact_error: float | np.ndarray) -> np.ndarray:
    """bool, shaped like ``error``: whether the error rises by at most one percentage point, with a margin for
    rounding. NaN is False."""
    return error <= intact_error + MAY_GO + 1e-9


def untrained(result: Any) -> bool:
    """Whether the network of a result with ``intact_error`` and ``chance_error`` has learned too
    little to lose anything."""
    return bool(result.intact_error > LEARNED * result.chance_error)


def undertrained(result: Any) -> str:
    """Why deletions may lower the error; of BatchNorm only where a choice of the result tells of it."""
    also = ", or BatchNorm's running statistics have not converged" if "BatchNorm" in result.choices else ""
    return f"the network is undertrained{also}"


def num_deletable(run: Subject) -> int:
    """How many units of a run's network can be deleted."""
    return int(run.deletable.sum())


def cannot_delete(run: Subject) -> str | None:
    """Why no unit of the run can be deleted, or None."""
    if num_deletable(run):
        return None
    return "no unit of this network can be deleted: none has a shortcut or keeps its shape"


def left_out(names: Mapping[str, str], what: str = "Never deleted") -> str:
    """' Never deleted: a and b (reason).', or '' where nothing was left out; ``names`` is {unit: reason}."""
    if not names:
        return ""
    return f" {what}: {join(list(names))} ({'; '.join(sorted(set(names.values())))})."
