"""The signal: a way back that changes it by a factor of 10 and by just more, up and down; a
gradient of 0; networks with and without shortcuts, of one batch and of three, with and without a
start."""

import numpy as np

from resjax.studies.signals.backward_signal import BackwardSignal

# Of two moments, three batches, and the places before five units and the head.
TOTAL = np.array(
    [
        [[5.1, 3.9, 2.2, 1.9, 0.8, 1.0], [7.7, 4.2, 3.1, 1.4, 1.3, 2.1], [9.4, 6.6, 2.9, 2.3, 1.7, 1.2]],
        [[0.3, 0.5, 0.4, 1.1, 0.9, 0.7], [0.2, 0.1, 0.6, 0.8, 1.2, 1.9], [0.7, 0.4, 0.3, 1.3, 0.5, 2.6]],
    ]
)  # fmt: skip


def result(total, steps=(0,), residual=True):
    """``total`` is [step, batch, place]; the "1" and the rest follow from it, unevenly by place."""
    total = np.array(total, float)
    places = total.shape[-1]
    uneven = np.array([0.3, 0.7, 1.6])[: total.shape[1], None] * np.ones_like(total)
    part = np.linspace(0.3, 1, places) ** 1.3 if residual else np.zeros(places)
    return BackwardSignal(
        unit=tuple(f"stage{1 + i // 3}/unit{1 + i % 3}" for i in range(places - 1)),
        step=np.array(steps),
        total=total,
        shortcut=part * total,
        rest=np.sqrt(1 - part**2) * total + 0.05 * residual * (part < 1),
        cosine=0.2 * (np.arange(places) - 1) * uneven * residual,
        residual=residual,
        batch_size=4,
        choices={},
    )


def way(*places, **more):
    """One batch."""
    return result([[places]], **more)


CASES = {
    "two moments": {"deep": result(TOTAL, (0, 1200))},
    "with and without shortcuts": {
        "deep": result(TOTAL[:1, :2, 1:]),
        "flat": result(TOTAL[:, 1:, :4], (0, 500), residual=False),
    },
    "a later start, before one that has none": {
        "late": result(TOTAL[1:, :, ::2], (900,)),
        "dead": way(0.3, 0.4, 0.0),
    },
    "every way": {
        "ten times": way(20, 3, 2),
        "more": way(20.2, 3, 2),
        "a tenth": way(0.2, 3, 2),
        "less": way(0.198, 3, 2),
        "dead": way(0, 0, 0),
        "much more": way(6e6, 3, 2, residual=False),
        "much less": way(3e-6, 3, 2, residual=False),
        "the same": way(2, 3, 2, residual=False),
    },
    "the mean grows, not the median": {"deep": result([[[8, 2], [10, 2], [60, 2]]])},
    "one fades": {"flat": way(0.19, 3, 2, residual=False)},
}
