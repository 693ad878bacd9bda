"""Training curves: close to chance or not, a gap just inside and outside of two standard errors, and half of
the gap there on training data already, or just less."""

import numpy as np

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
}
