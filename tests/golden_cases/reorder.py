"""Other orders: a first swap of just 15 points and just more; medians that rise by just one point and more;
rank correlations about −0.9; errors at 80 % of chance and beyond; neighbours that cost just one point, and
more; one draw, one number of swaps, no unit that never moves."""

import dataclasses

import numpy as np

from resjax.studies.lesions.orders import kendall_tau
from resjax.studies.lesions.reorder import Reordering

NEAR = (0.01, 0.0102, 0.03)  # how much the error rises with each swap of neighbours


def order(wrong, n, fixed):
    """``fixed`` units in place, then the others with so many pairs in the wrong order."""
    left, made = list(range(fixed, n)), list(range(fixed))
    while left:
        i = min(wrong, len(left) - 1)
        made.append(left.pop(i))
        wrong -= i
    return made


def result(swaps, near=NEAR, intact=0.04, classes=10, fixed=1, n=5, layers=()):
    """``swaps``: {number of swaps: error of each draw}; ``layers``: rises with swaps of layers of two."""
    variants = []
    for k, errors in swaps.items():
        wrong = [k + 2 * j * j for j in range(len(errors))]
        variants += [("swaps", k, order(w, n, fixed), e) for w, e in zip(wrong, errors, strict=True)]
    for i, rise in enumerate(near):
        own = np.arange(n)
        own[[fixed + i, fixed + i + 1]] = own[[fixed + i + 1, fixed + i]]
        variants.append(("neighbours", 1, own, intact + rise))
    for i, rise in enumerate(layers):
        own, first = np.arange(n), fixed + 2 * i
        own[first : first + 4] = own[[first + 2, first + 3, first, first + 1]]
        variants.append(("layers", 1, own, intact + rise))
    shuffled = [0.4, 0.5 + intact / 5, 0.86, 0.49]
    variants += [("shuffle", 0, order(2 + j * j, n, fixed), e) for j, e in enumerate(shuffled)]
    variants.append(("reversal", 0, [*range(fixed), *range(n)[: fixed - n - 1 : -1]], 0.75 + intact / 8))
    kinds, numbers, orders, errors = zip(*variants, strict=True)
    names = tuple(f"stage1/unit{i + 1}" for i in range(n))
    error = np.array(errors, float)
    return Reordering(
        unit=names,
        kind=kinds,
        swaps=np.array(numbers),
        order=np.array(orders),
        tau=kendall_tau(np.array(orders)),
        error=error,
        loss=3 * error + 0.2,
        kl=error**2,
        agreement=1 - error / 2,
        fixed=names[:fixed],
        intact_error=intact,
        intact_loss=0.32,
        num_examples=400,
        num_classes=classes,
        choices={},
    )


def medians(*values, **options):
    """1, 2, … swaps with these medians, of three draws each."""
    return result({k: [0.8 * v, v, min(1.6 * v, 0.97)] for k, v in enumerate(values, 1)}, **options)


SMOOTH = result(
    {1: [0.06, 0.07, 0.11, 0.062], 3: [0.13, 0.2, 0.41], 4: [0.3, 0.5, 0.33]},
    near=(0.01, 0.0102, 0.26),
    fixed=2,
    n=6,
)
# Of three swaps of neighbours one surely costs at most a point, and one may.
SURE = dataclasses.replace(
    SMOOTH,
    spared=np.where(np.cumsum(SMOOTH.of_kind("neighbours")) == 1, 0.96, 0.04 + 0.1 * (SMOOTH.error < 0.06)),
)
CASES = {
    "whole layers": {
        "vit": result({1: [0.05, 0.06, 0.04], 3: [0.2, 0.3, 0.1]}, fixed=0, n=6, layers=(0.01, 0.0102)),
        "deep": SMOOTH,
    },
    "an interval of the swaps of neighbours": {"sure": SURE},
    "smooth": {"deep": SMOOTH},
    "at each threshold": {
        "order": medians(0.03, 0.05, 0.05, 0.06, 0.06, n=6, near=(0, 0.02, 0.01, 0.16)),
        "order, one pair wrong": medians(0.06, 0.05, 0.08, 0.12),
        "one draw, all move": result({3: [0.1]}, near=(0.0101, 0.86, 0.01, 0.26), fixed=0),
        "point": medians(0.032, 0.04, 0.035, intact=0.03),
        "constant": medians(0.03, 0.03, intact=0.03),
        "step": medians(0.19, 0.45),
        "just learned": medians(0.74, 0.76, intact=0.72),
    },
    "just beyond each": {
        "point": medians(0.032, 0.0402, 0.035, intact=0.03),
        "order": medians(0.04, 0.04, 0.06, 0.12),
        "step": medians(0.1901, 0.45),
        "odd": medians(0.12, 0.07),
        "step of two": result({2: [0.4, 0.41, 0.9], 4: [0.5, 0.42, 0.47]}),
        "new": medians(0.74, 0.76, intact=0.721),
        "of two": medians(0.45, intact=0.401, classes=2),
    },
}
