"""Which paths teach a unit: intervals that end at 0.75 times the length of all paths and just beside, ratios
of 1.05
and just beside, in the median over the first half of the units; one batch, initialization; first units
without a gradient, plain units, few units, no gradient at all."""

import dataclasses

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


def spread(around, half, **options):
    """Of 7 units, 3 are the first half, and all paths there are 3, 2.5 and 2 long in the mean. In three
    batches the
    middle ratio is ``around`` and ``half`` an interval to both sides: the interval ends at around ± half."""
    deviation = half / 2.4842  # Student's t of two degrees of freedom, divided by √3
    made = [
        result(3 * own, 0.5, 1.9, 1.2, 0.7, 0.4, batches=1, **options)
        for own in around + deviation * np.array([-1, 0, 1])
    ]
    fields = {
        name: np.concatenate([getattr(r, name) for r in made]) for name in ("norm", "contribution", "total")
    }
    return dataclasses.replace(made[0], **fields)


CASES = {
    "just less than 0.75": {"deep": spread(0.7, 0.0499)},
    "just not less than 0.75": {"deep": spread(0.7, 0.0501)},
    "just from 0.75": {"deep": spread(0.8, 0.0499)},
    "not quite from 0.75": {"deep": spread(0.8, 0.0501)},
    "alike in all batches": {"deep": result(2.7, 2.0, 2.0, 1.2, 0.7, 0.4)},
    "just more than 1.05": {"deep": result(0.9, 2.7, 2.101, 1.2, 0.7, 0.4)},
    "just not more than 1.05": {"deep": result(0.9, 2.7, 2.0999, 1.2, 0.7, 0.4)},
    "each kind": {
        "short": result(0.9, 1.4, 0.2, 1.2, last=0.5),
        "like, plain units": result(2.4, 1.9, 1.6, 0.7, plain=(0, 2)),
        "long, first without": result(NAN, NAN, 2.9, 1.4, 0.8, 0.1),
        "few units": result(0.6, 0.9),
        "nothing": result(NAN, NAN, NAN),
        "one batch": result(0.9, 1.4, 0.2, 1.2, batches=1),
    },
    "no gradient": {"one unit": result(batches=1)},
    "with its initialization": {
        "deep": dataclasses.replace(spread(0.5, 0.1), initial=result(2.7, 2.5, 1.9, 1.2, 0.7, 0.4)),
        "without a gradient there": dataclasses.replace(spread(0.5, 0.1), initial=result(*[NAN] * 6)),
    },
}
