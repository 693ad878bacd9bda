"""Votes of sub-networks: majorities that err just one point above the whole network and just more, voters
that err one point more or less than their majority and just beside, networks that learned just enough and
too little, kinds with fewer sizes, no intervals of voters; beside initialization."""

import dataclasses

import numpy as np

from resjax.studies.paths.committee import Committee

NAN = float("nan")
DRAWS = np.array([-0.006, -0.002, -0.001, 0.009])  # around a mean: the median is another


def result(together, alone=(0.314, 0.44), whole=0.071, classes=10, units=9):
    """One kind for each of ``together``, the error of its largest majority; the last has a size less."""
    kinds, sizes = len(together), (1, 3, 5)
    names = ("1 deleted", "3 deleted", "each kept with p = ½")
    error = np.full((kinds, len(sizes), len(DRAWS)), NAN)
    voter = np.full((kinds, 5), NAN)
    for k in range(kinds):
        count = len(sizes) - (k == kinds - 1 > 0)
        error[k, :count] = np.linspace(alone[k] + 0.011, together[k], count)[:, None] + DRAWS
        voter[k, : 4 + (k == 0)] = alone[k] + np.array([-0.05, -0.03, 0, 0.08, 0])[: 4 + (k == 0)]
    mean, of_kind = error.mean(-1), np.arange(kinds)
    ends = np.array([-0.03, 0.04])
    return Committee(
        kind=names[:kinds],
        voters=np.isfinite(voter).sum(1),
        kept=np.array([8, 6, 4.53])[:kinds],
        voter_error=voter,
        size=np.array(sizes),
        majority_error=error,
        average_error=0.8 * error,
        majority_interval=mean[..., None] + ends,
        average_interval=0.8 * mean[..., None] + 2 * ends / 3,
        disagreement=0.123 + 0.1 * of_kind,
        different_answers=0.217 + 0.1 * of_kind,
        kappa=0.61 - 0.4 * of_kind,
        voter_error_interval=np.array(alone)[:kinds, None] + ends / 2,
        disagreement_interval=(0.123 + 0.1 * of_kind)[:, None] + ends / 3,
        different_answers_interval=(0.217 + 0.1 * of_kind)[:, None] + ends / 4,
        kappa_interval=(0.61 - 0.4 * of_kind)[:, None] + 3 * ends,
        whole_error=whole,
        num_units=units,
        num_examples=400,
        num_classes=classes,
        choices={"intervals": "over other voters and committees"},
    )


NONE = np.full((2, 2), NAN)
UNTRAINED = dataclasses.replace(
    result([0.91, 0.9], (0.905, 0.895), whole=0.9),
    different_answers=np.array([0.01, 0.3]),
    different_answers_interval=np.array([[0.0, 0.02], [0.25, 0.35]]),
    kappa=np.array([0.97, NAN]),
    kappa_interval=np.array([[0.95, 0.99], [NAN, NAN]]),
)
CASES = {
    "one point off": {"deep": result([0.081, 0.05])},
    "one point off and just more": {"deep": result([0.0811, 0.081])},
    "three kinds": {"deep": result([0.3, 0.05, 0.2], (0.314, 0.44, 0.6), whole=0.1)},
    "none, one kind": {"deep": result([0.082])},
    "voters one point off, and just not": {
        "beside": result([0.3, 0.3], (0.3101, 0.2899)),
        "within": result([0.3, 0.3], (0.3099, 0.2901)),
    },
    "learned just enough": {"deep": result([0.725, 0.731], (0.74, 0.8), whole=0.72)},
    "learned too little, then one of each": {
        "flat": result([0.74, 0.76], (0.75, 0.8), whole=0.7201),
        "two classes": result([0.405, 0.44], whole=0.4, classes=2, units=12),
        "two, flat": result([0.405], whole=0.4001, classes=2),
        "deep": result([0.3, 0.2]),
    },
    "beside initialization": {
        "deep": dataclasses.replace(result([0.0811, 0.081]), initial=UNTRAINED),
        "flat": result([0.3, 0.2]),
    },
    "an early file": {
        "deep": dataclasses.replace(
            result([0.03, 0.05]),
            choices={},
            kappa=np.array([NAN, 0.2]),
            voter_error_interval=NONE,
            disagreement_interval=NONE,
            different_answers_interval=NONE,
            kappa_interval=NONE,
        )
    },
}
