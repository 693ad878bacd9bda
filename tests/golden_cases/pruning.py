"""Greedy deletion: how many may go, up to one point and just beyond, beside as many, fewer or none at random;
curves that come back; fewer units that do better by just one point, and by more."""

import dataclasses

import numpy as np

from resjax.studies.lesions.pruning import Pruning


def result(error, random, left_out=0, unused=0, classes=10):
    """``error`` by the number of units out, ``random`` {size: errors of the sets drawn}."""
    rounds, error = len(error) - 1, np.array(error, float)
    n = rounds + left_out + unused
    names = tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(n))
    sets = [(size, drawn) for size, errors in random.items() for drawn in errors]
    return Pruning(
        unit=names,
        order=np.roll(np.arange(rounds), 2)[::-1],
        error=error,
        loss=3 * error,
        kl=error**2,
        agreement=1 - error / 2,
        choice_error=error - 0.043,
        choice_loss=2 * error + 0.01,
        random_number=np.array([size for size, _ in sets]),
        random_error=np.array([drawn for _, drawn in sets], float),
        left_out=dict.fromkeys(names[n - left_out :], "no shortcut, and its shapes differ"),
        num_examples=400,
        num_choice_examples=1280,
        num_classes=classes,
        choices={"further training": "none"},
    )


def drawn(median):
    """Five errors, neither symmetric nor in order."""
    return [median, median + 0.2, median - 0.002, median + 0.05, median - 0.01]


# What first costs more than a point: four units chosen, seven drawn.
LONG = [0.125, 0.12, 0.128, 0.135, 0.1351, 0.134, 0.3, 0.41, 0.87]
GENTLE = {1: drawn(0.126), 2: drawn(0.129), 3: drawn(0.131), 5: drawn(0.135), 7: drawn(0.1351)}
STEEP = {1: drawn(0.1351), 2: drawn(0.41), 3: [0.9]}
# Surely two, possibly five: a later number that is sure again does not count.
SURE = dataclasses.replace(
    result(LONG, GENTLE, left_out=2, unused=2),
    spared=np.array([1.0, 0.98, 0.95, 0.9, 0.4, 0.05, 0.0, 0.3, 0.0]),
)
CASES = {
    "an interval of the number chosen": {"sure": SURE},
    "3 of 10 chosen, 5 drawn": {"deep": result(LONG, GENTLE, left_out=2, unused=2)},
    "3 of 3 chosen, 1 drawn": {
        "deep": result([0.125, 0.13, 0.12, 0.1349], {1: drawn(0.135), 2: drawn(0.136), 3: [0.1349]})
    },
    "as many": {
        "deep": result([0.125, 0.13, 0.135, 0.2], {1: drawn(0.13), 2: drawn(0.1349), 3: [0.2]}),
        "all": result([0.125, 0.13], {1: drawn(0.12)}, left_out=1),
    },
    "none drawn, and none at all": {
        "deep": result([0.125, 0.115, 0.14, 0.11501], STEEP),
        "flat": result([0.125, 0.1351, 0.12, 0.9], STEEP, unused=3),
        "thin": result([0.125, 0.6], {1: drawn(0.7)}),
    },
    "fewer do better": {"deep": result([0.125, 0.2, 0.1149, 0.5], STEEP)},
    "learned just enough, too little": {
        "enough": result([0.72, 0.725], {1: drawn(0.8)}),
        "too little": result([0.7201, 0.73], {1: drawn(0.6)}),
        "of two": result([0.4001, 0.45], {1: drawn(0.4)}, classes=2),
    },
}
