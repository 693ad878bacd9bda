"""Reading .npz files: of Flax, as Google publishes vision transformers, and of arrays with PyTorch's names.

Flax's names have slashes, which become dots here, so ``Transformer/encoder_norm/scale`` is
``Transformer.encoder_norm.scale``. Its kernels have their inputs first and their outputs last. They get
PyTorch's order here, outputs first: (in, out) → (out, in), (rows, columns, in, out) → (out, in, rows,
columns). In an attention, (in, heads, numbers) → (heads, numbers, in), and the kernel ``out`` becomes
(outputs, heads, numbers).
"""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resjax.data.archives import open_zip
from resjax.data.files import open_regular
from resjax.data.npz import header, read_member
from resjax.pretrained.reading.formats import shown
from resjax.pretrained.reading.scalars import scalars

_ENDING = ".npy"
_TIMES, _SMALL = 16, 1 << 26  # the arrays may have as many times the bytes of the file, or so many


def read_numpy(file: Path) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, Any]]:
    """The arrays, which are read on demand, and the numbers in those of one element.

    Raises:
      ValueError: it is damaged, an array holds Python objects, or the arrays are far larger than the file.
    """
    size = file.stat().st_size
    tensors: dict[str, Callable[[], np.ndarray]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    total = 0
    try:
        with open_regular(file) as opened, open_zip(opened) as archive:
            for info in archive.infolist():
                key = info.filename.removesuffix(_ENDING)
                found = header(str(file), archive, shown(key), info, size)
                total += found.bytes
                name = key.replace("/", ".")
                if name in tensors:
                    raise ValueError(f"{file}: the name {shown(name)} stands twice in it; save it again")
                tensors[name] = partial(_read, file, key, info)
                shapes[name] = found.shape
    except zipfile.BadZipFile as error:
        raise _damaged(file, error) from error
    if total > max(_TIMES * size, _SMALL):
        raise ValueError(
            f"{file} has {size:,} bytes, and its arrays {total:,}; at most {_TIMES} times as many are read: "
            "write it with numpy.savez"
        )
    return tensors, scalars(tensors, shapes)


def _read(file: Path, key: str, info: zipfile.ZipInfo) -> np.ndarray:
    try:
        with open_regular(file) as opened, open_zip(opened) as archive:
            array = read_member(str(file), archive, shown(key), info)
    except zipfile.BadZipFile as error:
        raise _damaged(file, error) from error
    return _outputs_first(array, key.split("/")) if key.endswith("/kernel") else array


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} is damaged ({error}): download it again")


def _outputs_first(kernel: np.ndarray, path: list[str]) -> np.ndarray:
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if kernel.ndim == 3 and path[-2] != "out":  # queries, keys or values
        return np.moveaxis(kernel, 0, -1)
    return np.moveaxis(kernel, -1, 0) if kernel.ndim > 1 else kernel
