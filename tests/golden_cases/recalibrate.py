"""Re-estimated statistics: half of the damage taken away, and just less; intervals of the share that end at
a tenth and at minus a tenth, and just beside; units that cost one point and just more; an intact network that
new statistics make worse, better and neither beyond its interval. Older results have no interval."""

import dataclasses

import numpy as np

from resjax.studies.lesions.recalibrate import Recalibrated


def result(old, new, intact=(0.125, 0.1375), classes=10):
    """NaN where a unit can't go."""
    error = np.array([old, new], float)
    names = tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(len(old)))
    left = [name for name, value in zip(names, old, strict=True) if np.isnan(value)]
    return Recalibrated(
        unit=names,
        residual=np.ones(len(old), bool),
        statistics=("running", "re-estimated"),
        error=error,
        loss=3 * error,
        kl=error**2,
        agreement=1 - error / 2,
        intact_error=np.array(intact, float),
        intact_loss=2 * np.array(intact, float),
        left_out=dict.fromkeys(left, "no shortcut, and its shapes differ"),
        num_examples=400,
        num_reference=256,
        num_classes=classes,
        choices={"further training": "none"},
    )


def sure(made, intact, removed, spared):
    """With intervals: of the intact network's change and of the share removed, and how sure it is that each
    unit may go, with running and with new statistics."""
    given = {"intact_change": intact, "removed": removed, "spared": spared}
    return dataclasses.replace(made, **{name: np.array(value) for name, value in given.items()})


# Of the old rises 0.5, 0.25 and 0 (one error falls), new statistics leave so much of the first:
def leaving(first, second=0.0):
    return result([0.625, 0.375, 0.1], [first + 0.1375, second + 0.1375, 0.12])


NAN = np.nan
MOVED = result([0.5, 0.2, 0.135], [0.17, 0.14, 0.18], (0.125, 0.1351))
SPARED = [[0.0, 0.05, 0.7], [0.04, 0.95, 1.0]]
STAYS = [-0.01, 0.02]  # the intact network's change
CASES = {
    "most goes away": {
        "older": result([0.3, 0.925, 0.135, 0.1351, NAN, 0.2], [0.1475, 0.21, 0.1476, 0.1, NAN, 0.14])
    },
    "half goes away, and just less": {
        "half": sure(leaving(0.375), STAYS, [0.4, 0.6], SPARED),
        "less": sure(leaving(0.3788), STAYS, [0.39, 0.59], SPARED),
    },
    "an interval up to a tenth, and just not": {
        "hardly": sure(leaving(0.5, 0.2), STAYS, [-0.1, 0.1], SPARED),
        "just beyond": sure(leaving(0.5, 0.2), STAYS, [-0.1, 0.1001], SPARED),
        "below, just beyond": sure(leaving(0.5, 0.3), STAYS, [-0.1001, 0.1], SPARED),
        "of one side": sure(leaving(0.5, 0.2), STAYS, [0.02, 0.1], SPARED),
        "older": leaving(0.5, 0.1765),
    },
    "an interval from a tenth, and just more": {
        "from it": sure(leaving(0.375), STAYS, [0.1, 0.7], SPARED),
        "more": sure(leaving(0.375), STAYS, [0.1001, 0.7], SPARED),
        "added from it": sure(leaving(0.5, 0.3765), STAYS, [-0.5, -0.1], SPARED),
        "added more": sure(leaving(0.5, 0.3765), STAYS, [-0.5, -0.1001], SPARED),
        "wide around little": sure(leaving(0.5, 0.1765), STAYS, [-0.3, 0.4], SPARED),
    },
    "no deletion harms": {"deep": result([0.1, 0.125, 0.12], [0.3, 0.2, 0.2], (0.125, 0.1))},
    "the intact network gets worse, better, and neither": {
        "worse": sure(MOVED, [0.0001, 0.04], [0.4, 0.9], SPARED),
        "better": sure(MOVED, [-0.03, -0.001], [0.4, 0.9], SPARED),
        "neither": sure(MOVED, [0.0, 0.04], [0.4, 0.9], SPARED),
        "worse, but nothing learned": sure(
            result([0.8, 0.78, 0.74], [0.7, 0.73, 0.71], (0.7201, 0.74)), [0.01, 0.02], [0.1, 0.3], SPARED
        ),
        "worse, and harmless": sure(
            result([0.1, 0.125, 0.12], [0.3, 0.2, 0.2], (0.125, 0.135)), [0.001, 0.02], [np.nan] * 2, SPARED
        ),
    },
    "learned just enough, too little": {
        "enough": result([0.8, 0.74, NAN, NAN], [0.79, 0.75, NAN, NAN], (0.72, 0.73)),
        "too little": result([0.8, 0.78, 0.74], [0.7, 0.73, 0.71], (0.7201, 0.71)),
        "of two": result([0.45, 0.41, 0.5], [0.41, 0.42, 0.4], (0.4001, 0.39), classes=2),
    },
}
