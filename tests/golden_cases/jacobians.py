"""Jacobians: products just within and just beyond a factor of 2, of 1 and of one another; on one
side of 1 and on both; products of 0; networks with shortcuts in all units, in some and in none;
draws that have no logarithm."""

import numpy as np

from resjax.studies.signals.jacobians import Jacobians

# Of two moments, three draws and four units.
GROWTH = np.array(
    [
        [[1.31, 1.72, 1.13, 2.44], [1.25, 2.21, 1.41, 1.92], [1.96, 1.53, 1.27, 2.83]],
        [[0.71, 0.62, 1.34, 0.43], [0.55, 0.91, 1.21, 0.32], [0.63, 0.83, 0.97, 0.24]],
    ]
)


def result(growth, steps=(0,), residual=True):
    """``growth`` is [step, draw, unit], that of random gradients; the other kinds follow from it."""
    growth = np.array(growth, float)
    units = growth.shape[-1]
    place = 1 + np.arange(units)
    return Jacobians(
        unit=tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(units)),
        residual=np.broadcast_to(residual, units),
        step=np.array(steps),
        largest=2.2 * growth**1.2 + 0.1 * place,
        branch=0.4 * growth**2 * place**1.5,
        mean_square=growth[:, :2] ** 2,
        gain=0.8 * growth**0.7,
        change=np.zeros(len(steps)),
        choices={},
    )


def product(value, **more):
    """Two draws of two units whose root mean squares have this product, in the geometric mean."""
    return result([[[0.8, value / 1.2], [1.25, value * 1.2]]], **more)


LOST = GROWTH[:1].copy()
LOST[0, 2, 2] = 0  # a draw that is left out
CASES = {
    "two moments, one unit without a shortcut": {
        "deep": result(GROWTH, (0, 1200), residual=[True, True, False, True])
    },
    "plain, and a draw is left out": {
        "flat": result(LOST, residual=False),
        "late": result(GROWTH[1:, :, :3], (500,)),
    },
    "keep": {"deep": product(1.98)},
    "lengthen": {"deep": product(2.02)},
    "keep, below 1": {"deep": product(1 / 1.98, residual=False)},
    "shorten": {"deep": product(1 / 2.02)},
    "alike": {"deep": product(9.9), "flat": product(5)},
    "apart": {"deep": product(10.1), "flat": product(5)},
    "opposite": {"deep": product(1 / 2.05), "flat": product(4)},
    "on two sides, but apart": {"deep": product(4), "flat": product(1 / 1.95)},
    "one without a length": {"deep": product(0), "flat": product(40)},
    "none with a length": {"deep": product(0), "flat": product(0)},
}
