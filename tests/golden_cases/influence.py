"""Cheap scores: intervals of ρ that begin just at 0.5 and just below, that end just at 0.5 and just below;
two scores that disagree; kinds that alternate, with the network at initialization beside it; too few units;
no run of one unit."""

import dataclasses

import numpy as np

from resjax.studies.units.influence_result import DAMAGES, SCORES, Influence

NAN = np.nan


def result(ends, n=4, lengths=(1, 2), intact=0.1, left_out=(), **changes):
    """``ends``: of the intervals of ρ of block influence and of angular distance, for single units; those of
    size and novelty, of the error and of longer runs follow."""
    first, last = np.indices((n, n))
    span = (last - first + 1).astype(float)
    away = np.abs((first + last) / 2 - n / 2)
    known = (span >= 1) & ~np.isin(first, left_out) & ~np.isin(last, left_out)
    value = np.where(known, 0.02 * span + 0.013 * away, NAN)
    value = np.stack([value**2, value, 3 * value, 1 - value])
    deleted = known & np.isin(span, lengths)
    error = np.where(deleted, intact + 0.05 * span + 0.02 * ((first * 3) % 5), NAN)
    ends = np.array([*ends, (0.1, 0.7), (-0.8, -0.2)], float)
    every = np.stack([ends - 0.07 * j for j in range(len(lengths))])
    rows = np.stack([every, every - 0.1])
    return Influence(
        unit=tuple(f"stage1/unit{i + 1}" for i in range(n)),
        kind=("",) * n,
        score=SCORES,
        value=value,
        low=0.9 * value,
        high=1.2 * value,
        loss=3 * error,
        error=error,
        length=np.array(lengths),
        damage=DAMAGES,
        rho=rows.mean(-1),
        rho_low=rows[..., 0],
        rho_high=rows[..., 1],
        left_out={f"stage1/unit{i + 1}": "no shortcut, and its shapes differ" for i in left_out},
        intact_error=intact,
        intact_loss=3 * intact,
        num_examples=400,
        num_classes=10,
        choices={"seed": 0},
        **changes,
    )


TOLD = result([(0.5, 0.9), (0.51, 0.95)])
KINDS = dataclasses.replace(
    result([(-0.2, 0.49), (0.1, 0.499)], n=6, lengths=(1, 2, 4)),
    kind=("attention", "mlp") * 3,
    initial=result([(-0.9, 0.1), (-0.6, 0.6)], n=6, lengths=(1, 2, 4), intact=0.9),
)
FEW = result([(NAN, NAN)] * 2, n=3, lengths=(1,), left_out=(1,))
FEW = dataclasses.replace(FEW, **{name: np.full((2, 1, 4), NAN) for name in ("rho", "rho_low", "rho_high")})
CASES = {
    "just told, and just not known": {
        "told": TOLD,
        "not known": result([(0.499, 0.9), (0.6, 0.95)]),
        "contradicted, just": result([(-0.1, 0.499), (0.0, 0.4)]),
        "contradicted, just not": result([(-0.1, 0.5), (0.0, 0.4)]),
        "one of two": result([(0.6, 0.9), (0.0, 0.4)]),
    },
    "kinds, beside initialization": {"vit": KINDS},
    "learned too little": {"new": result([(0.6, 0.9), (0.7, 0.9)], intact=0.721)},
    "too few units": {"short": FEW},
    "no single unit": {"runs": result([(0.6, 0.9), (0.7, 0.9)], lengths=(2, 3))},
}
