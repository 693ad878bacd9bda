"""Steps to the threshold: one form clearly faster, the other, an interval that just leaves out 1 or does not;
seeds that never reach it, in one form and in both; a rate at an end of those tried; one form.
"""

import numpy as np

from resjax.studies.convolution.activations import TrainingSpeed

# Of three seeds, so that Student's interval of the mean is ±2.4842 deviations, here ±0.02766.
SPREAD = 0.01 * np.array([-1, -0.2, 1.2])


def result(reached, chosen=0.03, rates=(0.01, 0.03, 0.1), total=200):
    reached = np.array(reached, float)
    step = np.array([5, 55, 105])
    level = np.where(np.isinf(reached), 400, reached)[:, None]
    return TrainingSpeed(
        rate=np.array(rates),
        held_out_loss=np.array([np.inf if r > 0.05 else 0.2 + abs(r - chosen) for r in rates]),
        chosen=chosen,
        reached=reached,
        step=step,
        error=0.9 * np.exp(-step / level),
        total=total,
        choices={},
    )


SAME = result([100, 100, 100], chosen=0.01)
CASES = {
    "the first is faster": {"ReLU": result([30, 31, 33]), "tanh": result([180, 190, 210], total=400)},
    "the second is faster": {"ReLU": result([90, 100, 95]), "tanh": result([30, 31, 33])},
    "interval just beside 1": {"ReLU": SAME, "tanh": result(100 * np.exp(0.0277 + SPREAD))},
    "interval just not beside 1": {"ReLU": SAME, "tanh": result(100 * np.exp(0.0276 + SPREAD))},
    "interval just beside 1, slower": {"ReLU": SAME, "tanh": result(100 * np.exp(-0.0277 - SPREAD))},
    "some seeds never": {"ReLU": result([30, 31, 33]), "tanh": result([180, np.inf, np.inf])},
    "some seeds never, and disagree": {"ReLU": result([30, np.inf, 33]), "tanh": result([180, 190, 185])},
    "the first never": {"ReLU": result([np.inf] * 3), "tanh": result([50, 60, 70])},
    "neither always": {"ReLU": result([30, np.inf, 33]), "tanh": result([180, np.inf, np.inf])},
    "the largest rate, and the only one": {
        "ReLU": result([30, 31, 33], chosen=0.04, rates=(0.01, 0.04)),
        "tanh": result([60, 62, 66], chosen=0.03, rates=(0.03,)),
    },
    "one form": {"tanh": result([60, 62, 66])},
}
