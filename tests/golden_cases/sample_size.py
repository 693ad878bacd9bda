"""Networks on few examples: clearly lower or higher at none, less than half, just half and all of the sizes,
and at both; an interval that just leaves out 0, and just not; errors that are equal; one network.
"""

import numpy as np

from resjax.studies.convolution.sample_size import SETTINGS, SampleSize

# Of three seeds, so that Student's interval of the mean is ±2.4842 deviations, here ±0.02766.
SPREAD = 0.01 * np.array([-1, -0.2, 1.2])
SIZES = (50, 200, 800, 1400)


def result(test, parameters, settings=SETTINGS, train=0.01, spread=SPREAD):
    """``test`` [setting, size]: means over seeds."""
    test = np.array(test, float)
    level = train * (1 + np.arange(test.size)).reshape(test.shape)
    return SampleSize(
        size=np.array(SIZES[-test.shape[1] :]),
        setting=settings,
        train_error=level[..., None] * [0.5, 0.8, 1.7],
        test_error=test[..., None] + spread,
        parameters=parameters,
        num_test=397,
        num_classes=10,
        choices={},
    )


LOCAL = result([[0.31, 0.12], [0.62, 0.41], [0.53, 0.28]], 5_678, train=0.02, spread=0.5 * SPREAD)
DENSE = result([[0.33, 0.15], [0.61, 0.44], [0.55, 0.22]], 91_011, train=0.003, spread=0 * SPREAD)
SAME = {"spread": SPREAD[[0, 2, 1]]}  # what differs is not paired with ``SPREAD``
AGAINST = {"settings": ("just", "just not"), "spread": 0 * SPREAD}
CASES = {
    "lower at half, equal, higher at all": {
        "convolution": result([[0.21, 0.149], [0.61, 0.44], [0.65, 0.36]], 1_234),
        "locally connected": LOCAL,
        "dense": DENSE,
    },
    "lower and higher at one of three, both": {
        "convolution": result([[0.31, 0.22, 0.04], [0.45, 0.2, 0.18], [0.51, 0.48, 0.46]], 1_234, **SAME),
        "dense": result([[0.31, 0.22, 0.15], [0.35, 0.2, 0.18], [0.61, 0.48, 0.36]], 91_011),
    },
    "at two, at all and at one of four": {
        "convolution": result(
            [[0.3, 0.3, 0.2, 0.1], [0.5, 0.36, 0.31, 0.2], [0.7, 0.6, 0.5, 0.4]], 1_234, **SAME
        ),
        "dense": result([[0.3, 0.4, 0.33, 0.1], [0.41, 0.3, 0.2, 0.1], [0.7, 0.6, 0.5, 0.47]], 91_011),
    },
    "interval just beside 0": {
        "convolution": result([[0.2277], [0.2276]], 1_234, ("just", "just not")),
        "dense": result([[0.2], [0.2]], 91_011, **AGAINST),
    },
    "interval just beside 0, lower": {
        "convolution": result([[0.1723], [0.1724]], 1_234, ("just", "just not")),
        "dense": result([[0.2], [0.2]], 91_011, **AGAINST),
    },
    "equal in every seed": {
        "convolution": result([[0.3, 0.2]], 1_234, ("moved",)),
        "dense": result([[0.3, 0.2]], 91_011, ("moved",), train=0.02),
    },
    "one network, one setting": {"dense": result([[0.3, 0.2, 0.15]], 91_011, ("moved",))},
}
