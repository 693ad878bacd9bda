"""Reading safetensors: a table of names, dtypes and shapes before raw numbers, which are read on demand."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from resjax.pretrained.reading.raw import Raw
from resjax.pretrained.reading.scalars import scalars

_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
# Bytes of the table. Some 200,000 tensors, whose objects take 300 MB in Python.
_LONGEST_TABLE = 1 << 24


def read_safetensors(file: Path) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, Any]]:
    """The tensors, which are read on demand, and the plain values of a file.

    These are its metadata, which are texts, and the numbers in tensors of one element.

    Raises:
      ValueError: it is damaged or cut short, or its table has more than 16 MiB.
    """
    raw = Raw(file)
    start = 8 + int.from_bytes(raw.read(8), "little")
    if start > _LONGEST_TABLE:
        raise ValueError(
            f"{file} has a table of tensors of {start - 8:,} bytes, and at most {_LONGEST_TABLE:,} are read: "
            "save the tensors of the network alone"
        )
    try:
        safe_open(file, framework="np")  # checks the whole table
        table: dict[str, Any] = json.loads(raw.read(start - 8), object_pairs_hook=_once)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is a damaged safetensors file, or it is cut short at {raw.size:,} bytes "
            f"({error}): download it again"
        ) from error
    values: dict[str, Any] = table.pop("__metadata__", {})
    tensors = {name: _getter(raw, start, name, entry) for name, entry in table.items()}
    shapes = {name: entry["shape"] for name, entry in table.items() if entry["dtype"] in _DTYPES}
    return tensors, values | scalars(tensors, shapes)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in its table")
    return found


def _getter(raw: Raw, start: int, name: str, entry: dict[str, Any]) -> Callable[[], np.ndarray]:
    kind = entry["dtype"]
    if kind in _DTYPES:
        return partial(_read, raw, start + entry["data_offsets"][0], _DTYPES[kind], tuple(entry["shape"]))
    remedy = (
        "is complex: save its real and imaginary part"
        if kind[0] == "C"
        else "which NumPy lacks: save tensor.float()"
    )
    return partial(_refuse, f"{raw.path}: the tensor {name!r} is of dtype {kind}, {remedy}")


def _read(raw: Raw, place: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return raw.array(place, dtype, math.prod(shape)).reshape(shape)


def _refuse(message: str) -> np.ndarray:
    raise ValueError(message)
