"""Jacobians of layers: as designed, up to rounding of the share of zeros; an output that sees one input more;
zeros that are fewer; rows that differ once too often; one weight; no matrix that was kept.
"""

import numpy as np

from resjax.studies.convolution.sharing import LayerJacobian

KERNEL = (0.5, -1.25)


def result(seen=0, zeros=0.0, distinct=0, kept=True, shapes=((1, 4, 1), (1, 3, 1)), weights=2):
    """A window of two inputs; ``seen``, ``zeros`` and ``distinct`` are added to what the design says."""
    inputs, outputs = (int(np.prod(shape)) for shape in shapes)
    rows = np.zeros((outputs, inputs))
    for i in range(outputs):
        rows[i, [i % inputs, (i + 1) % inputs]] = KERNEL
    return LayerJacobian(
        input_shape=shapes[0],
        output_shape=shapes[1],
        weights=weights,
        biases=weights // 2 + 3,
        window=2,
        connections=2 + seen,
        zeros=1 - 2 / inputs + zeros,
        distinct=weights // 2 + distinct,
        jacobian=rows if kept else None,
    )


LARGE = result(kept=False, shapes=((32, 20, 3), (31, 20, 4)), weights=1_456)
TALL = result(kept=False, shapes=((4, 3, 2), (4, 3, 5)), weights=4)
WIDE = result(shapes=((13, 1, 2), (1, 1, 3)), weights=6)  # more inputs and weights, fewer outputs
CASES = {
    "as designed": {"convolution": result(zeros=1e-14), "tall": TALL, "wide": WIDE},
    "as designed, large": {"larger": LARGE},
    "sees one more": {"convolution": result(seen=1), "larger": LARGE},
    "sees more, as many numbers": {"wide": result(4, -0.073, -2, shapes=((13, 1, 2), (1, 1, 3)), weights=6)},
    "sees more, same zeros": {"wide": result(4, distinct=-2, shapes=((13, 1, 2), (1, 1, 3)), weights=6)},
    "sees one less": {"convolution": result(seen=-1, distinct=1), "wide": WIDE},
    "fewer zeros, and another": {
        "wide": WIDE,
        "convolution": result(zeros=-2e-12),
        "local": result(distinct=1),
    },
    "none kept, one weight": {
        "one": LayerJacobian((1, 1, 1), (1, 2, 1), 1, 0, 1, 1, 0.0, 1, None),
    },
}
