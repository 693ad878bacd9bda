"""Near-identity measures: a cosine whose interval ends at 0 and just below; intervals of ρ that end at 0 and
just beside, and that cover 0 once the place is held fixed; stages of two and three units; a distance that
stays, and one that grows a little; means within and beyond a tenth of their deviation; the same network at
initialization beside it, which does as much, less, and nothing at all; files of an earlier version."""

import numpy as np

from resjax.studies.units.identity_result import GIVEN, MEASURES, Identity

NAN = np.nan


def result(sizes, ratio, cosine, cosine_half, novelty, estimation, residual, rank=None, **changes):
    """``sizes`` of the stages; ``cosine_half``: half of each cosine's interval; ``estimation`` before it is
    divided by the scale; ``rank``: rows of (ρ, low, high) for each of GIVEN; None for no lesions."""
    n = sum(sizes)
    stage = np.repeat(1 + np.arange(len(sizes)), sizes)
    spread, ratio, cosine = (np.array(values, float) for values in (estimation, ratio, cosine))
    rho, low, high = (None,) * 3 if rank is None else np.moveaxis(np.array(rank, float), -1, 0)
    half = np.array(cosine_half, float)
    interval = np.stack(
        [
            np.stack([0.9 * ratio, 1.1 * ratio], -1),
            np.stack([cosine - half, cosine + half], -1),
            *np.full((2, n, 2), NAN),
        ]
    )
    made = {
        "unit": tuple(f"stage{s}/unit{i}" for s, m in enumerate(sizes, 1) for i in range(1, m + 1)),
        "stage": stage,
        "residual": np.array(residual),
        "ratio": ratio,
        "cosine": cosine,
        "novelty": np.array(novelty, float),
        "estimation_mean": (0.01 * np.arange(n) ** 2 - 0.03) * spread,
        "estimation_std": spread,
        "scale": np.array([2.0, 0.5, 4.0])[stage - 1],
        "damage": None if rank is None else 0.7 / (1 + np.arange(n)) ** 2,
        "measure": MEASURES,
        "given": GIVEN[: 1 if rank is None else len(rank)],
        "correlation": rho,
        "low": low,
        "high": high,
        "num_examples": 256,
        "interval": interval,
        "bias_interval": np.full((n, 2), NAN),
        "below_interval": np.full(2, NAN),
        **{f"{name}_interval": np.full((len(sizes), 2), NAN) for name in ("lead", "remaining")},
        "choices": {"BatchNorm": "running statistics"},
    }
    return Identity(**{**made, **changes})


def around(r, half=0.01, **changes):
    """``r`` with intervals that reach ``half`` to both sides."""
    ends = np.array([-half, half])
    changes |= {f"{k}_interval": getattr(r, k)[..., None] + ends for k in ("bias", "lead", "remaining")}
    below = np.clip(r.below + 4 * ends, 0, 1)
    return Identity(**{**vars(r), **{"below_interval": below, **changes}})


# Four of seven step downhill; of two stages of three units or more, one opens with the largest.
RANKS = [
    [(0.61, 0.01, 0.83), (-0.37, -0.72, -0.01), (0.22, 0.0, 0.54), (-0.41, -0.66, 0.0)],
    [(0.48, 0.02, 0.7), (-0.2, -0.5, 0.2), (0.1, -0.2, 0.4), (-0.5, -0.8, -0.1)],
    [(0.3, -0.01, 0.6), (-0.1, -0.4, 0.3), (0.05, -0.3, 0.3), (NAN, NAN, NAN)],
]
DEEP = around(
    result(
        (3, 4, 2),
        ratio=[0.9, 0.3, 0.41, 0.52, 0.6, 0.07, 0.11, 1.3, 0.05],
        cosine=[-0.3, -0.125, -0.1251, NAN, 0.05, -0.2, -0.1, NAN, -0.13],
        cosine_half=[0.5, 0.125, 0.125, NAN, 0.02, 0.06, 0.08, NAN, 0.125],
        novelty=[0.9, 0.95, 0.2, 0.4, 0.99, 0.97, 0.91, 0.1, 0.83],
        estimation=[1.7, 0.9, 0, 0.3, 0.3, 0.1, 0, 2.2, 0],
        residual=[True] * 9,
        rank=RANKS,
    )
)
# The middle stage's first unit changes the shape, and the last stage's distance grows a little.
PLAIN = result(
    (2, 3, 3),
    ratio=[1.4, 2.2, NAN, 0.7, 1.1, 1.9, 1.8, 1.2],
    cosine=[0.1, -0.2, NAN, 0.3, -0.01, 0.02, 0.04, 0.03],
    cosine_half=[0.04, 0.06, NAN, 0.02, 0.08, 0.1, 0.12, 0.14],
    novelty=[0.55, 0.71, NAN, 0.3, 0.42, 0.88, 0.93, 0.64],
    estimation=[0.8, 0, 0.5, 0.45, 0, 1.0, 1.01, 0],
    residual=[False] * 8,
)
PAIR = result(
    (2,),
    ratio=[0.02, 0.08],
    cosine=[-0.5, -0.6],
    cosine_half=[0.2, 0.8],
    novelty=[0.7, 0.4],
    estimation=[0.6, 0],
    residual=[False, True],
    rank=[[(NAN,) * 3] * 4],
)
# The middle stage's first unit puts out another shape than the last.
BENT = result(
    (1, 3, 1),
    ratio=[0.5, 0.3, 0.1, 0.2, 0.9],
    cosine=[0.01, -0.02, -0.03, 0.04, -0.05],
    cosine_half=[0.002, 0.004, 0.006, 0.008, 0.01],
    novelty=[0.1, 0.3, 0.2, 0.7, 0.6],
    estimation=[0, NAN, 0.3, 0, 0],
    residual=[True] * 5,
    rank=[[(0.5, -0.1, 0.4), (0.1, -0.3, 0.5), (-0.2, -0.6, 0.3), (NAN, NAN, NAN)]],
)
SEVERAL = around(
    result(
        (1, 3, 1),
        ratio=[0.2, 0.1, 0.3, 0.25, 0.9],
        cosine=[0.01, -0.02, -0.03, 0.04, -0.05],
        cosine_half=[0.2, 0.04, 0.06, 0.08, 0.1],
        novelty=[0.1, 0.3, 0.2, 0.7, 0.6],
        estimation=[0, 0.4, 0.3, 0, 0],
        residual=[True] * 5,
        rank=[[(0.5, 0.1, 0.8), (0.3, -0.01, 0.5), (0.7, 0.2, 0.9), (-0.6, -0.9, -0.2)]],
    )
)


def untrained(r, ratio, cosine, estimation, half=0.01, **changes):
    """``r`` at initialization."""
    fields = {
        "ratio": np.array(ratio, float),
        "cosine": np.array(cosine, float),
        "estimation_std": np.array(estimation, float),
        **changes,
    }
    return around(Identity(**{**vars(r), **fields}), half)


# It shrinks as it does after training, in one stage faster; no unit steps downhill.
BEFORE = untrained(
    DEEP,
    ratio=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 1.3, 0.2],
    cosine=[0.1, 0.1, 0.2, NAN, 0.05, 0.01, 0.1, NAN, 0.02],
    estimation=[1.7, 0.8, 0, 0.3, 0.3, 0.103, 0, 2.2, 0],
)
# Branches that start at 0.
ZERO = untrained(SEVERAL, [0] * 5, [NAN] * 5, [0] * 5, novelty=np.full(5, NAN), correlation=None)
CASES = {
    "a residual network with lesions": {"deep": DEEP},
    "a plain one without": {"flat": PLAIN},
    "two, the second without lesions": {"deep": DEEP, "flat": PLAIN},
    "too few units": {"pair": PAIR},
    "two with lesions": {"bent": BENT, "several": SEVERAL},
    "beside initialization": {"deep": Identity(**{**vars(DEEP), "initial": BEFORE})},
    "beside itself": {"deep": Identity(**{**vars(DEEP), "initial": DEEP})},
    "branches that start at 0, and no control": {
        "several": Identity(**{**vars(SEVERAL), "initial": ZERO}),
        "bent": BENT,
    },
}
