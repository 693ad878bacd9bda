"""Norms while learning: first and last layers just within and just beyond a factor of 3; shares of
the steps that differ by 10 % and by just less and more; one record; outputs logged, not logged,
or of some runs; three runs and four."""

import numpy as np

from resjax.studies.signals.norms_over_training import NormsOverTraining


def result(ratios, layers=13, units=0, start=100):
    """First ÷ last quarter of the gradients, by record; with 13 layers a quarter is three."""
    ratios = np.array(ratios, float)
    records, quarter = len(ratios), max(layers // 4, 1)
    uneven = (1 + 0.37 * np.arange(layers) % 1.1) ** 2
    uneven[:quarter] /= np.exp(np.log(uneven[:quarter]).mean())
    uneven[-quarter:] /= np.exp(np.log(uneven[-quarter:]).mean())
    size = 0.5 * 0.8 ** np.arange(records)[:, None]
    gradient = size * uneven * np.where(np.arange(layers) < quarter, ratios[:, None], 1)
    place, time = 1 + np.arange(layers), 1 + 0.1 * np.arange(records)[:, None]
    parameter = (2 + np.sqrt(place)) * time**2
    return NormsOverTraining(
        layer=tuple(f"stage1/unit{i}/conv1/kernel" for i in place),
        unit=tuple(f"stage1/unit{i}" for i in place[:units]),
        step=start * np.arange(1, records + 1) ** 2,
        gradient=gradient,
        parameter=parameter,
        update=parameter * (0.003 * place + 0.004 * (place % 3) ** 2) / time,
        activation=7 * place[:units] ** 1.5 * time,
        residual=True,
        choices={},
    )


GONE = result([1.3, 4.0, 2.0, 0.6])
GONE.gradient[0, :] = 0  # 0/0
GONE.gradient[1, 0] = 0  # 0
GONE.gradient[2, -1] = 0  # infinite
SOME = result([1, 4], units=5)
SOME.activation[0] = np.nan
CASES = {
    "one run, around a factor of 3": {"deep": result([2.98, 3.02, 1 / 2.98, 1 / 3.02, 0.01])},
    "one record, outputs logged": {"deep": result([2.4], units=9, start=2500)},
    "gradients of 0": {"deep": GONE},
    "apart: 2 of 8 against 1 of 7": {
        "deep": result([5, 6, 8, 9, 7, 1.4, 5], layers=5),
        "flat": result([9, 2.5, 5, 6, 8, 9, 0.7, 4], layers=5),
    },
    "as often: 3 of 7 against 1 of 3": {
        "deep": result([1, 5, 2, 6, 8, 9, 1.5], layers=5),
        "flat": result([1.2, 5, 6], layers=5, units=5),
    },
    "as often: 3 of 5 against 1 of 2, of three runs": {
        "deep": result([1, 5, 2, 6, 1.5], layers=5),
        "flat": result([1.2, 5], layers=5),
        "wide": result([5, 1.2], layers=4),
    },
    "maps of four runs": {
        "deep": result([1, 5, 2], layers=4),
        "flat": result([4, 0.2], layers=4),
        "some": SOME,
        "wide": result([1, 2, 1.5], layers=3, units=2, start=10),
    },
    "maps without outputs": {f"run {i}": result([i], layers=4) for i in (1, 2, 4, 7)},
}
