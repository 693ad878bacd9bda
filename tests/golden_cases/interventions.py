"""Interventions: units that cost one point and just more, that are critical and just not, for each kind; rows
that were not asked for; stacks in parallel; networks that learned just enough and too little."""

import dataclasses

import numpy as np

from resjax.studies.lesions.interventions import Interventions


def result(rows, parallel=None, intact=0.125, classes=10, names=None):
    """``rows`` {intervention: errors}, NaN where a unit can't be scaled; ``parallel`` {stack: its error}."""
    error = np.array(list(rows.values()), float)
    n, parallel = error.shape[1], parallel or {}
    alone = np.array(list(parallel.values()), float)
    units = names or tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(n))
    scaled = [name for name in rows if name.startswith("scale")]
    left = [units[i] for i in range(n) if not scaled or np.isnan(rows[scaled[0]][i])]
    return Interventions(
        unit=units,
        residual=np.ones(n, bool),
        intervention=tuple(rows),
        alpha=np.array([float(name.split()[1]) for name in scaled]),
        error=error,
        loss=3 * error,
        kl=error**2,
        agreement=1 - error / 2,
        stack=tuple(parallel),
        first=np.array([1 + 2 * i for i in range(len(parallel))], int),
        size=np.array([2 + i for i in range(len(parallel))], int),
        parallel_error=alone,
        parallel_loss=3 * alone,
        parallel_kl=alone**2,
        parallel_agreement=1 - alone / 2,
        left_out=dict.fromkeys(left, "no shortcut, and its shapes differ"),
        intact_error=intact,
        intact_loss=2 * intact,
        num_examples=128,
        num_classes=classes,
        choices={"fresh draws": "3, seed 0"},
    )


NAN = np.nan
EVERYTHING = {
    "scale 0": [0.135, NAN, 0.1351, 0.71, 0.2, 0.15],
    "scale 0.5": [0.13, NAN, 0.128, 0.31, 0.14, 0.145],
    "scale 1": [0.125, NAN, 0.125, 0.125, 0.125, 0.125],
    "scale 2": [0.17, NAN, 0.28, 0.6, 0.155, 0.14],
    "freeze": [0.12, 0.5, 0.135, 0.134, 0.8, 0.1352],
    "reset": [0.7201, 0.3, 0.72, 0.719, 0.13, 0.9],
    "redraw 1": [0.135, 0.44, 0.13, 0.75, 0.16, 0.88],
    "redraw 2": [0.133, 0.51, 0.14, 0.77, 0.2, 0.89],
    "redraw 3": [0.137, 0.6, 0.1355, 0.84, 0.17, 0.86],
}
# Of each line: units that surely may, that may, and that may not.
SURE = dataclasses.replace(
    result(EVERYTHING),
    spared=np.array(
        [
            [0.6, NAN, 0.4, 0.0, 0.0, 0.05],
            [1.0, 0.0, 0.6, 0.7, 0.0, 0.4],
            [0.0, 0.0, 0.0, 0.0, 0.95, 0.0],
            [0.5, 0.0, 0.49, 0.0, 0.04, 0.0],
        ]
    ),
)
CASES = {
    "intervals": {"sure": SURE},
    "everything": {"deep": result(EVERYTHING, {"stage1": 0.31, "stage2": 0.1275})},
    "of two, one untrained": {
        "new": result({"scale 0": [0.73, 0.8, 0.86], "reset": [0.9, 0.7, 0.72]}, intact=0.7201),
        "flat": result(
            {
                "scale 0": [0.9, 0.135, 0.6],
                "scale 3": [0.8, 0.7, 0.2],
                "reset": [0.41, 0.1, 0.1349],
            },
            {"stage1": 0.85},
        ),
    },
    "learned just enough": {"deep": result({"reset": [0.73, 0.7301, 0.65, 0.9]}, intact=0.72)},
    "learned too little, two classes": {
        "new": result({"scale 0": [0.42, 0.46, 0.48], "reset": [0.41, 0.4, 0.5]}, intact=0.4001, classes=2)
    },
    "nothing scaled, nothing reset": {
        "deep": result({"freeze": [0.3, 0.2, 0.1301, 0.12]}, {"stage1": 0.1}),
    },
    "nothing scaled of one": {
        "deep": result({"scale 0": [0.3, 0.2, 0.1301], "scale 0.5": [0.2, 0.12, 0.125]}),
        "flat": result({"freeze": [0.31, 0.2, 0.13], "reset": [0.5, 0.4, 0.7]}, {"stage1": 0.6}),
    },
}
