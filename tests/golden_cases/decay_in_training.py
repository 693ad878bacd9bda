"""Weight decay in training: each verdict, intervals that touch 1 and just miss it, and training errors one
percentage point above the first and just above that."""

import numpy as np

from resjax.studies.units.decay_in_training import DecayInTraining


def made(
    kernel, branch, errors=(0.0, 0.004, 0.01), spread=0.02, bias=(1.0, 0.5, 0.1), norm=True, gone=(1, 1, 2)
):
    """A result for λ = 0, 0.001 and 0.01 and three seeds, of four units; ``gone`` of them may go."""
    factors = np.array([1 - spread, 1, 1 / (1 - spread)])
    errors = np.array(errors)[:, None] + np.zeros(3)
    # Differences between seeds are not those of λ = 0, so an interval has a width.
    kernel, branch = (
        np.array(v, float)[:, None] * np.where(np.arange(3)[:, None], factors, 1) for v in (kernel, branch)
    )
    damage = np.where(np.arange(4) < np.array(gone)[:, None], 0.01, 0.0101)
    return DecayInTraining(
        decay=np.array([0, 1e-3, 1e-2]),
        kernel=1.3 * kernel,
        bias=np.array(bias)[:, None] * factors,
        branch=0.4 * branch,
        initial_branch=np.array([0.9, 0.8, 1.0]),
        train_error=errors,
        intact_error=errors + 0.01,
        error=(errors + 0.01)[..., None] + damage[:, None],
        norm=norm,
        num_test=397,
        num_classes=10,
        choices={"seeds": "0 … 2"},
    )


# Half the width of the interval of the mean of three logarithms −a, 0, a is t·a/√3 = 2.484·a.
EDGE = float(np.exp(-2.4842 * -np.log(0.98)))
CASES = {
    "both shrink": {"with BatchNorm": made([1, 0.7, 0.3], [1, 0.9, 0.6])},
    "kernels only, without the last λ": {
        "with BatchNorm": made([1, 0.7, 0.3], [1, 1.01, 0.6], errors=(0.0, 0.01, 0.0101))
    },
    "branches grow": {"without BatchNorm": made([1, 0.7, 0.3], [1, 1.1, 1.2], norm=False)},
    "kernels at the edge: clear, and not": {
        "with BatchNorm": made([1, 0.7, EDGE - 0.001], [1, 1, 0.5]),
        "without BatchNorm": made([1, 0.7, EDGE + 0.001], [1, 1, 0.5], norm=False),
    },
    "nothing fits": {"with BatchNorm": made([1, 0.7, 0.3], [1, 0.9, 0.6], errors=(0.0, 0.5, 0.9))},
}
