"""Compares the ratios of several networks with 1, for a headline."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

# Ratios within this factor of one another, or of 1, are called alike.
ALIKE = 2.0


def compared(
    ratios: Mapping[str, float], told: Callable[[str], str], alike: str, apart: str, opposite: str
) -> str | None:
    """The clause on the ratios {label: ratio}; None for a single ratio, or if none is finite and above 0.

    Args:
      told: label → its ratio in words.
      alike: for ratios that are all within ``ALIKE`` of one another.
      apart: for one that is nearer to 1 than another by more than ``ALIKE``. {near} and {far} stand for the
        labels of the nearest and the farthest, {of_near} and {of_far} for their ratios.
      opposite: for ratios on both sides of 1, all about as far from it. {low} and {high} stand for the labels
        of the smallest and the largest, {of_low} and {of_high} for their ratios.
    """
    away = {k: abs(np.log(v)) if v > 0 else np.inf for k, v in ratios.items()}
    near, far = min(away, key=away.__getitem__), max(away, key=away.__getitem__)
    low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    if len(ratios) == 1 or np.isinf(away[near]):
        return None
    if np.isfinite(away[far]) and ratios[high] <= ALIKE * ratios[low]:
        text = alike
    else:
        text = apart if away[far] - away[near] > np.log(ALIKE) else opposite
    labels = {"near": near, "far": far, "low": low, "high": high}
    return text.format(**labels, **{f"of_{end}": told(label) for end, label in labels.items()})
