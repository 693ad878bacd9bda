"""Re-estimated statistics: half, a tenth and minus a tenth of the damage taken away, and just beside; units
that cost one point and just more; an intact network changed by two points, and by just more."""

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


# Of the old rises 0.5, 0.25 and 0 (one error falls), new statistics leave so much of the first:
def leaving(first, second=0.0):
    return result([0.625, 0.375, 0.1], [first + 0.1375, second + 0.1375, 0.12])


NAN = np.nan
CASES = {
    "most goes away": {
        "deep": result([0.3, 0.925, 0.135, 0.1351, NAN, 0.2], [0.1475, 0.21, 0.1476, 0.1, NAN, 0.14])
    },
    "half goes away, and just less": {"half": leaving(0.375), "less": leaving(0.3788)},
    "a tenth goes away, and just less": {
        "more": leaving(0.5, 0.1735),
        "less": leaving(0.5, 0.1765),
    },
    "a tenth is added, and just less": {
        "less": leaving(0.5, 0.3235),
        "more": leaving(0.5, 0.3265),
    },
    "no deletion harms": {"deep": result([0.1, 0.125, 0.12], [0.3, 0.2, 0.2], (0.125, 0.1))},
    "not settled, and just settled": {
        "up": result([0.5, 0.2, 0.14], [0.17, 0.18, 0.19], (0.125, 0.1451)),
        "down": result([0.5, 0.2, 0.14], [0.17, 0.18, 0.19], (0.1451, 0.125)),
        "settled": result([0.5, 0.2, 0.14], [0.17, 0.18, 0.19], (0.125, 0.1449)),
    },
    "learned just enough, too little": {
        "enough": result([0.8, 0.74, NAN, NAN], [0.79, 0.75, NAN, NAN], (0.72, 0.73)),
        "too little": result([0.8, 0.78, 0.74], [0.7, 0.73, 0.71], (0.7201, 0.71)),
        "of two": result([0.45, 0.41, 0.5], [0.41, 0.42, 0.4], (0.4001, 0.39), classes=2),
    },
}
