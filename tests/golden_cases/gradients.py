"""Gradients: first ÷ last layers just within and just beyond a factor of 2, of one network and of
two; nearness to 1 on one side and on both; layers without a gradient, in all batches and in one;
runs of one batch, without an update, without a start."""

import numpy as np

from resjax.studies.signals.gradients import Gradients

# Of two moments, three batches and twelve kernels: a quarter is three of them.
MANY = np.array(
    [
        [
            [3.1, 7.3, 0.52, 0.61, 0.93, 0.18, 1.7, 0.41, 0.26, 0.84, 0.33, 0.22],
            [2.2, 9.9, 0.81, 0.44, 0.72, 0.29, 1.1, 0.37, 0.35, 0.57, 0.46, 0.51],
            [4.7, 6.4, 0.66, 0.83, 0.57, 0.12, 2.9, 0.63, 0.17, 1.28, 0.24, 0.13],
        ],
        [
            [0.31, 0.23, 1.52, 0.36, 0.43, 2.18, 0.71, 0.11, 1.26, 0.19, 2.7, 0.84],
            [0.52, 0.19, 1.81, 0.24, 0.32, 1.29, 0.91, 0.07, 1.95, 0.47, 1.1, 0.66],
            [0.17, 0.44, 2.66, 0.53, 0.27, 1.12, 0.49, 0.13, 1.37, 0.26, 3.3, 1.71],
        ],
    ]
)
WEIGHTS = np.array([3.7, 5.1, 6.2, 4.4, 7.8, 2.9, 8.3, 9.7, 1.6, 6.6, 2.3, 4.9])
OUTPUTS = np.array([12.0, 31.0, 47.5])


def result(norm, steps=(0,), updated=False, units=0, weights=None):
    """``norm`` is [step, batch, layer]; other norms follow from it unevenly."""
    norm = np.array(norm, float)
    moments, batches, layers = norm.shape
    weights = np.array(WEIGHTS[:layers] if weights is None else weights)
    grown = 1 + 0.3 * np.arange(moments)
    changed = 0.01 * norm**1.1 * (1 + np.arange(layers)) if updated else np.full(norm.shape, np.nan)
    changed[np.array(steps) != 0] = np.nan
    return Gradients(
        layer=tuple(f"stage{1 + i // 4}/unit{1 + i % 4}/conv1/kernel" for i in range(layers)),
        step=np.array(steps),
        norm=norm,
        loss=norm[..., 0],
        parameter=grown[:, None] * weights,
        update=changed,
        unit=tuple(f"stage1/unit{1 + i}" for i in range(units)),
        activation=(grown[:, None] * [1, 1.2, 2.3][:batches])[..., None] * OUTPUTS[:units],
        residual=True,
        batch_size=4,
        choices={},
    )


def ratio(value, **more):
    """One batch of three kernels, of which the first gets so many times the gradient of the last."""
    return result([[[0.4 * value, 0.9, 0.4]]], **more)


CASES = {
    "two moments, all norms": {"deep": result(MANY, (0, 1200), updated=True, units=3)},
    "of other moments, and a later start": {
        "deep": result(MANY[:, :2, ::2], (0, 1200), units=2),
        "late": result(MANY[1:, 1:, 5:], (500,)),
        "wide": result(MANY[:1, ::2, 1:5], updated=True, units=1, weights=[0.0, 2.1, 3.4, 5.5]),
    },
    "as large": {"flat": ratio(1.98)},
    "larger": {"flat": ratio(2.02)},
    "as large, below 1": {"flat": ratio(1 / 1.98)},
    "smaller": {"flat": ratio(1 / 2.02)},
    "no gradient in the first layers": {"flat": ratio(0)},
    "no gradient in one batch": {"flat": result([[[0, 0.9, 0.4], [0.5, 0.7, 0.3]]])},
    "no gradient in the last": {"flat": result([[[0.3, 0.7, 0.0]]])},
    "alike": {"deep": ratio(9.9), "flat": ratio(5)},
    "apart": {"deep": ratio(10.1), "flat": ratio(5)},
    "apart, below 1": {"deep": ratio(0.25), "flat": ratio(0.51)},
    "opposite": {"deep": ratio(1 / 2.05), "flat": ratio(4)},
    "on two sides, but apart": {"deep": ratio(4), "flat": ratio(1 / 1.95)},
    "one without a gradient": {"deep": ratio(0), "flat": ratio(40)},
    "none with a gradient": {"deep": ratio(0), "flat": ratio(0, steps=(700,))},
}
