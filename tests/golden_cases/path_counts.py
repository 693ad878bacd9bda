"""Numbers of paths: a tail of just 2.5 % and just less at both ends of the central 95 %, lengths that are one
or none, g that are told and not, one deletion and several, networks that share a line."""

import numpy as np

from resjax.studies.paths.path_counts import PathCounts

NAN = float("nan")


def result(share, plain=0, deleted=(1, 2), g=(0.1, 0.25, 0.5, 0.7, 1.0), effective=None):
    """Shares need not be binomial: these are uneven, so that what is turned round shows."""
    residual = len(share) - 1
    length = np.arange(plain, plain + residual + 1)
    left = np.linspace(0.97, 0.03, residual + 1)
    if effective is None:
        effective = [(plain + i // 2, plain + max(i // 2, 1 + i % residual)) for i in range(len(g))]
    return PathCounts(
        length=length,
        share=np.array(share),
        deleted=np.array(deleted),
        surviving=np.array([left ** (1 + 2 * i) for i in range(len(deleted))]),
        attenuation=np.array(g),
        effective=np.array(effective, float),
        num_residual=residual,
        num_plain=plain,
        choices={"range": "central 95 %"},
    )


CASES = {
    "tails of just 2.5 %": {"deep": result([0.025, 0.15, 0.3, 0.4, 0.1, 0.025])},
    "tails of just less, plain units": {"deep": result([0.0249, 0.1501, 0.3, 0.4, 0.1001, 0.0249], plain=2)},
    "an upper tail of just more": {"deep": result([0.0251, 0.5, 0.449, 0.0259])},
    "one plain unit, one deletion": {
        "deep": result([0.2, 0.1, 0.4, 0.29, 0.01], plain=1, deleted=[2], g=[0.25, 0.4])
    },
    "no g that is told, no range": {
        "deep": result([0.3, 0.69, 0.01], g=(0.2501, 0.7), effective=[(1, 1), (NAN, NAN)])
    },
    "a range of one length": {"deep": result([0.01, 0.98, 0.01], g=[0.5], effective=[(1, 1)])},
    "networks that share a line": {
        "deep": result([0.1, 0.2, 0.6, 0.1], deleted=(1, 2, 3)),
        "wide": result([0.1, 0.2, 0.6, 0.1], deleted=(1, 2, 3)),
        "flat": result([0.6, 0.3, 0.1], plain=1),
    },
}
