"""Path lengths along training: paired differences whose interval just holds 0 and just not, that lie within
half a
unit and just not, both ways; turns, many moments, one batch, one moment, none with a gradient, scales."""

import numpy as np

from resjax.studies.paths.path_growth import PathGrowth


def result(*moments, plain=1, scale=None):
    """Each moment is a list of batches, each batch a list of norms by length."""
    norm = np.array(moments, float)
    steps, batches, lengths = norm.shape
    parts = np.linspace(0.7, 0.1, lengths) ** (1 + np.arange(steps)[:, None])
    return PathGrowth(
        step=np.array([0, 250, 1200, 4000, *range(5000, 15000, 1000)])[:steps],
        length=np.arange(plain, plain + lengths),
        norm=norm,
        contribution=parts[:, None] * np.array([0.5, 0.75, 2, 0.913])[:batches, None],
        total=0.75 + np.arange(steps)[:, None] ** 2 + np.array([0, 0.1, 0.4, 0.6])[:batches],
        num_residual=lengths - 1,
        num_plain=plain,
        batch_size=4,
        scale=np.full((steps, lengths), np.nan) if scale is None else np.array(scale, float),
        choices={"BatchNorm": "statistics of the batch"},
    )


def mean(length):
    """One batch of three lengths from 1 with this mean, 1 … 2 or 2 … 3."""
    return [2 - length, length - 1, 0] if length <= 2 else [0, 3 - length, length - 2]


def course(*means):
    """Moments of three batches; all have these means, but for a spread of 0.02 and 0.01 in turn."""
    rows = [np.array([-1, 0, 1]) * (0.02 if t % 2 else 0.01) + m for t, m in enumerate(means)]
    return [[mean(length) for length in row] for row in rows]


def changes(*differences):
    """Two moments: batches of mean length 2 whose mean lengths change by so much."""
    return result([mean(2)] * len(differences), [mean(2 + d) for d in differences])


ZERO = [[0, 0, 0]] * 2
GROWS = result(
    [[6, 4, 2, 0.1], [5, 3, 2, 0.1], [7, 5, 1, 0.3], [9, 1, 0.5, 3]],
    [[1, 2, 3, 0.2], [2, 3, 4, 0.3], [2, 1, 4, 0.1], [1, 1, 1, 1]],
    [[1, 2, 3, 5], [1, 3, 2, 6], [0.1, 1, 3, 4], [2, 2, 2, 9]],
    scale=[[1, 1, 1, 1], [0.9, 1.2, np.nan, 0.75], [0.5, 1.5, np.nan, 0.25]],
)
SHRINKS = result(
    [[1, 2, 3, 5], [1, 3, 2, 6], [0.1, 1, 3, 4]], [[6, 4, 2, 0.1], [5, 3, 2, 0.1], [7, 5, 1, 0.3]]
)
ONE_BATCH = result([[3, 2, 1]], [[1, 2, 3]], [[3, 1, 2]], [[4, 2, 1]], plain=0)
# Student's t of three batches holds 0 just where the mean is 4.3027 / √3 = 2.4842 deviations from it.
EDGE = 2.4842

CASES = {
    "longer, with scales of some units": {"deep": GROWS},
    "shorter, two runs": {
        "deep": SHRINKS,
        "wide": result([[0.1, 1, 9], [0.2, 1, 9], [0.3, 1, 9]], [[9, 1, 0.4], [9, 1, 1], [9, 1, 2]], plain=0),
    },
    "longer and one batch": {"deep": GROWS, "flat": ONE_BATCH},
    "an interval that just holds 0, and just not": {
        "up, holds": changes(*(0.2 * (EDGE - 0.01) + 0.2 * np.array([-1, 0, 1]))),
        "up": changes(*(0.2 * (EDGE + 0.01) + 0.2 * np.array([-1, 0, 1]))),
        "down": changes(*(-0.2 * (EDGE + 0.01) - 0.2 * np.array([-1, 0, 1]))),
        "down, holds": changes(*(-0.2 * (EDGE - 0.01) - 0.2 * np.array([-1, 0, 1]))),
    },
    "within half a unit, and just not": {
        "up": changes(0.499, 0.499, 0.499),
        "up, more": changes(0.501, 0.501, 0.501),
        "down": changes(-0.499, -0.499, -0.499),
        "down, more": changes(-0.501, -0.501, -0.501),
        "neither": changes(-0.1, 0, 0.1),
    },
    "turns": {
        "down and up": result(*course(2.2, 1.2, 1.7)),
        "up and down": result(*course(1.2, 2.6, 2.5, 1.7)),
        "both": result(*course(1.7, 1.2, 2.6, 2.2)),
        "to and fro, within the intervals": result(*course(1.7, 1.69, 1.71)),
        "steadily": result(*course(1.2, 1.7, 2.2)),
    },
    "many moments": {"deep": result(*course(1.2, 1.5, 1.9, 2.2, 2.4, 2.3, 2.2, 2.1, 2))},
    "one batch, one moment, no gradient": {
        "one batch": result([mean(1.2)], [mean(2.3)]),
        "one moment": result([mean(1.2), mean(1.7)]),
        "no first": result(ZERO, [mean(1), mean(2)], [mean(1.2), mean(1.7)]),
        "no last": result([mean(1), mean(2)], ZERO),
        "nothing": result(ZERO, ZERO),
    },
}
