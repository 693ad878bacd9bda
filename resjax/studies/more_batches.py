"""Adds training batches to a result: only those that an earlier result lacks are measured.

Batch i is the same however many batches there are: it has the same examples, and its random numbers follow
from i (``WholeBatches.keyed``). So the result on all batches is the earlier result, followed by the new ones
along the axis ``batch``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

R = TypeVar("R", bound=Any)


def add_batches(earlier: R | None, examples: int, measure: Callable[..., R]) -> R:
    """The result on all whole batches of so many examples.

    Args:
      earlier: the ``Result`` on more or fewer of the same batches, or None. It has the field ``batch_size``,
        and arrays with the axis ``batch``.
      measure: called as ``measure(first_batch=i)`` for the result on batch i and all behind it.

    Raises:
      ValueError: the new batches have another size than the earlier ones.
    """
    if earlier is None:
        return measure(first_batch=0)
    axes = {name: own.index("batch") for name, own in earlier.axes().items() if "batch" in own}
    had = min(getattr(earlier, name).shape[axis] for name, axis in axes.items())
    count = examples // earlier.batch_size
    if count < had:
        return measure(first_batch=0)
    if count == had:
        return earlier
    new = measure(first_batch=had)
    if new.batch_size != earlier.batch_size:
        raise ValueError(
            f"the earlier batches have {earlier.batch_size} examples, the new ones {new.batch_size}; "
            "measure all of them anew"
        )
    both: dict[str, Any] = {
        name: np.concatenate([getattr(earlier, name), getattr(new, name)], axis)
        for name, axis in axes.items()
    }
    return dataclasses.replace(new, **both)
