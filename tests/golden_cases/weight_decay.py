"""Weight decay alone: kernels at 5 % and just above; branches at 10 and 90 % and just beside; ends that are
5 % from the closed form and just more."""

import numpy as np

from resjax.studies.units.weight_decay import CASES as KINDS
from resjax.studies.units.weight_decay import WeightDecay

# [case, point]; at point 2 all are down to 5 %, at point 1 not yet.
KERNEL = np.array([[1, 0.0501, 0.02, 0.003], [1, 0.04, 0.05, 0.004], [1, 0.03, 0.01, 0.001]])
NEVER = np.array([[1, 0.5, 0.2, 0.1], [1, 0.4, 0.05, 0.02], [1, 0.3, 0.0501, 0.0501]])


def result(then, end, kernel=KERNEL, first=2.0, placement="post", power=(2, 0, 1)):
    """``then`` and ``end``: shares of the first size at the third point, and of the closed form at last."""
    first = first * np.array([1, 0.5, 1.5])
    closed = np.array([1, 0.5, 0.25, 0.125]) ** np.array(power)[:, None] * first[:, None]
    branch = np.stack([first, 0.97 * first, np.multiply(then, first), closed[:, 3] * end], 1)
    return WeightDecay(
        placement=placement,
        case=tuple(name for name, *_ in KINDS),
        step=np.array([0, 7, 14, 1021]),
        branch=branch,
        branch_interval=np.stack([0.9 * branch, 1.3 * branch], -1),
        closed_form=closed,
        power=np.array(power),
        kernel=kernel,
        rate=0.1,
        decay=0.3,
        choices={"seed": 0},
    )


POST = result([0.0999, 0.901, 0.5], [1.049, 0.96, 1])
EDGE = result([0.1, 0.9, 0.0999], [1.051, 0.952, 0.9525])
PRE = result([0.01, 0.04, 0.02], [3, 1, 0.25], first=0.8, placement="pre", power=(2, 1, 2))
CASES = {
    "one verdict each": {"post-activation unit": POST},
    "at the edges, and ends beside the closed form": {"post-activation unit": EDGE},
    "both units": {"post-activation unit": POST, "pre-activation unit": PRE},
    "kernels never small": {"post-activation unit": result([0.3, 0.95, 0.6], [1, 1, 1], NEVER)},
}
