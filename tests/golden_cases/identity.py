"""Near-identity measures: a cosine at minus two errors and just below; intervals of ρ that end at 0 and
just beside; stages of two and three units; a distance that stays, and one that grows a little."""

import numpy as np

from resjax.studies.units.identity import MEASURES, Identity

NAN = np.nan


def result(sizes, ratio, cosine, cosine_error, novelty, estimation, residual, rank=None, **changes):
    """``sizes`` of the stages; ``estimation`` before it is divided by the scale; ``rank``: rows of
    (ρ, low, high), or None for no lesions."""
    n = sum(sizes)
    stage = np.repeat(1 + np.arange(len(sizes)), sizes)
    spread = np.array(estimation, float)
    rho, low, high = (None,) * 3 if rank is None else np.array(rank, float).T
    fields = {
        "unit": tuple(f"stage{s}/unit{i}" for s, m in enumerate(sizes, 1) for i in range(1, m + 1)),
        "stage": stage,
        "residual": np.array(residual),
        "ratio": np.array(ratio, float),
        "cosine": np.array(cosine, float),
        "cosine_error": np.array(cosine_error, float),
        "novelty": np.array(novelty, float),
        "estimation_mean": 0.01 * np.arange(n) ** 2 - 0.03,
        "estimation_std": spread,
        "scale": np.array([2.0, 0.5, 4.0])[stage - 1],
        "damage": None if rank is None else 0.7 / (1 + np.arange(n)) ** 2,
        "measure": MEASURES,
        "correlation": rho,
        "low": low,
        "high": high,
        "num_examples": 256,
        "choices": {"BatchNorm": "running statistics"},
    }
    return Identity(**{**fields, **changes})


# Four of seven step downhill; of two stages of three units or more, one opens with the largest.
DEEP = result(
    (3, 4, 2),
    ratio=[0.9, 0.3, 0.41, 0.52, 0.6, 0.07, 0.11, 1.3, 0.05],
    cosine=[-0.3, -0.125, -0.1251, NAN, 0.05, -0.2, -0.1, NAN, -0.13],
    cosine_error=[0.25, 0.0625, 0.0625, NAN, 0.01, 0.03, 0.04, NAN, 0.0625],
    novelty=[0.9, 0.95, 0.2, 0.4, 0.99, 0.97, 0.91, 0.1, 0.83],
    estimation=[1.7, 0.9, 0, 0.3, 0.3, 0.1, 0, 2.2, 0],
    residual=[True] * 9,
    rank=[(0.61, 0.01, 0.83), (-0.37, -0.72, -0.01), (0.22, 0.0, 0.54), (-0.41, -0.66, 0.0)],
)
# The middle stage's first unit changes the shape, and the last stage's distance grows a little.
PLAIN = result(
    (2, 3, 3),
    ratio=[1.4, 2.2, NAN, 0.7, 1.1, 1.9, 1.8, 1.2],
    cosine=[0.1, -0.2, NAN, 0.3, -0.01, 0.02, 0.04, 0.03],
    cosine_error=[0.02, 0.03, NAN, 0.01, 0.04, 0.05, 0.06, 0.07],
    novelty=[0.55, 0.71, NAN, 0.3, 0.42, 0.88, 0.93, 0.64],
    estimation=[0.8, 0, 0.5, 0.45, 0, 1.0, 1.01, 0],
    residual=[False] * 8,
)
PAIR = result(
    (2,),
    ratio=[0.02, 0.08],
    cosine=[-0.5, -0.6],
    cosine_error=[0.1, 0.4],
    novelty=[0.7, 0.4],
    estimation=[0.6, 0],
    residual=[False, True],
    rank=[(NAN,) * 3] * 4,
)
# The middle stage's first unit puts out another shape than the last.
BENT = result(
    (1, 3, 1),
    ratio=[0.5, 0.3, 0.1, 0.2, 0.9],
    cosine=[0.01, -0.02, -0.03, 0.04, -0.05],
    cosine_error=[0.001, 0.002, 0.003, 0.004, 0.005],
    novelty=[0.1, 0.3, 0.2, 0.7, 0.6],
    estimation=[0, NAN, 0.3, 0, 0],
    residual=[True] * 5,
    rank=[(0.5, -0.1, 0.4), (0.1, -0.3, 0.5), (-0.2, -0.6, 0.3), (NAN, NAN, NAN)],
)
SEVERAL = result(
    (1, 3, 1),
    ratio=[0.2, 0.1, 0.3, 0.25, 0.9],
    cosine=[0.01, -0.02, -0.03, 0.04, -0.05],
    cosine_error=[0.1, 0.02, 0.03, 0.04, 0.05],
    novelty=[0.1, 0.3, 0.2, 0.7, 0.6],
    estimation=[0, 0.4, 0.3, 0, 0],
    residual=[True] * 5,
    rank=[(0.5, 0.1, 0.8), (0.3, -0.01, 0.5), (0.7, 0.2, 0.9), (-0.6, -0.9, -0.2)],
)
CASES = {
    "a residual network with lesions": {"deep": DEEP},
    "a plain one without": {"flat": PLAIN},
    "two, the second without lesions": {"deep": DEEP, "flat": PLAIN},
    "too few units": {"pair": PAIR},
    "two with lesions": {"bent": BENT, "several": SEVERAL},
}
