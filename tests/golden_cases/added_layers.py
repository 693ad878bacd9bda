"""Two more layers: intervals that end below 0, at one percentage point and just above it, and above 0. Those
of the logarithm of the training loss are ten times as wide and lie on the same side."""

import numpy as np

from resjax.studies.units.added_layers import AddedLayers

CASE = tuple(f"{place}, {start}" for place in ("middle", "end") for start in ("identity", "initialized"))


def made(ends, before=0.04, untouched=0.03):
    """The ends of the interval of each case's difference to the untouched network, for three seeds."""
    seeds = np.array([-1.0, 0.0, 1.0])
    ends = np.array(ends)
    middle, half = ends.mean(1, keepdims=True), (ends[:, 1:] - ends[:, :1]) / 2
    off = middle + half * seeds / (4.302652729911275 / np.sqrt(3))  # t with 2 degrees of freedom
    base = untouched + 0.002 * np.array([0, 1, -1.0])
    test_error = np.concatenate([base[None], base + off])
    return AddedLayers(
        case=("untouched", *CASE[: len(ends)]),
        train_loss=0.1 * np.exp(10 * np.concatenate([0 * base[None], off])),  # as clear as the error
        test_loss=0.2 + 3 * test_error,
        test_error=test_error,
        before_loss=np.array([0.3, 0.2, 0.4]),
        before_error=np.full(3, before),
        num_units=6,
        num_test=397,
        num_classes=10,
        choices={"seeds": "0 … 2"},
    )


EACH = made([(-0.02, -0.001), (0.001, 0.02), (-0.005, 0.0099), (-0.005, 0.0101)])
CASES = {
    "each effect": {"residual": EACH},
    "two networks": {
        "residual": made([(-0.01, 0.009)] * 4),
        "plain": made([(0.1, 0.5)] * 2 + [(-0.3, 0.2)] * 2),
    },
    "all help": {"residual": made([(-0.02, -0.01)] * 4)},
    "one seed less, at the edges": {"plain": made([(-0.02, 1e-6), (-1e-6, 0.03)])},
}
