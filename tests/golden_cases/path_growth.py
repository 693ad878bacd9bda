"""Path lengths along training: intervals over batches that touch and just do not, means that differ by half a
unit and just less, both ways; one batch, one moment, none with a gradient."""

import numpy as np

from resjax.studies.paths.path_exact import PathSpectrum


def result(*moments, plain=1):
    """Each moment is a list of batches, each batch a list of norms by length."""
    norm = np.array(moments, float)
    steps, batches, lengths = norm.shape
    parts = np.linspace(0.7, 0.1, lengths) ** (1 + np.arange(steps)[:, None])
    return PathSpectrum(
        step=np.array([0, 250, 1200, 4000])[:steps],
        length=np.arange(plain, plain + lengths),
        norm=norm,
        contribution=parts[:, None] * np.array([0.5, 0.75, 2, 0.913])[:batches, None],
        total=0.75 + np.arange(steps)[:, None] ** 2 + np.array([0, 0.1, 0.4, 0.6])[:batches],
        num_residual=lengths - 1,
        num_plain=plain,
        batch_size=4,
        choices={"BatchNorm": "statistics of the batch"},
    )


def mean(length):
    """One batch of three lengths from 1 with this mean, 1 … 2 or 2 … 3."""
    return [2 - length, length - 1, 0] if length <= 2 else [0, 3 - length, length - 2]


ZERO = [[0, 0, 0]] * 2
GROWS = result(
    [[6, 4, 2, 0.1], [5, 3, 2, 0.1], [7, 5, 1, 0.3], [9, 1, 0.5, 3]],
    [[1, 2, 3, 0.2], [2, 3, 4, 0.3], [2, 1, 4, 0.1], [1, 1, 1, 1]],
    [[1, 2, 3, 5], [1, 3, 2, 6], [0.1, 1, 3, 4], [2, 2, 2, 9]],
)
SHRINKS = result(
    [[1, 2, 3, 5], [1, 3, 2, 6], [0.1, 1, 3, 4]], [[6, 4, 2, 0.1], [5, 3, 2, 0.1], [7, 5, 1, 0.3]]
)
TURNS = result([[3, 2, 1]], [[1, 2, 3]], [[3, 1, 2]], [[4, 2, 1]], plain=0)
BETWEEN = [mean(1), mean(2)]  # the interval is 1 to 2

CASES = {
    "longer": {"deep": GROWS},
    "shorter, two runs": {
        "deep": SHRINKS,
        "wide": result([[0.1, 1, 9], [0.2, 1, 9]], [[9, 1, 0.4], [9, 1, 1]], plain=0),
    },
    "longer and same, one batch and longest between": {"deep": GROWS, "flat": TURNS},
    "intervals that touch, and just apart": {
        "up": result(BETWEEN, [mean(2)] * 2),
        "down": result([mean(2), mean(3)], [mean(2)] * 2),
        "up, apart": result(BETWEEN, [mean(2.01)] * 2),
        "down, apart": result([mean(2), mean(3)], [mean(1.99)] * 2),
    },
    "half a unit, and just less": {
        "up": result([mean(1.5)] * 2, [mean(2)] * 2),
        "down": result([mean(2)] * 2, [mean(1.5)] * 2),
        "up, less": result([mean(1.5)] * 2, [mean(1.999)] * 2),
        "down, less": result([mean(2)] * 2, [mean(1.501)] * 2),
    },
    "one batch, one moment, no gradient": {
        "one batch": result([mean(1.2)], [mean(2.3)]),
        "one moment": result([mean(1.2), mean(1.7)]),
        "no first": result(ZERO, BETWEEN, [mean(1.2), mean(1.7)]),
        "no last": result(BETWEEN, ZERO),
        "nothing": result(ZERO, ZERO),
    },
}
