"""Branch variances: slopes just inside and just outside of what is called 1/l and flat; stages of
two units and of three; branches of 0; runs of one batch and of three, at one moment and at two."""

import numpy as np

from resjax.studies.signals.branch_variance import BranchVariance

# Of two moments, three batches, and stages of four, two and three units.
RATIO = np.array(
    [
        [
            [1.21, 0.44, 0.35, 0.21, 0.72, 0.53, 0.61, 0.47, 0.53],
            [0.93, 0.61, 0.27, 0.24, 0.84, 0.33, 0.46, 0.52, 0.39],
            [1.55, 0.52, 0.41, 0.17, 0.47, 0.31, 0.84, 0.71, 0.75],
        ],
        [
            [0.31, 0.84, 0.65, 1.91, 0.22, 0.13, 0.71, 0.97, 2.83],
            [0.44, 0.71, 0.97, 1.24, 0.14, 0.43, 0.56, 0.62, 1.79],
            [0.25, 0.92, 1.71, 1.47, 0.37, 0.61, 0.84, 1.51, 3.35],
        ],
    ]
)
STAGES = (4, 2, 3)


def result(ratio, stages, steps=(0,)):
    """``ratio`` is [step, batch, unit], of branch to shortcut, whose variance grows along the units."""
    ratio = np.array(ratio, float)
    places = [(s, i) for s, n in enumerate(stages, 1) for i in range(1, n + 1)]
    shortcut = np.cumprod(1 + ratio, -1) * np.geomspace(0.2, 6, ratio.shape[1])[:, None]
    return BranchVariance(
        unit=tuple(f"stage{s}/unit{i}" for s, i in places),
        position=np.array([i for _, i in places]),
        step=np.array(steps),
        shortcut=shortcut,
        branch=ratio * shortcut,
        output=(1 + 1.3 * ratio**1.5) * shortcut,
        batch_size=4,
        choices={},
    )


def law(power, units=3, lost=0):
    """Ratios that fall like l^power, without the last ``lost`` branches."""
    ratio = 0.8 * np.arange(1, units + 1.0) ** power
    ratio[units - lost :] = 0
    return result(ratio[None, None], (units,))


CASES = {
    "two moments, three stages": {"deep": result(RATIO, STAGES, (0, 1200))},
    "one batch, and a later start": {
        "late": result(RATIO[1:, :1, :6], (4, 2), (900,)),
        "deep": result(RATIO[:1, 1:, 4:], (2, 3)),
    },
    "every slope": {
        f"l^{power:g}": law(power) for power in (-1.31, -1.29, -0.71, -0.69, -0.31, -0.29, 0.29, 0.31)
    },
    "too few units": {
        "two": law(-1, units=2),
        "one": law(-1, units=1),
        "two above 0": law(-1, lost=1),
        "three above 0": law(-1, units=4, lost=1),
    },
    "all branches 0 in one": {"zero": law(-1, lost=3), "one above 0": law(-1, lost=2)},
    "all branches 0": {"zero": law(-1, lost=3)},
}
