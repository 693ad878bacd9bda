"""Surgery: an excess of 5 % and just more; an interval of the gap from 0 and from just above; one unit and
several; functions that keep every bit, some logits or lose answers; a training that diverges."""

import numpy as np

from resjax.studies.units.surgery import Surgery

# Three repeats of five steps: the second half are the last three.
UNTOUCHED = np.array([[9, 7, 2.5, 1.5, 1], [8, 6.5, 1, 1.75, 4.5], [4, 5, 3.5, 0.5, 1.75]])
FRONT, BEHIND = "in front of all units", "behind stage1/unit2"


def result(gap=0.0, interval=(-0.3, 0.2), place=(FRONT, BEHIND), deep=None, **changes):
    """``gap`` beside an untouched loss of 2, the mean of the second half."""
    fields = {
        "place": place,
        "difference": 0.0,
        "changed": 0,
        "refused": {},
        "count": 1,
        "deep_loss": UNTOUCHED + gap if deep is None else np.array(deep, float),
        "untouched_loss": UNTOUCHED,
        "gap": gap,
        "gap_interval": np.array(interval),
        "change": np.array([0.02, 0.03, 0.11]),
        "error": 0.21,
        "deep_error": np.array([0.19, 0.18, 0.11]),
        "untouched_error": np.array([0.2, 0.13, 0.12]),
        "num_units": 6,
        "num_examples": 400,
        "num_classes": 10,
        "residual": True,
        "choices": {"seed": 0},
    }
    return Surgery(**{**fields, **changes})


LOWER = result(-0.3, (-0.5, -0.1), deep=UNTOUCHED * [1, 1.1, 0.9, 0.8, 0.85])
HIGHER = result(0.1002, (0.001, 0.4), difference=0.0034, count=2, place=(FRONT,), residual=False)
CASES = {
    "no bit, and less loss": {"deep": LOWER},
    "the same, just": {"deep": result(0.1, (0.02, 0.3), difference=2e-5)},
    "harm, just": {"deep": HIGHER},
    "unclear, from 0": {"deep": result(0.1002, (0.0, 0.4), place=(FRONT,), difference=1.5, changed=1)},
    "one unit harms, three answers": {
        "deep": result(0.7, (0.4, 0.9), place=(BEHIND,), changed=3, difference=0.2)
    },
    "less by next to nothing": {"deep": result(-0.0008)},
    "two, one with places refused": {
        "deep": result(0.3, (-0.1, 0.5), count=3, refused={FRONT: "the sum is normalized."}),
        "flat": HIGHER,
    },
    "diverged": {
        "deep": result(np.inf, (np.nan, np.nan), deep=[[9, 8, 7, 20, np.inf], *UNTOUCHED[1:]]),
        "lost": result(np.nan, (np.nan, np.nan), deep=[[9, 8, 7, 20, np.nan], *UNTOUCHED[1:]]),
    },
}
