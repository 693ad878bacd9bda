"""Which paths teach a unit: 0.75 and 1.05 times the length of all paths in the median over the first half of
the units, and just beside; first units without a gradient, plain units, few units, no gradient at all."""

import numpy as np

from resjax.studies.paths.path_parameters import PathParameters


def result(*lengths, plain=(), batches=3, last=0):
    """Mean length behind each unit but for the last, which has none; NaN: it has no gradient.

    ``last``: what the last batch has at length 0 besides.
    """
    units = len(lengths) + 1
    norm = np.zeros((batches, units, units))
    for i, mean in enumerate([*lengths, 0]):
        if np.isfinite(mean):  # two neighbouring lengths, in proportion
            low = int(mean)
            norm[:, i, low] = 1 + low - mean
            norm[:, i, low + 1 :][:, :1] = mean - low
    norm[-1, :, 0] += last
    sizes = (1 + np.arange(batches) ** 2)[:, None] * (3 - np.sqrt(np.arange(units)))
    parts = norm**2 - 0.05
    return PathParameters(
        unit=tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(units)),
        length=np.arange(units),
        norm=norm * sizes[:, :, None],
        contribution=parts * np.linspace(0.5, 1, batches)[:, None, None] ** 2,
        total=sizes * norm.any(-1),
        residual=np.array([i not in plain for i in range(units)]),
        batch_size=4,
        choices={"norm": "L2 over all parameters of a unit"},
    )


NAN = np.nan
# Of 7 units, 3 are the first half; all paths there are 3, 2.5 and 2 long in the mean.
CASES = {
    "0.75 in the median": {"deep": result(2.25, 0.5, 1.9, 1.2, 0.7, 0.4)},
    "just less than 0.75": {"deep": result(2.249, 0.5, 1.9, 1.2, 0.7, 0.4)},
    "1.05 in the median": {"deep": result(0.9, 2.7, 2.1, 1.2, 0.7, 0.4)},
    "just more than 1.05": {"deep": result(0.9, 2.7, 2.101, 1.2, 0.7, 0.4)},
    "each kind": {
        "short": result(0.9, 1.4, 0.2, 1.2, last=0.5),
        "like, plain units": result(2.4, 1.9, 1.6, 0.7, plain=(0, 2)),
        "long, first without": result(NAN, NAN, 2.9, 1.4, 0.8, 0.1),
        "few units": result(0.6, 0.9),
        "nothing": result(NAN, NAN, NAN),
    },
    "no gradient": {"one unit": result(batches=1)},
}
