"""Units that are cut: some, none and all at most one point, and just beyond; with training on, that helps and
that does not, and from scratch; without BatchNorm, without times, without multiply-adds, without either."""

import dataclasses

import numpy as np

from resjax.studies.cutting.cut_result import Cut

NAN = np.nan


def at(size, indices, values):
    """``values`` at some of the sizes."""
    found = np.full((size, *np.shape(values)[1:]), NAN)
    found[list(indices)] = values
    return found


def result(number, error, mended, further=(), spared=None, left_out=0, **fields):
    """``further``: indices of sizes with maps and other sets."""
    n, sizes = number[-1], len(number)
    names = tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(n + 1 + left_out))
    mended, base = np.array(mended, float), np.array([mended[i] for i in further])
    harmless = np.array(mended) <= error[0] + 0.01001
    share = 1 - 0.75 * np.array(number) / (n + 1)
    # Turns whose ratios to the intact ones spread by 2 %.
    turns = 0.01 * np.array([1.0, 1.2, 1.1]) * share[:, None] * np.array([0.98, 1.0, 1.02])
    own = Cut(
        unit=names,
        order=np.roll(np.arange(n), 2)[::-1],
        number=np.array(number),
        pool=n,
        error=np.array(error, float),
        recalibrated=mended,
        spared=np.where(harmless, 1.0, 0.0) if spared is None else np.array(spared),
        last=at(sizes, further, base + 0.2),
        random=at(sizes, further, np.stack([base + 0.1, base + 0.3, base + 0.11], 1) if further else [[NAN]]),
        mapped=at(sizes, further, base - 0.001),
        trained=np.zeros((sizes, 0)),
        scratch=np.zeros((sizes, 0)),
        multiply_adds=1000 * share,
        mapped_multiply_adds=at(sizes, further, 1010 * share[list(further)]),
        seconds=turns,
        mapped_seconds=at(sizes, further, 1.05 * turns[list(further)]),
        map_rank=8,
        training="",
        left_out=dict.fromkeys(names[n + 1 :], "no shortcut, and its shapes differ"),
        num_examples=400,
        num_choice_examples=128,
        num_classes=10,
        choices={"seed": 0},
    )
    return dataclasses.replace(own, **fields)


NUMBER = [0, 2, 4, 5, 8]
ERROR = [0.125, 0.13, 0.2, 0.35, 0.9]
MENDED = [0.126, 0.125, 0.135, 0.1351, 0.7]
SURE = [1.0, 0.95, 0.5, 0.05, 0.0]  # 2 surely, 5 possibly
DEEP = result(NUMBER, ERROR, MENDED, (2, 3, 4), SURE, left_out=1)
ON = {"training": "50 steps", "trained": at(5, (2, 3, 4), [[0.13], [0.134], [0.14]])}
TWO = {
    "training": "2 epochs",
    "trained": at(5, (2, 3, 4), [[0.14, 0.15], [0.16, 0.14], [NAN, 0.3]]),
    "scratch": at(5, (2, 3, 4), [[0.13, 0.12], [0.14, 0.14], [0.3, 0.2]]),
}
NOWHERE = {"seconds": np.zeros((5, 0)), "mapped_seconds": np.zeros((5, 0))}
UNCOUNTED = {"multiply_adds": np.full(5, NAN), "mapped_multiply_adds": np.full(5, NAN)}
CASES = {
    "4 of 8": {"deep": DEEP},
    "trained on": {"one": dataclasses.replace(DEEP, **ON), "two": dataclasses.replace(DEEP, **TWO)},
    "a point, and just more": {
        "all": result([0, 1, 2], [0.125, 0.13, 0.2], [0.12, 0.13, 0.135], (1, 2)),
        "none": result([0, 1, 2], [0.125, 0.13, 0.2], [0.12, 0.1351, 0.125], (1, 2)),
    },
    "without BatchNorm": {"deep": result(NUMBER, ERROR, [NAN] * 5, spared=[1.0, 1.0, 0.0, 0.0, 0.0])},
    "without multiply-adds, without times": {
        "uncounted": dataclasses.replace(DEEP, **UNCOUNTED),
        "untimed": dataclasses.replace(DEEP, **NOWHERE),
    },
    "without either": {"deep": dataclasses.replace(DEEP, **UNCOUNTED, **NOWHERE)},
    "learned just enough, too little": {
        "enough": result([0, 1, 2], [0.72, 0.73, 0.75], [0.72, 0.72, 0.75]),
        "too little": result([0, 1, 2], [0.7201, 0.73, 0.75], [0.72, 0.72, 0.75]),
    },
}
