"""Images and labels: reading, order, standardization and augmentation.

`load(config)` returns `Arrays` (the whole set as uint8) or `Stream` (decoded during training). Both are read
in the order of `batch_indices`; `randaugment`, `standardize` and `augment` run on the device.
"""

from resjax.data.arrays import Arrays
from resjax.data.augment import Statistics, augment, standardize, statistics
from resjax.data.config import absolute, defaults
from resjax.data.info import Info
from resjax.data.load import info, load
from resjax.data.order import batch_indices
from resjax.data.randaugment import randaugment
from resjax.data.stream import Stream

__all__ = [
    "Arrays", "Info", "Statistics", "Stream", "absolute", "augment", "batch_indices", "defaults",
    "info", "load", "randaugment", "standardize", "statistics",
]  # fmt: skip
