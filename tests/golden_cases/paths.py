"""The gradient by path length: 97.5 % of it just below the middle of all paths and just not, a mean length at
half a unit from the middle and just beside, R² of 0.95 and just less, g of 1 and none, one mode and two."""

import numpy as np

from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_sampled import PathSample
from resjax.studies.paths.paths import Paths

LENGTH = np.arange(1, 6)  # 4 residual units and a plain one: the middle is 3
SPREAD = np.array([0.7, 0.85, 0.9, 1.55])  # of draws, otherwise at every length
SPREAD = np.stack([np.roll(SPREAD, i) ** (1 + i / 3) for i in range(5)])
SPREAD /= SPREAD.mean(1, keepdims=True)
RUNNING, BATCH = "running statistics", "statistics of the batch"


def exact(*batches):
    parts = np.array([0.45, 0.4, 0.22, -0.09, 0.02])
    return PathSpectrum(
        step=np.array([0]),
        length=LENGTH,
        norm=np.array([batches], float),
        contribution=np.stack([np.roll(parts, b) for b in range(len(batches))])[None],
        total=np.array([[2.5 + b for b in range(len(batches))]]),
        num_residual=4,
        num_plain=1,
        batch_size=4,
        choices={"BatchNorm": RUNNING},
    )


def sample(mean, g=0.312, r_squared=0.9871, low=0.83):
    mean = np.array(mean, float)
    return PathSample(
        length=LENGTH,
        norm=mean[:, None] * SPREAD,
        mean=mean,
        median=0.875 * mean,
        mean_interval=np.stack([low * mean, 1.31 * mean]),
        median_interval=np.stack([0.61 * mean, 1.12 * mean]),
        attenuation=g,
        attenuation_interval=np.array([g - 0.031, g + 0.052]),
        r_squared=r_squared,
        num_residual=4,
        num_plain=1,
        batch_size=4,
        choices={"BatchNorm": RUNNING, "seed": 3},
    )


FALLS = [0.9, 0.31, 0.07, 0.031, 0.006]
SHORT = exact([0.5, 0.3, 0.175, 0.02, 0.005])  # 97.5 % up to the middle
ONE = sample(FALLS)


def in_one(exact, sample=ONE):
    return Paths({RUNNING: exact}, {RUNNING: sample})


CASES = {
    "short, at the middle": {"deep": in_one(SHORT)},
    "just not short, several batches": {
        "deep": in_one(exact([1, 0.6, 0.347, 0.04, 0.013], [1, 0.5, 0.5, 0.2, 0.1], [6.5, 2, 1, 0, 0]))
    },
    "long at half a unit, shorter just beside": {
        "wide": in_one(exact([4, 5, 3, 3, 1]), sample(FALLS, g=0.999, r_squared=0.95)),
        "deep": in_one(exact([4.01, 5, 3, 3, 1]), sample(FALLS, g=1, r_squared=0.9499)),
    },
    "two that are short, one longer than most": {
        "deep": in_one(SHORT, sample([0.9, 0.1, 0.2, 0.4, 0.1], g=0.71, r_squared=0.2)),
        "flat": in_one(exact([0.1, 0.2, 0.5, 2, 3], [0.2, 0.1, 0.5, 3, 2]), sample(LENGTH, g=1.41)),
        "wide": in_one(exact([6, 3, 0.01, 0.02, 0.03], [5, 1, 0.03, 0.02, 0.01])),
    },
    "no rate, interval down to 0": {
        "deep": in_one(exact([3, 1, 0, 0, 0]), sample([0.4, 0.2, 0, 0, 0], g=np.nan, r_squared=np.nan, low=0))
    },
    "no gradient of one of two": {
        "deep": in_one(exact([0.0] * 5, [0.0] * 5)),
        "wide": in_one(exact([9, 7, 4, 3, 0.1], [8, 6, 5, 4, 3])),
    },
    "two modes": {
        "deep": Paths(
            {RUNNING: SHORT, BATCH: exact([1, 2, 3, 4, 0.1], [2, 3, 4, 5, 0.1])},
            {RUNNING: ONE, BATCH: sample([0.8, 0.5, 0.4, 0.2, 0.15], g=0.623, r_squared=0.91)},
        )
    },
}
