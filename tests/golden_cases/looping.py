"""Layers run twice or side by side: changes that cost just one point and just more; layers of two units and
of one; runs that can't be changed; networks that learned just enough and too little."""

import numpy as np

from resjax.studies.lesions.looping import Looping

NAN = np.nan


def result(error, sizes, intact=0.125, spared=None, layer=None):
    """``error`` [change, run]; ``sizes`` of the runs, each behind the one before, or single units first."""
    error, sizes = np.array(error, float), np.array(sizes)
    layer = np.ones(len(sizes), bool) if layer is None else np.array(layer)
    first = np.concatenate([np.cumsum(own) - own for own in (sizes[~layer], sizes[layer])])
    name = ["layer {}" if own > 1 else "stage1/unit{}" for own in sizes]
    order = [*range(1, 1 + int((~layer).sum())), *range(1, 1 + int(layer.sum()))]
    share = np.where(np.isnan(error), NAN, error <= intact + 0.01 if spared is None else spared)
    return Looping(
        run=tuple(text.format(i) for text, i in zip(name, order, strict=True)),
        first=first,
        size=sizes,
        layer=layer,
        change=("loop 2", "loop 3", "parallel")[: len(error)],
        error=error,
        loss=3 * error,
        kl=error**2,
        agreement=1 - error / 2,
        spared=share.astype(float),
        intact_error=intact,
        intact_loss=2 * intact,
        num_examples=400,
        num_classes=10,
        choices={"further training": "none"},
    )


LAYERS = result(
    [
        [0.13, 0.4, 0.128, 0.2, 0.135, 0.1351],
        [0.2, 0.6, 0.13, 0.31, 0.17, 0.44],
        [0.126, 0.3, 0.131, NAN, 0.61, NAN],
    ],
    [1, 1, 1, 1, 2, 2],
    layer=[False] * 4 + [True] * 2,
    spared=[[0.9, 0, 1, 0, 0.5, 0.4], [0, 0, 0.96, 0, 0, 0], [0.97, 0, 0.5, NAN, 0, NAN]],
)
CASES = {
    "layers of two units": {"vit": LAYERS},
    "each unit a layer": {
        "deep": result([[0.13, NAN, 0.136], [0.3, NAN, 0.2], [NAN, NAN, NAN]], [1, 1, 1]),
        "flat": result([[0.5, 0.6, 0.135]], [1, 1, 1]),
    },
    "learned just enough, and too little": {
        "enough": result([[0.72, 0.8]], [1, 1], intact=0.72),
        "new": result([[0.72, 0.8]], [1, 1], intact=0.7201),
    },
}
