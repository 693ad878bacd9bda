"""How random deletions are shown; the numbers are those of ``resjax.studies.lesions.deletions``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resjax.studies.lesions.deletions import Deletions
from resjax.studies.lesions.lesion_shown import LEARNED
from resjax.studies.run import Run
from resjax.studies.spread import Spread
from resjax.studies.words import capital, join, percent

Results = Mapping[str, Deletions]

# The error "rises smoothly" where no deleted unit adds more and the medians are in order.
STEP, IN_ORDER = 0.15, 0.95
BRACKETS = (
    "In brackets: the 95 % interval of the median over other draws. A step between two measured numbers is "
    "seen only as their mean slope."
)


def unsuited(run: Run) -> str | None:
    """Why nothing can be deleted there, or None."""
    if run.network.deletable(run.variables, run.image_shape).any():
        return None
    return "no unit of this network can be deleted: none has a shortcut or keeps its shape"


def ranked(value: float) -> str:
    """A correlation as text: '0.95'; not a number → '–'."""
    return "–" if np.isnan(value) else f"{value:.2f}"


def untrained(result: Any) -> bool:
    """Whether the network knows too little to lose anything."""
    return bool(result.intact_error > LEARNED * result.chance_error)


def group(results: Mapping[str, Any], verdict: Callable[[Any], str]) -> dict[str, list[str]]:
    """Verdict → labels of those that have it, in order of appearance."""
    groups: dict[str, list[str]] = {}
    for label, result in results.items():
        groups.setdefault(verdict(result), []).append(label)
    return groups


def too_little(labels: list[str]) -> str:
    """What is said of networks that are ``untrained``."""
    return f"there is no verdict on {join(labels)}, which learned too little to lose anything"


def sentence(parts: list[str]) -> str:
    """Clauses as one sentence; none may begin with a label."""
    text = "; ".join(parts)
    return f"{capital(text)}."


def with_interval(curve: Spread, i: int, show: Callable[[float], str] = percent) -> str:
    """'41.6 % (25.7 % to 65.9 %)': the median and its interval."""
    median, low, high = (show(float(v[i])) for v in (curve.median, curve.low, curve.high))
    return median if low == high else f"{median} ({low} to {high})"
