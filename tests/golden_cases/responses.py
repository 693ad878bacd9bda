"""Layer responses: levels that differ by a factor of 1.1 and just more; residual networks below, above,
among and level with the plain ones; with, without and with some normalization; with intervals, and beside
initialization."""

import dataclasses

import numpy as np

from resjax.studies.units.responses import Responses


def result(std, residual=True, raw=()):
    n = len(std)
    return Responses(
        layer=("stem/conv", *(f"stage1/unit{1 + i // 2}/conv{1 + i % 2}" for i in range(n - 1))),
        normalized=np.array([i not in raw for i in range(n)]),
        std=np.array(std, float),
        residual=residual,
        num_examples=100,
        choices={"BatchNorm": "running statistics"},
    )


def level(middle, residual=True):
    """Of this median, which is not the mean."""
    return result([0.4 * middle, 4.7 * middle, middle], residual)


def beside(r, there):
    """``r`` with intervals that reach a tenth to both sides, beside initialization."""
    return dataclasses.replace(r, interval=r.std[:, None] * [0.9, 1.1], initial=there)


RAW = result([0.7, 0.2, 3.3], raw=range(3))
HALF = result([0.7, 0.2, 1.9, 0.31, 3.3, 0], raw=(2, 4))
CASES = {
    "one, normalized": {"deep": level(0.7)},
    "one, normalized in part": {"deep": HALF},
    "one, raw": {"deep": RAW},
    "alike, both kinds": {"deep": level(1.0), "flat": level(1.1, False)},
    "not alike, just": {"deep": level(1.0), "flat": level(1.1001, False)},
    "alike, one kind": {"deep": level(1.1), "deeper": level(1.0), "deepest": level(1.05)},
    "one kind, just not alike": {"deep": level(1.1001), "deeper": level(1.0)},
    "more strongly": {"a": level(1.5), "p": level(1.2, False)},
    "up to the plain": {
        "a": level(1.0),
        "p": level(2.5, False),
        "b": level(2.0),
        "q": level(2.0, False),
    },
    "from the plain on": {
        "a": level(3.0),
        "p": level(1.0, False),
        "b": level(2.0),
        "q": level(2.0, False),
    },
    "not all normalize": {"deep": HALF, "flat": result([0.3, 8, 0.5], False, raw=range(3))},
    "beside initialization": {"deep": beside(level(0.44), level(1.0))},
    "beside initialization, in part": {"deep": beside(HALF, HALF)},
    "beside initialization, two": {"deep": beside(level(0.44), level(1.0)), "flat": level(2.0, False)},
    "none normalizes": {"deep": RAW, "flat": result([0.9, 0.1, 0.2], False, raw=range(3))},
}
