"""Reading tensors by name, from two kinds of files:

* safetensors: a table of names, dtypes and shapes before raw numbers; memory-mapped, so that a tensor is read
  on demand;
* files of ``torch.save``, in the current format and that of before 2020, with
  ``resjax.pretrained.torch_files``.

A checkpoint of a training program contains more than a network: its ``state_dict`` is searched under the
usual names, and prefixes of wrappers (``module.`` of data parallelism) are removed.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from resjax.pretrained.torch_files import read_torch

Tensors = Mapping[str, np.ndarray]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read(path: str | Path) -> Tensors:
    """Every tensor of a file of safetensors or ``torch.save``, by its name within the network.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is of another format, it contains no network, or it would run code.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if not _is_safetensors(file):
        tensors = _state_dict(read_torch(file), file)
        return _Lazy(_without_prefixes(list(tensors)), tensors.__getitem__)
    try:
        opened = safe_open(file, framework="np")
    except SafetensorError as error:
        raise ValueError(f"{file} is a damaged safetensors file: {error}") from error
    return _Lazy(_without_prefixes(list(opened.keys())), opened.get_tensor)


def sha256(path: str | Path) -> str:
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and length <= file.stat().st_size - 8


class _Lazy(Mapping[str, np.ndarray]):
    """Tensors that are read on demand; ``names`` has their names in the file."""

    def __init__(self, names: dict[str, str], get: Callable[[str], np.ndarray]) -> None:
        self._names, self._get = names, get

    def __getitem__(self, name: str) -> np.ndarray:
        return self._get(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _without_prefixes(names: list[str]) -> dict[str, str]:
    """New name → name in the file; only prefixes that all names share are removed."""
    short = {name: name for name in names}
    while prefix := next((p for p in PREFIXES if names and all(n.startswith(p) for n in short)), ""):
        short = {name.removeprefix(prefix): whole for name, whole in short.items()}
    return short


def _state_dict(found: Any, file: Path) -> dict[str, np.ndarray]:
    """The first dict of tensors, at the top or under one of WRAPPERS."""
    here = found
    while isinstance(here, dict):
        arrays = {k: v for k, v in here.items() if isinstance(v, np.ndarray)}
        if any(array.ndim for array in arrays.values()):
            return arrays
        here = next((here[w] for w in WRAPPERS if isinstance(here.get(w), dict)), None)
    keys = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
    raise ValueError(
        f"{file} holds no network's tensors, neither at the top nor under {', '.join(WRAPPERS)}; it holds: "
        f"{keys[:300]}"
    )
