"""Rank collapse: orders whose intervals end just within 3 ± 0.1 and just beyond; falls of just less than a
factor of ten, of more, and of both; a fixed factor; a residual that grows."""

import numpy as np

from resjax.studies.signals.rank_collapse import RankCollapse

SPREAD = np.array([-1.2, -0.4, 0.3, 1.3])


def result(log_residual, around=0.0, shortcuts=False, mlp=False, norm=True):
    """Four networks around ``log_residual``, whose last layers differ by a share of ``around``."""
    mean = np.array(log_residual, float)
    rows = np.tile(mean, (4, 1))
    rows[:, -1] += around * np.abs(mean[-1]) * SPREAD
    return RankCollapse(
        layer=np.arange(len(mean)),
        log_residual=rows,
        shortcuts=shortcuts,
        mlp=mlp,
        norm=norm,
        choices={"seed": 0},
    )


CASES = {
    "every fate": {
        "attention alone": result([-0.01, -2, -6.2, -18.7], 0.001),
        "attention and MLP": result([-0.01, -1.5, -4.4, -13.0], 0.001, mlp=True),
        "the whole ViT": result([-0.01, -0.1, -0.2, -0.3], 0.1, shortcuts=True, mlp=True),
        "a fixed factor": result([0, -1, -2, -3], 0.01),
        "grows": result([-0.4, -0.2, -0.1, 0.1], 0.5),
    },
    "just within, and just beyond": {
        "within": result([0, -1, -10, -30.9]),
        "beyond": result([0, -1, -10, -31.1]),
        "within, from below": result([0, -1, -10, -29.1]),
        "below": result([0, -1, -10, -28.9]),
        "not known": result([0, -1, -10, -30.9], 0.01),
        "kept, just": result([-0.01, -0.2, -0.5, -1.0]),
        "not kept, just": result([-0.01, -0.2, -0.5, -1.02]),
        "kept or not": result([-0.01, -0.2, -0.5, -1.0], 0.1),
    },
}
