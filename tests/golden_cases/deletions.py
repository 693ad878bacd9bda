"""Random deletions: steps of just 15 points a unit and just more, at the first deletion and later; medians
that rise by just one point and more; rank correlations about 0.95; errors at 80 % of chance and
beyond; sizes with all sets, some, or one. Means on a line from equal units, from a few of them, and beside
it; steps whose interval holds the threshold."""

import numpy as np

from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.subsets import random_subsets


def result(errors, n=12, intact=0.04, classes=10, left_out=()):
    """``errors``: {number of deleted units: error of each draw}."""
    names = tuple(f"stage1/unit{i + 1}" for i in range(n))
    pool = [i for i, name in enumerate(names) if name not in left_out]
    error = np.array([value for values in errors.values() for value in values])
    deleted = np.zeros((len(error), n), bool)
    sets = [np.roll(pool, -j)[:k] for k, values in errors.items() for j in range(len(values))]
    for row, units in zip(deleted, sets, strict=True):
        row[units] = True
    return of_sets(deleted, error, intact, classes, left_out)


def of_sets(deleted, error, intact=0.04, classes=10, left_out=()):
    names = tuple(f"stage1/unit{i + 1}" for i in range(deleted.shape[1]))
    reasons = dict(zip(left_out, ("no shortcut, and its shapes differ", "its head"), strict=False))
    return Deletions(
        unit=names,
        deleted=deleted,
        error=error,
        loss=3 * error + 0.2,
        kl=error**2,
        agreement=1 - error / 2,
        left_out=reasons,
        intact_error=intact,
        intact_loss=0.32,
        num_examples=400,
        num_classes=classes,
        choices={},
    )


def medians(*values, wide=1.0, **options):
    """1, 2, … deleted units with these medians, of three draws each."""
    spread = {k: (v, (1 - 0.2 * wide) * v, min((1 + 0.6 * wide) * v, 0.97)) for k, v in enumerate(values, 1)}
    return result(spread, **options)


def by_formula(error, n=12, draws=40):
    """All single deletions, and random sets of 2 … n units: ``error`` of the deleted units, from 0."""
    deleted = random_subsets(np.ones(n, bool), range(1, n + 1), draws, 0)
    return of_sets(deleted, np.array([min(0.9, 0.04 + error(np.flatnonzero(row))) for row in deleted]))


def few(units):
    """Three units of 20 points each; the others do harm only together."""
    harmful = np.sum(units < 3)
    return 0.2 * harmful + 0.0004 * (len(units) - harmful) ** 3


SMOOTH = result(
    {
        1: [0.06, 0.09, 0.062, 0.07, 0.11],
        10: [0.3, 0.5, 0.33, 0.41, 0.36, 0.62],
        20: [0.7, 0.88, 0.74],
    },
    n=24,
    left_out=["stage1/unit2", "stage1/unit5"],
)
FEW = result(
    {1: [0.07, 0.05, 0.11, 0.06], 2: [0.14, 0.2, 0.15], 3: [0.24], 4: [0.35]},
    n=5,
    left_out=["stage1/unit3"],
)
CASES = {
    "smooth, of ten and twenty": {"deep": SMOOTH},
    "smooth, just in order, and all sets of some sizes": {
        "in order": medians(0.07, 0.08, 0.08, 0.08, 0.1, 0.1, intact=0.05),
        "small": FEW,
    },
    "at each threshold": {
        "point": medians(0.032, 0.04, 0.035, intact=0.03),
        "constant": medians(0.03, 0.03, intact=0.03),
        "step": medians(0.19, 0.25),
        "step between two": result({2: [0.05, 0.07, 0.04], 4: [0.35, 0.3, 0.6]}),
        "just learned": medians(0.74, 0.76, intact=0.72),
    },
    "proportional, from all units and from a few, and not": {
        "equal": by_formula(lambda units: 0.03 * len(units)),
        "few": by_formula(few),
        "square": by_formula(lambda units: 0.006 * len(units) ** 2),
        "uncertain": by_formula(lambda units: 0.2 * np.sum(units < 3) + 0.005 * len(units) ** 2, draws=4),
    },
    "just beyond each": {
        "point": medians(0.032, 0.0402, 0.035, intact=0.03),
        "order": medians(0.05, 0.08, 0.07, 0.09, 0.09, 0.1, intact=0.05),
        "step": medians(0.1901, 0.25, wide=0),
        "uncertain step": medians(0.1901, 0.25),
        "step of two": result({2: [0.36, 0.9, 0.35], 3: [0.42, 0.4, 0.5]}),
        "step between two": result({2: [0.05, 0.05, 0.05], 4: [0.3502, 0.3502, 0.3502]}),
        "jump": medians(0.06, 0.1, 0.6),
        "odd": medians(0.15, 0.06, 0.18, 0.1),
        "new": medians(0.74, 0.76, intact=0.721),
        "of two": medians(0.45, intact=0.401, classes=2),
    },
}
