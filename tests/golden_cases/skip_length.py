"""Shortcuts over several layers: lower, higher and unclear losses and damages, with and without a plain
network and the usual two layers."""

import numpy as np

from resjax.studies.lesions.skip_length import SkipLength, label_of


def made(length, final, damage, intact=0.02):
    """A network with these final losses and rises of the error by six layers, for each seed."""
    units, seeds = 36 // max(length, 1), len(final)
    intact = np.full(seeds, intact)
    rises = np.linspace(0.01, 0.04, units)
    return SkipLength(
        length=length,
        num_layers=36,
        train_loss=np.linspace(2.3, final, 10, axis=1),
        train_error=np.array(final) / 4,
        intact_error=intact,
        unit_layers=max(length, 1),
        error=intact[:, None] + np.where(np.arange(units) == 3, np.nan, rises) * np.ones((seeds, 1)),
        run_error=intact[:, None] + np.array(damage)[:, None] * [0.5, 1.5],
        num_test=397,
        num_classes=10,
        choices={"seeds": "0 … 2"},
    )


def several(*given):
    return {label_of(length): made(length, *rest) for length, *rest in given}


PLAIN = 0, [1.0, 1.2, 1.1], [0.8, 0.85, 0.8]
TWO = 2, [0.02, 0.03, 0.02], [0.1, 0.12, 0.11]
CASES = {
    "all better than plain, the longest dearer": several(
        PLAIN,
        (1, [0.5, 0.6, 0.5], [0.05, 0.06, 0.05]),
        TWO,
        (3, [0.03, 0.05, 0.04], [0.1, 0.13, 0.1]),
        (6, [0.2, 0.4, 0.3], [0.5, 0.55, 0.5]),
    ),
    "one worse, one unclear": several(
        PLAIN, (1, [1.3, 1.5, 1.4], [0.5, 0.0, 0.1]), TWO, (6, [1.0, 0.2, 1.9], [0.1, 0.12, 0.11])
    ),
    "no plain network": several(TWO, (3, [0.03, 0.05, 0.04], [0.3, 0.33, 0.3])),
    "not the usual two": several(PLAIN, (6, [0.2, 0.4, 0.3], [0.5, 0.55, 0.5])),
    "one alone": several(TWO),
}
