"""Single deletions: units that cost just one point, and just more; shares of 10 and 50 % that may go."""

import numpy as np

from resjax.studies.lesions.lesion import DeleteEach


def result(error, intact=0.125, classes=10, left_out=(), residual=True):
    n = len(error)
    error = np.array(error, float)
    names = tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(n))
    can_go = np.array([name not in left_out for name in names])
    return DeleteEach(
        unit=names,
        residual=np.full(n, residual),
        error=np.where(can_go, error, np.nan),
        loss=np.where(can_go, 3 * error, np.nan),
        kl=np.where(can_go, error**2, np.nan),
        agreement=np.where(can_go, 1 - error / 2, np.nan),
        class_error=None,
        left_out=dict.fromkeys(left_out, "no shortcut, and its shapes differ"),
        intact_error=intact,
        intact_loss=0.25,
        num_examples=400,
        num_classes=classes,
        unit_evaluations=n,
        choices={"BatchNorm": "running statistics"},
    )


SPARE = result([0.71, 0.135, 0.1351, 0.11, 0.126, 0.3])  # 3 of 6 may go: half
CASES = {
    "spare, at the half": {"deep": SPARE},
    "mixed, just below the half": {"deep": result([0.71, 0.135, 0.1351, 0.11, 0.136, 0.3])},
    "needed, one of ten": {"flat": result([0.135, *np.linspace(0.2, 0.85, 9)], residual=False)},
    "mixed, one of nine": {"flat": result([0.135, *np.linspace(0.2, 0.85, 8)])},
    "both": {"deep": SPARE, "flat": result(np.linspace(0.5, 0.9, 5), left_out=["stage1/unit2"])},
    "learned just enough": {"deep": result([0.8, 0.72, 0.725], intact=0.72)},
    "learned too little, two classes": {"deep": result([0.45, 0.43], intact=0.41, classes=2)},
    "deletions help": {"deep": result([0.1, 0.11, 0.114, 0.3, 0.09])},
    "more than six harmful": {"deep": result([*np.linspace(0.9, 0.2, 8), *[0.12] * 8])},
}
