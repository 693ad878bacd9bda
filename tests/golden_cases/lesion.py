"""Single deletions: units that cost just one point, and just more; shares of 10 and 50 % that may go; errors
just at and beyond 80 % of chance; a median that falls by just one point, and by more."""

import dataclasses

import numpy as np

from resjax.studies.lesions.lesion import Lesion


def result(error, intact=0.125, classes=10, left_out=(), residual=True):
    n = len(error)
    error = np.array(error, float)
    names = tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(n))
    reasons = dict(zip(left_out, ("no shortcut, and its shapes differ", "its head"), strict=False))
    can_go = np.array([name not in reasons for name in names])
    return Lesion(
        unit=names,
        residual=np.full(n, residual),
        error=np.where(can_go, error, np.nan),
        loss=np.where(can_go, 3 * error, np.nan),
        kl=np.where(can_go, error**2, np.nan),
        agreement=np.where(can_go, 1 - error / 2, np.nan),
        class_error=None,
        left_out=reasons,
        intact_error=intact,
        intact_loss=0.25,
        num_examples=400,
        num_classes=classes,
        unit_evaluations=n,
        choices={"BatchNorm": "running statistics"},
    )


SPARE = result([0.71, 0.135, 0.1351, 0.11, 0.126, 0.3])  # 3 of 6 may go: half
FLAT = result([0.9, 0.62, 0.5, 0.85, 0.8], left_out=["stage1/unit2", "stage2/unit1"])


def sure(made, spared):
    """With the share of resamples in which each unit may go."""
    return dataclasses.replace(made, spared=np.where(np.isnan(made.error), np.nan, spared))


# Kinds of units that alternate: one kind costs nothing, the other much; the last unit has no such kind.
KINDS = dataclasses.replace(
    sure(result([0.13, 0.5, 0.126, 0.71, 0.134, 0.62, 0.13]), [1.0, 0.0, 0.97, 0.0, 0.3, 0.06, 0.9]),
    kind=("attention", "mlp") * 3 + ("",),
)
CASES = {
    "kinds that alternate": {"deep": KINDS, "spare": SPARE},
    "an interval from the half on, and from just below; up to a tenth, and just above": {
        "most": sure(SPARE, [0.0, 0.95, 0.96, 1.0, 0.94, 0.05]),
        "not sure": sure(SPARE, [0.0, 0.95, 0.9, 1.0, 0.94, 0.04]),
        "hardly": sure(result([0.2, 0.135, *np.geomspace(0.85, 0.21, 8)]), [0.0, 0.3, *[0.04] * 8]),
        "some": sure(result([0.2, 0.135, *np.geomspace(0.85, 0.21, 8)]), [0.05, 0.3, *[0.04] * 8]),
        "left out": sure(FLAT, [0.0, 1.0, 0.02, 1.0, 0.0]),
    },
    "spare, at the half": {"deep": SPARE},
    "hardly, at one of ten": {"flat": result([0.2, 0.135, *np.geomspace(0.85, 0.21, 8)])},
    "mixed, just below the half, and at one of nine": {
        "deep": result([0.71, 0.135, 0.1351, 0.11, 0.136, 0.3, 0.4, 0.12, 0.44, 0.13, 0.127]),
        "flat": result([0.2, 0.135, *np.geomspace(0.85, 0.21, 7)]),
    },
    "spare and hardly": {"deep": SPARE, "flat": FLAT},
    "learned too little": {"new": result([0.8, 0.72, 0.725], intact=0.721)},
    "every verdict, and each twice": {
        "all may go": result([0.13, 0.129, 0.134]),
        "just learned": result([0.8, 0.72, 0.725], intact=0.72),
        "flat": FLAT,
        "short": result([0.4, 0.7]),
        "thin": result([0.13, 0.5, 0.7]),
        "small": result([0.6, 0.128, 0.55, 0.7], left_out=["stage1/unit1"]),
        "new": result([0.81, 0.79], intact=0.721),
        "of two": result([0.45, 0.43], intact=0.401, classes=2),
    },
    "deletions help, by more than a point and by less": {
        "helped": result([0.1, 0.11, 0.1149, 0.3, 0.118]),
        "little": result([0.1, 0.11, 0.1151, 0.3, 0.118]),
    },
    "six harmful, and seven": {
        "six": result(
            [0.2, 0.5, 0.9, 0.7, 0.2, 0.31, 0.4, *np.linspace(0.11, 0.13, 6)],
            left_out=["stage1/unit2"],
        ),
        "seven": result([0.2, 0.5, 0.9, 0.7, 0.2, 0.31, 0.4, *np.linspace(0.11, 0.13, 7)]),
    },
}
