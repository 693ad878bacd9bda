"""The gradient by path length: 97.5 % of it just below the middle of all paths and just not, a mean length at
half a unit from the middle and just beside, with batches that agree and that do not; R² whose interval lies
above 0.95, below it, and around it; g below, above and around 1, and none; one mode and two;
initialization."""

import dataclasses

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


def sample(mean, g=0.312, r_squared=0.9871, low=0.83, ends=(-0.031, 0.052), spread=1.0):
    """``spread`` is that of the draws, which R² and lengths have their intervals from."""
    mean = np.array(mean, float)
    total = np.array([1, 40, 2.5, 0.25])
    return PathSample(
        length=LENGTH,
        norm=mean[:, None] * (1 + spread * (SPREAD - 1)) * total,
        total=total,
        mean=mean,
        median=0.875 * mean,
        mean_interval=np.stack([low * mean, 1.31 * mean]),
        median_interval=np.stack([0.61 * mean, 1.12 * mean]),
        attenuation=g,
        attenuation_interval=g + np.array(ends),
        r_squared=r_squared,
        num_residual=4,
        num_plain=1,
        batch_size=4,
        choices={"BatchNorm": RUNNING, "seed": 3},
    )


FALLS = [0.9, 0.31, 0.07, 0.031, 0.006]
ALIKE = 2  # batches
SHORT = [0.5, 0.3, 0.175, 0.02, 0.005]  # 97.5 % up to the middle
SHORTS = exact(*[SHORT] * ALIKE)
ONE = sample(FALLS)
BENT = sample([0.9, 0.1, 0.4, 0.05, 0.095], g=0.71, r_squared=0.2, spread=0.01)


def in_one(exact, sample=ONE):
    return Paths({RUNNING: exact}, {RUNNING: sample})


CASES = {
    "short, at the middle": {"deep": in_one(SHORTS)},
    "just not short": {"deep": in_one(exact(*[[1, 0.6, 0.347, 0.04, 0.013]] * ALIKE))},
    "several batches that do not agree": {
        "short, one is not": in_one(exact(SHORT, SHORT, [1, 0.6, 0.347, 0.04, 0.013])),
        "far apart": in_one(exact([1, 0.6, 0.347, 0.04, 0.013], [1, 0.5, 0.5, 0.2, 0.1], [6.5, 2, 1, 0, 0])),
        "undecided": in_one(exact([4.5, 5, 3, 3, 1], [4, 5, 3, 3, 1.5], [4, 5, 3, 3, 1])),
        "one batch": in_one(exact(SHORT)),
    },
    "long at half a unit, shorter just beside": {
        "wide": in_one(
            exact(*[[4, 5, 3, 3, 1]] * ALIKE), sample(FALLS, g=0.948, r_squared=0.96, spread=0.01)
        ),
        "deep": in_one(exact(*[[4.01, 5, 3, 3, 1]] * ALIKE), sample(FALLS, g=1, r_squared=0.9499)),
    },
    "g just below 1, around and above": {
        "below": in_one(SHORTS, sample(FALLS, g=0.9, ends=(-0.1, 0.0999))),
        "around": in_one(SHORTS, sample(FALLS, g=0.9, ends=(-0.1, 0.1))),
        "above": in_one(SHORTS, sample(FALLS, g=1.1, ends=(-0.0999, 0.1))),
    },
    "two that are short, one longer than most": {
        "deep": in_one(SHORTS, BENT),
        "flat": in_one(exact([0.1, 0.2, 0.5, 2, 3], [0.2, 0.1, 0.5, 3, 2]), sample(LENGTH, g=1.41)),
        "wide": in_one(exact([6, 3, 0.01, 0.02, 0.03], [5, 1, 0.03, 0.02, 0.01])),
    },
    "no rate, interval down to 0": {
        "deep": in_one(
            exact(*[[3, 1, 0, 0, 0]] * ALIKE), sample([0.4, 0.2, 0, 0, 0], g=np.nan, r_squared=np.nan, low=0)
        )
    },
    "no gradient of one of two": {
        "deep": in_one(exact([0.0] * 5, [0.0] * 5)),
        "wide": in_one(exact([9, 7, 4, 3, 0.1], [8, 6, 5, 4, 3])),
    },
    "two modes, and initialization": {
        "deep": Paths(
            {RUNNING: SHORTS, BATCH: exact([1, 2, 3, 4, 0.1], [2, 3, 4, 5, 0.1])},
            {RUNNING: ONE, BATCH: sample([0.8, 0.5, 0.4, 0.2, 0.15], g=0.623, r_squared=0.91)},
            initial=Paths(
                {RUNNING: exact([4.5, 5, 3, 3, 1], [4, 5, 3, 3, 1.5]), BATCH: SHORTS},
                {RUNNING: sample([0.9, 0.4, 0.2, 0.11, 0.02], g=0.52), BATCH: ONE},
            ),
        ),
        "wide": dataclasses.replace(in_one(SHORTS), initial=in_one(exact([0.0] * 5, [0.0] * 5))),
    },
}
