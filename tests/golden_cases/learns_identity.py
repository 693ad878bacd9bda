"""Learning the identity: intervals of the steps that touch and that do not, blocks that never learn, and
units that move towards the identity and in no clear direction."""

import numpy as np

from resjax.studies.units.learns_identity import LearnsIdentity

RANKS = np.linspace(-1, 1, 20)


def result(residual, steps, never=0, after=(0.3, 0.1), scatter=0.01):
    """Twenty blocks around ``steps`` for each λ, the last ``never`` of which do not learn; three networks of
    two depths whose units start at 0.5 and 0.4."""
    decay = np.array([0, 0.01])[: len(steps)]
    needed = np.round(np.array(steps, float)[:, None] * (1 + 0.2 * RANKS))
    if never:
        needed[:, -never:] = np.inf
    point = np.array([0, 10, 999])
    falls = np.array([1.2, 0.5, 0.001])
    before = np.array([0.5, 0.4])[:, None] * np.array([0.99, 1, 1.01])
    noise = np.exp(scatter * np.array([-1, 0.2, 0.8]))
    return LearnsIdentity(
        residual=residual,
        decay=decay,
        rate=np.array([0.1, 0.3])[: len(steps)],
        steps=needed,
        point=point,
        error=np.tile(falls, (len(steps), 20, 1)) * (1 + 0.1 * RANKS[:, None]),
        depth=np.array([8, 32]),
        initial_ratio=before,
        ratio=np.array(after)[:, None] * noise,
        train_error=np.array([[0, 0.01, 0], [0, 0, 0]]),
        choices={"seed": 0},
    )


CASES = {
    "residual faster": {
        "residual": result(True, (12, 10)),
        "plain": result(False, (400, 300), never=12, after=(0.9, 0.8)),
    },
    "intervals touch": {"residual": result(True, (100, 90)), "plain": result(False, (106, 300))},
    "plain faster, no clear direction": {
        "residual": result(True, (100,), after=(0.5, 0.4), scatter=0.1),
        "plain": result(False, (50,)),
    },
    "one kind": {"residual": result(True, (12, 10))},
}
