"""Training curves: close to chance or not, a gap just inside and outside of two standard errors, and half of
the gap there on training data already, or just less.

Groups: Welch's interval of means that are 0.1 apart. With three seeds each, of deviation d in both, it is
0.1 ± 2.776 d √(2/3), so it just contains 0 for d = 0.0442 and just does not for d = 0.0441.
"""

import numpy as np

from resjax.report.seeds import Seeds
from resjax.studies.curves import Curves


def result(train, evaluated, examples=1000, residual=True, steps=(10, 25, 40), **fields):
    """``evaluated`` at steps 5, 25 and 40: before the first record, at one, and at the last."""
    train, evaluated = np.array(train), np.array(evaluated)
    given = {"split": "test", "num_classes": 10, "total_steps": 40, **fields}
    return Curves(
        step=np.array(steps),
        train_loss=3 * train + 0.01,
        train_error=train,
        eval_step=np.array([5, 25, 40]),
        eval_loss=2 * evaluated + 0.02,
        eval_error=evaluated,
        num_examples=examples,
        residual=residual,
        choices={},
        **given,
    )


def ends(train, evaluated, **fields):
    """The last numbers of a curve; the others are those of a slow start."""
    return result([0.85, 0.7, train], [0.9, 0.8, evaluated], **fields)


def seeds(label, train, evaluated, spread, **fields):
    """Three seeds with means ``train`` and ``evaluated``, and a deviation of ``spread`` in both."""
    shifts = (-spread, 0, spread)
    return Seeds({f"{label}/seed{i}": ends(train + d, evaluated + d, **fields) for i, d in enumerate(shifts)})


DEEP = ends(0.11, 0.2, examples=400)
CASES = {
    "one, just learned, goes on": {"deep": ends(0.7, 0.72, total_steps=41_000, examples=12_345)},
    "one, just not learned": {"deep": ends(0.69, 0.7201, steps=(12, 30, 50))},
    "one, just not learned, two classes, holdout": {
        "deep": ends(0.5, 0.4001, num_classes=2, split="holdout")
    },
    "a gap just within noise": {"deep": DEEP, "flat": ends(0.3, 0.3, examples=99)},
    "a gap just beyond noise": {"deep": DEEP, "flat": ends(0.3, 0.3, examples=101)},
    "half of the gap in training": {
        "flat": ends(0.25, 0.5, residual=False),
        "deep": ends(0.125, 0.25),
    },
    "less than half, without shortcuts": {
        "deep": ends(0.249, 0.5),
        "flat": ends(0.125, 0.25, residual=False),
    },
    "best and worst of three": {
        "b": ends(0.3, 0.4, residual=False, split="holdout"),
        "a": ends(0.01, 0.03, split="holdout", examples=3000),
        "c": ends(0.5, 0.45, total_steps=60),
    },
    "equal": {"a": ends(0.1, 0.2), "b": ends(0.1, 0.2)},
    "three seeds": {"deep": seeds("deep", 0.1, 0.2, 0.02)},
    "three seeds, close to chance": {"deep": seeds("deep", 0.7, 0.7201, 0)},
    "a gap just beyond the spread over seeds, in training too": {
        "deep": seeds("deep", 0.1, 0.2, 0.0441),
        "flat": seeds("flat", 0.2, 0.3, 0.0441, residual=False),
    },
    "a gap just within the spread over seeds": {
        "deep": seeds("deep", 0.1, 0.2, 0.0442),
        "flat": seeds("flat", 0.2, 0.3, 0.0442),
    },
    "less than half of the gap in training": {
        "deep": seeds("deep", 0.1, 0.2, 0.01),
        "flat": seeds("flat", 0.11, 0.3, 0.01),
    },
    "training undecided": {"deep": seeds("deep", 0.1, 0.2, 0.03), "flat": seeds("flat", 0.14, 0.3, 0.03)},
    "seeds and a single run": {"deep": seeds("deep", 0.1, 0.2, 0.01), "flat": ends(0.4, 0.5)},
    "three groups, a wider interval for three gaps": {
        "deep": seeds("deep", 0.1, 0.2, 0.04),
        "flat": seeds("flat", 0.2, 0.3, 0.04),
        "middle": seeds("middle", 0.15, 0.25, 0.04),
    },
}
