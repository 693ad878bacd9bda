"""Reading what a file holds: tensors by name, and the plain values beside them.

Two kinds of files are read:

* safetensors: a table of names, dtypes and shapes before raw numbers; memory-mapped, so that a tensor is read
  on demand;
* files of ``torch.save``, in the current format and that of before 2020, with
  ``resjax.pretrained.torch_files``.

A checkpoint of a training program contains more than a network, in nested dictionaries. Here their keys are
joined with dots: ``{"state_dict": {"module.conv1.weight": …}}`` holds ``state_dict.module.conv1.weight``.
``resjax.pretrained.prefixes`` finds the network in it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from resjax.pretrained.torch_files import read_torch

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds, by full name."""

    path: Path
    tensors: Tensors
    values: dict[str, Any]  # numbers, strings and truth values, such as ``epoch`` and ``best_acc``


class Lazy(Mapping[str, np.ndarray]):
    """Tensors that are read or computed on demand."""

    def __init__(self, get: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._get = get

    def __getitem__(self, name: str) -> np.ndarray:
        return self._get[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._get)

    def __len__(self) -> int:
        return len(self._get)


def under(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    """Some of ``tensors`` with other names: ``names`` maps a new name to the present one."""
    return Lazy({new: partial(tensors.__getitem__, old) for new, old in names.items()})


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Everything in a file of safetensors or ``torch.save``.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is of another format, it contains no tensors, or it would run code.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if _is_safetensors(file):
        return Checkpoint(file, _safetensors(file), {})
    found = read_torch(file)
    flat = dict(_flatten(found))
    tensors = {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}
    if not any(tensor.ndim for tensor in tensors.values()):
        keys = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{file} holds no network's tensors; it holds: {keys[:300]}")
    values = {name: value for name, value in flat.items() if isinstance(value, bool | int | float | str)}
    return Checkpoint(file, tensors, values)


def sha256(path: str | Path) -> str:
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and length <= file.stat().st_size - 8


def _safetensors(file: Path) -> Tensors:
    try:
        opened = safe_open(file, framework="np")
    except SafetensorError as error:
        raise ValueError(f"{file} is a damaged safetensors file: {error}") from error
    return Lazy({name: partial(opened.get_tensor, name) for name in opened.keys()})  # noqa: SIM118


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full name, value) of every leaf of nested dictionaries; lists are leaves."""
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
