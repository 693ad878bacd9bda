"""How the ratios of several networks lie around 1: what a headline that compares them can say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# Ratios within this factor of one another, or of 1, are called alike.
ALIKE = 2.0


class Places(NamedTuple):
    """Labels of networks, and in one word how their ratios compare.

    Attributes:
      verdict: 'none', no ratio is finite and above 0; 'alike', all within ``ALIKE`` of one another;
        'apart', one is nearer to 1 than another by more than ``ALIKE``; 'opposite', all as far from 1, on
        both sides.
      near, far: of the ratio that is nearest to 1, and farthest from it.
      low, high: of the smallest and of the largest.
    """

    verdict: str
    near: str
    far: str
    low: str
    high: str


def places(ratios: Mapping[str, float]) -> Places:
    """Compares ratios {label: ratio}, one or more."""
    away = {k: abs(np.log(v)) if v > 0 else np.inf for k, v in ratios.items()}
    near, far = min(away, key=away.__getitem__), max(away, key=away.__getitem__)
    low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    if np.isinf(away[near]):
        verdict = "none"
    elif np.isfinite(away[far]) and ratios[high] <= ALIKE * ratios[low]:
        verdict = "alike"
    elif away[far] - away[near] > np.log(ALIKE):
        verdict = "apart"
    else:
        verdict = "opposite"
    return Places(verdict, near, far, low, high)
