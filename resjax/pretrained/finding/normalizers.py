"""Constants of standardization that a file holds.

Some networks are saved with a layer that standardizes their images. It keeps a mean and a standard deviation
per channel as buffers: ``normalizer.new_mean`` and ``normalizer.new_std`` beside ``model.conv1.weight``, or
``model.mu`` and ``model.sigma``.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from resjax.pretrained.constants import Constants
from resjax.pretrained.reading.files import Tensors, shape_of

# Names of a mean, and of the deviation beside it.
_PAIRS = {
    "mean": "std", "new_mean": "new_std", "mu": "sigma", "means": "stds", "_mean": "_std",
    "image_mean": "image_std", "pixel_mean": "pixel_std", "data_mean": "data_std",
}  # fmt: skip


def names(tensors: Tensors) -> Iterator[tuple[str, str]]:
    """The names of each mean and its standard deviation, of one number or three."""
    for name in tensors:
        before, dot, last = name.rpartition(".")
        if last in _PAIRS:
            std = f"{before}{dot}{_PAIRS[last]}"
            shapes = [shape_of(tensors, one) for one in (name, std) if one in tensors]
            if len(shapes) == 2 and all(shape is not None and math.prod(shape) in (1, 3) for shape in shapes):
                yield name, std


def same_parts(a: str, b: str) -> int:
    """How many parts between dots are the same at the beginning of two names."""
    pairs = zip(a.split("."), b.split("."), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def constants(tensors: Tensors, prefix: str, channels: int) -> Constants | None:
    """Mean and standard deviation per channel of pixels in 0 … 1, for the network under ``prefix``.

    Of several pairs, the one whose name begins most like ``prefix``. Those of pixels in 0 … 255 are scaled.
    None where the file has no pair, or none that can be of pixels.
    """
    near = sorted(names(tensors), key=lambda pair: -same_parts(pair[0], prefix))
    for pair in near:
        mean, std = (np.asarray(tensors[name], np.float64).reshape(-1) for name in pair)
        if not {mean.size, std.size} <= {1, channels}:
            continue
        scale = 255 if max(mean.max(), std.max()) > 1 else 1
        if np.all((mean >= 0) & (mean <= scale) & (std > 0) & (std <= scale)):
            mean, std = (np.broadcast_to(value / scale, channels) for value in (mean, std))
            return Constants(tuple(mean.round(6).tolist()), tuple(std.round(6).tolist()))
    return None
