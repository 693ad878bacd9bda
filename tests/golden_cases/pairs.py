"""Pairs and runs: interactions of just one point and just more, up and down; half of the pairs additive, and
just less; units alone at 80 % of chance and beyond; runs of no unit, of one, of several; 21 pairs for a table
of 20."""

import dataclasses
import itertools

import numpy as np

from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.subsets import pairs_and_runs


def result(alone, extra, intact=0.05, classes=10, left_out=()):
    """``alone``: error without each unit; ``extra``: {pair, counted from 1: points of interaction}."""
    n = len(alone)
    names = tuple(f"stage1/unit{i + 1}" for i in range(n))
    deleted = pairs_and_runs(np.array([name not in left_out for name in names]))
    error = []
    for units in map(np.flatnonzero, deleted):
        rise = sum(alone[i] - intact for i in units)
        pairs = itertools.combinations((units + 1).tolist(), 2)
        points = [extra.get((i, j), 0.1 * j - 0.03 * i * i) for i, j in pairs]
        error.append(intact + rise + sum(points) / 100)
    error = np.array(error)
    return Deletions(
        unit=names,
        deleted=deleted,
        error=error,
        loss=3 * error + 0.2,
        kl=error**2,
        agreement=1 - error / 2,
        left_out=dict.fromkeys(left_out, "no shortcut, and its shapes differ"),
        intact_error=intact,
        intact_loss=0.35,
        num_examples=400,
        num_classes=classes,
        choices={},
    )


# 3 of 6 pairs within a point, and one unit that may just go.
HALF = result(
    [0.07, 0.09, 0.13, 0.06],
    {(1, 2): 1, (1, 3): -1, (1, 4): 0.4, (2, 3): 1.02, (2, 4): -1.02, (3, 4): 8},
)
# 10 of 21 pairs, and no unit that may go.
LESS = result(
    [0.0602, 0.09, 0.13, 0.07, 0.1, 0.08, 0.11],
    {
        pair: (1.1 + 0.3 * i) * (-1) ** i
        for i, pair in enumerate(list(itertools.combinations(range(1, 8), 2))[:11])
    },
)
RUNS = result([0.1, 0.052, 0.055, 0.051, 0.4], {(1, 2): -2, (1, 3): -0.7, (2, 4): -0.4, (4, 5): -5})
GAP = result([0.051, 0.2, 0.052, 0.053, 0.12], {(1, 3): 2.5}, left_out=["stage1/unit2"])
# The run of the first three is never sure, that of units 2 to 4 always.
SURE = dataclasses.replace(
    RUNS, spared=np.where(RUNS.deleted[:, 4], 0.0, np.where(RUNS.deleted[:, 0], 0.3, 0.97))
)
CASES = {
    "an interval of the longest run": {"sure": SURE},
    "half are additive": {"deep": HALF},
    "just less than half": {"deep": LESS},
    "of each verdict, one beside a threshold": {
        "runs": RUNS,
        "gap": GAP,
        "just not broken": result([0.72, 0.2, 0.9], {(1, 2): -8, (1, 3): -75, (2, 3): -14}),
        "tangled": result([0.07, 0.055], {(1, 2): 4}),
        "broken": result([0.721, 0.2, 0.9], {(1, 2): -8, (1, 3): -75, (2, 3): -14}),
        "of two": result([0.41, 0.44], {(1, 2): -3}, classes=2),
        "just learned": result([0.71, 0.715], {(1, 2): 1.5}, intact=0.72),
        "new": result([0.74, 0.73], {(1, 2): 1.5}, intact=0.721),
        "new, of two": result([0.43, 0.42], {(1, 2): -1.5}, intact=0.401, classes=2),
    },
    "a single unit": {"short": result([0.2, 0.3], {}, left_out=["stage1/unit1"])},
}
