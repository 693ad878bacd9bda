"""Reading what a file holds: tensors by name, and the plain values beside them.

Three kinds of files are read, and the folders and indices that consist of them (``folders``):

* safetensors, with ``safetensors_files``;
* files of ``torch.save``, in the current format and that of before 2020, with
  ``torch_files``;
* .npz files, with ``numpy_files``.

A tensor is read on demand, at each use. ``formats`` says what any other file is.

A checkpoint of a training program contains more than a network, in nested dictionaries. Here their keys are
joined with dots: ``{"state_dict": {"module.conv1.weight": …}}`` holds ``state_dict.module.conv1.weight``.
``resjax.pretrained.finding.prefixes`` finds the network in it.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resjax.data.files import open_regular
from resjax.pretrained.reading.folders import INDEX, checkpoint_in, shards
from resjax.pretrained.reading.formats import NUMPY, SAFETENSORS, recognize, shown
from resjax.pretrained.reading.numpy_files import read_numpy
from resjax.pretrained.reading.safetensors_files import read_safetensors
from resjax.pretrained.reading.torch_files import read_torch

_LONGEST_NAME = 500  # characters
Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds, by full name."""

    path: Path  # of the file; of the index, if it consists of several
    tensors: Tensors  # read on demand
    # Numbers, texts and truth values, such as ``epoch`` and ``best_acc``, and tuples of at most 16 of these;
    # a number in a tensor of one element, too.
    values: dict[str, Any]


class Lazy(Mapping[str, np.ndarray]):
    """Tensors that are read or computed on demand."""

    def __init__(self, get: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._get = get

    def __getitem__(self, name: str) -> np.ndarray:
        return self._get[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._get  # that of Mapping would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._get)

    def __len__(self) -> int:
        return len(self._get)


def under(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    """Some of ``tensors`` with other names: ``names`` maps a new name to the present one."""
    return Lazy({new: partial(tensors.__getitem__, old) for new, old in names.items()})


def shape_of(tensors: Tensors, name: str) -> tuple[int, ...] | None:
    """The shape of a tensor; None if it can't be read, which matters only in the network itself."""
    try:
        return tensors[name].shape
    except ValueError:
        return None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Everything in a file of safetensors or ``torch.save``, or in the one checkpoint of a folder.

    Raises:
      FileNotFoundError: there is no such file or folder, or a part of the checkpoint is missing.
      ValueError: it is of another format, contains no tensors, or refers to code; or the folder holds several
        checkpoints or none.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"{path}: there is no such file{_advice(str(path), file)}")
    file = checkpoint_in(file) if file.is_dir() else file
    if not file.name.endswith(INDEX):
        return _read(file)
    tensors: dict[str, Callable[[], np.ndarray]] = {}
    values: dict[str, Any] = {}
    for shard, names in shards(file).items():
        part = _read(shard)
        values.update(part.values)
        for name in names:
            if name not in part.tensors:
                raise ValueError(
                    f"{file} says that {shard.name} holds {shown(name)!r}, and it does not: download both "
                    "again"
                )
            tensors[name] = partial(part.tensors.__getitem__, name)
    return Checkpoint(file, Lazy(tensors), values)


def sha256(path: str | Path) -> str:
    """Of the bytes of a file; for an index, of those of its shards one after another, in its order."""
    file = Path(path).expanduser()
    digest = hashlib.sha256()
    for part in _parts(file):
        with open_regular(part) as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def size(path: str | Path) -> int:
    """Bytes of a file; for an index, of its shards together."""
    return sum(part.stat().st_size for part in _parts(Path(path).expanduser()))


def _read(file: Path) -> Checkpoint:
    about = "nothing"
    kind = recognize(file)
    if kind == SAFETENSORS:
        tensors, values = read_safetensors(file)
        about = "metadata alone" if values else about
    elif kind == NUMPY:
        tensors, values = read_numpy(file)
    else:
        tensors, values, about = read_torch(file)
    if not tensors:
        raise ValueError(f"{file} holds no tensors, so no network; it holds: {about}")
    for name in tensors:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"{file} has a tensor called {shown(name)}, of {len(name):,} characters; names have at most "
                f"{_LONGEST_NAME}, all of which can be printed: save it with another name"
            )
    return Checkpoint(file, Lazy(tensors), values)


def _parts(file: Path) -> list[Path]:
    return list(shards(file)) if file.name.endswith(INDEX) else [file]


def _advice(given: str, file: Path) -> str:
    """What may have been meant."""
    if "://" in given:
        return ". It is an address: download the file first, e.g. with curl -L -O"
    if file.is_symlink():
        return f": it is a link to {file.readlink()}, which is missing"
    folder = file.parent
    near = (
        difflib.get_close_matches(file.name, [p.name for p in folder.iterdir()], cutoff=0.8)
        if folder.is_dir()
        else []
    )
    if near:
        return f"; similar names in {folder.absolute()}: {', '.join(near)}"
    return f" ({file.absolute()})" if given != str(file.absolute()) else ""
