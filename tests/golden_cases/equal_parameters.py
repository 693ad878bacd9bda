"""Networks with as many parameters: gaps and test errors clearly lower, clearly higher, just beside 0 or not
quite, in three settings; one network; one setting.
"""

import numpy as np

from resjax.studies.convolution.sample_size import SETTINGS
from resjax.studies.convolution.tuned import Tuned

# Of three seeds, so that Student's interval of the mean is ±2.4842 deviations, here ±0.02766.
SPREAD = 0.01 * np.array([-1, -0.2, 1.2])
RATES = (0.001, 0.003, 0.01)


def result(test, train, parameters=11_000, settings=SETTINGS, spread=SPREAD):
    """``test`` and ``train`` [setting, size]: means over seeds."""
    test, train = np.array(test, float), np.array(train, float)
    sizes = test.shape[1]
    held_out = np.array([[[0.4, 0.3 - 0.05 * k, 0.25] for k in range(sizes)]] * 2)
    return Tuned(
        size=np.array((50, 200, 1000)[-sizes:]),
        setting=settings,
        train_error=train[..., None] + 0 * SPREAD,
        test_error=test[..., None] + spread,
        parameters=parameters,
        num_test=397,
        num_classes=10,
        rate=np.array(RATES),
        held_out_error=held_out,
        chosen=np.array(RATES)[held_out.argmin(-1)],
        choices={},
    )


ZERO = [[0, 0]] * 3
LOCAL = result([[0.31, 0.12], [0.62, 0.41], [0.53, 0.28]], ZERO, 10_960)
DENSE = result([[0.3, 0.2], [0.6, 0.5], [0.4, 0.2]], [[0, 0], [0, 0], [0.02, 0.04]], spread=0 * SPREAD)
CASES = {
    "lower, not different, higher": {
        "convolution": result([[0.2, 0.1], [0.61, 0.49], [0.5, 0.3]], ZERO, 11_083),
        "locally connected": LOCAL,
        "dense": DENSE,
    },
    "a smaller gap with a higher error": {
        "convolution": result([[0.4, 0.3], [0.7, 0.6], [0.5, 0.3]], [[0.2, 0.2]] * 3),
        "dense": DENSE,
    },
    "interval just beside 0": {
        "convolution": result([[0.2277], [0.2276], [0.1723]], [[0], [0], [0]]),
        "dense": result([[0.2], [0.2], [0.2]], [[0], [0], [0]], spread=0 * SPREAD),
    },
    "one network, one setting": {"dense": result([[0.3, 0.2, 0.15]], [[0, 0, 0.01]], settings=("moved",))},
}
