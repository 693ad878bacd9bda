"""Reading safetensors: a table of names, dtypes and shapes before raw numbers, which are memory-mapped."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from resjax.data.files import open_regular
from resjax.pretrained.reading.scalars import scalars

# Those that the library does not turn into arrays of NumPy.
_FLOAT8 = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
_REFUSED = {
    "C": "is complex: save its real and imaginary part",
    "F": "which NumPy lacks: save tensor.float()",
}


def read_safetensors(file: Path) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, Any]]:
    """The tensors, which are read on demand, and the plain values of a file.

    These are its metadata, which are texts, and the numbers in tensors of one element.

    Raises:
      ValueError: it is damaged or cut short.
    """
    try:
        opened = safe_open(file, framework="np")
    except SafetensorError as error:
        raise ValueError(
            f"{file} is a damaged safetensors file, or it is cut short at {file.stat().st_size:,} bytes "
            f"({error}): download it again"
        ) from error
    with open_regular(file) as header:
        start = 8 + int.from_bytes(header.read(8), "little")
        table: dict[str, Any] = json.loads(header.read(start - 8))
    values: dict[str, Any] = table.pop("__metadata__", {})
    tensors = {name: _getter(opened, file, start, name, entry) for name, entry in table.items()}
    shapes = {name: entry["shape"] for name, entry in table.items() if not _refused(entry["dtype"])}
    return tensors, values | scalars(tensors, shapes)


def _getter(
    opened: Any, file: Path, start: int, name: str, entry: dict[str, Any]
) -> Callable[[], np.ndarray]:
    kind = entry["dtype"]
    if kind in _FLOAT8:
        return partial(_mapped, file, start + entry["data_offsets"][0], _FLOAT8[kind], tuple(entry["shape"]))
    if _refused(kind):
        return partial(_refuse, f"{file}: the tensor {name!r} is of dtype {kind}, {_REFUSED[kind[0]]}")
    return partial(opened.get_tensor, name)


def _refused(kind: str) -> bool:
    return kind in ("F4", "F6_E2M3", "F6_E3M2") or kind.startswith("C")


def _mapped(file: Path, offset: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape:
        return np.zeros(shape, dtype)
    with open_regular(file) as opened:
        return np.memmap(opened, np.uint8, "r", offset, shape).view(dtype)


def _refuse(message: str) -> np.ndarray:
    raise ValueError(message)
