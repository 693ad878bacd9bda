"""Tensors of one element as numbers of Python, such as an accuracy beside the weights."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

# BatchNorm's counter of PyTorch, one for each layer.
_COUNTER = "num_batches_tracked"
Number = bool | int | float


def scalars(
    tensors: Mapping[str, Callable[[], np.ndarray]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Number]:
    """The numbers in those ``tensors`` whose shape is () or (1,); only these are read.

    ``shapes`` are those of the tensors that can be read. Complex numbers are left out.
    """
    single = [name for name, shape in shapes.items() if tuple(shape) in ((), (1,))]
    arrays = {name: tensors[name]().reshape(()) for name in single if not name.endswith(_COUNTER)}
    return {name: _number(array) for name, array in arrays.items() if array.dtype.kind != "c"}


def _number(array: np.ndarray) -> Number:
    # Of a bfloat16, item() is no number of Python.
    return array.item() if array.dtype.kind in "biu" else float(array)
