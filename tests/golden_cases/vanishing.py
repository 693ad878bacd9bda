"""The product of factors: ratios just within and just beyond a factor of ten, intervals that cross it, and
groups of networks that share a fate."""

import numpy as np

from resjax.studies.signals.vanishing import Vanishing

SPREAD = np.array([-1.2, -0.4, 0.3, 1.3])


def result(at_end, activation="relu", gain=2**0.5, residual=False, scaled=False, around=0.01, product=None):
    """Four networks of two depths; ``at_end`` is the mean log₁₀ of the ratio at the larger one."""
    mean = np.array([at_end / 4, at_end])
    theory = mean if product is None else np.array([product / 4, product])
    return Vanishing(
        depth=np.array([10, 40]),
        log_ratio=mean + around * SPREAD[:, None],
        log_product=np.tile(theory, (4, 1)),
        activation=activation,
        gain=gain,
        residual=residual,
        scaled=scaled,
        choices={"seed": 0},
    )


CASES = {
    "every fate": {
        "plain sigmoid": result(-63.4, "sigmoid", 1.0, product=-62.6),
        "plain tanh": result(6.2, "tanh", 2.0),
        "residual": result(0.3, residual=True, scaled=True),
        "plain ReLU": result(0.98, around=0.05),
    },
    "just beyond a factor of ten": {
        "a": result(-1.03),
        "b": result(1.03),
        "c": result(2.98, product=3.02),
        "d": result(-3.02, product=-2.98),
    },
    "just within": {"a": result(-0.97), "b": result(0.97, residual=True)},
    "one network": {"": result(0.0)},
}
