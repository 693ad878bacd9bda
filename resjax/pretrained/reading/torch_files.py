"""Reading files of ``torch.save`` without PyTorch and without running code in them.

Such a file contains a pickle and raw numbers. ``pickles`` records what the pickle says,
``stand_ins`` lists the names that it may refer to, and ``meanings`` says
what they stand for. Numbers are read when they are asked for; those of an optimizer never are.

Two formats exist. Since PyTorch 1.6 a file is a zip archive with ``data.pkl`` and one member per storage.
Before, it was a chain of pickles (a magic number, a protocol version, facts about the machine, the object,
the order of the storages), followed by the length and numbers of each storage. A plain pickle of NumPy arrays
is read, too.
"""

import functools
import io
import math
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resjax.data.archives import open_zip
from resjax.pretrained.reading.leaves import leaves
from resjax.pretrained.reading.meanings import (
    Array,
    Storage,
    Tensor,
    Unreadable,
    meaning,
    storage_dtype,
    whole,
)
from resjax.pretrained.reading.pickles import PLAIN, Name, Recorded, TorchFileError, record, told
from resjax.pretrained.reading.raw import Raw
from resjax.pretrained.reading.refused import check_names
from resjax.pretrained.reading.scalars import scalars

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# A stride of 0 repeats numbers. More than these are not made of a storage with fewer.
_REPEATED = 1 << 20
# Tensors that share numbers, such as a network under several names, may be this many times the file together.
_SHARED, _SMALL = 16, 1 << 26


class Contents(NamedTuple):
    """What a file holds, by full name."""

    tensors: dict[str, Callable[[], np.ndarray]]
    values: dict[str, Any]  # numbers, texts and truth values, and short tuples of them
    about: str  # its outermost object, in words


class _Place(NamedTuple):
    """Where the bytes of a storage are."""

    start: int
    length: int
    crc: int  # 0: unknown


def read_torch(path: str | Path) -> Contents:
    """The tensors and plain values in a file of ``torch.save``, or in a pickle of arrays.

    Raises:
      TorchFileError (a ValueError): it can't be read; none of the file's code was run.
    """
    try:
        file = Raw(path)
        if file.read(4) == b"PK\x03\x04":
            recorded, storages, order = _read_zip(open_zip(file.file), file)
        else:
            file.seek(0)
            recorded, storages, order = _read_pickles(file)
        return _contents(recorded.found, _Numbers(file, storages, order), path, file.size)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise TorchFileError(
            f"{path} can't be read as a PyTorch file ({type(error).__name__}: {error}): it is damaged or cut "
            f"short at {Path(path).stat().st_size:,} bytes; download or save it again"
        ) from error


def _read_zip(archive: zipfile.ZipFile, file: Raw) -> tuple[Recorded, dict[str, _Place], str]:
    """What the archive's pickle says, where its storages are, and the order of their bytes."""
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise TorchFileError(f"this zip archive has {len(pickles)} members data.pkl; a PyTorch file has one")
    folder = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        place = _member(members[name], file)
        _check(file, place, name)
        return file.bytes(place.start, place.length)

    order = content(f"{folder}byteorder").decode() if f"{folder}byteorder" in members else "little"
    if order not in ("little", "big"):
        raise TorchFileError(f"byte order {told(order)}; known: little, big")
    used: set[str] = set()
    recorded = record(io.BytesIO(content(pickles[0])), functools.partial(_storage, kinds={}, used=used))
    check_names(recorded, file.path)
    missing = sorted(key for key in used if f"{folder}data/{key}" not in members)
    if missing:
        raise TorchFileError(
            f"its storage {told(missing[0])} is missing: the archive was changed or is damaged"
        )
    places = {key: _member(members[f"{folder}data/{key}"], file) for key in used}
    if (total := sum(place.length for place in places.values())) > file.size:
        raise TorchFileError(f"its members overlap: {total:,} bytes in a file of {file.size:,}")
    return recorded, places, order


def _member(info: zipfile.ZipInfo, file: Raw) -> _Place:
    """Where a member of a zip archive is; ``torch.save`` never compresses."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise TorchFileError(
            "this zip archive was compressed or encrypted after torch.save: unpack it, and pack its folder "
            "without compression (zip -0 -r FILE FOLDER)"
        )
    header = file.bytes(info.header_offset, 30)
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name + extra
    if header[:4] != b"PK\x03\x04" or start + info.file_size > file.size:
        raise TorchFileError(
            f"its member {told(info.filename)} is damaged or cut short: download or save it again"
        )
    return _Place(start, info.file_size, info.CRC)


def _read_pickles(file: Raw) -> tuple[Recorded, dict[str, _Place], str]:
    """As ``_read_zip``, from the old format or a plain pickle."""
    kinds: dict[str, np.dtype] = {}
    first = record(file, _none)
    if first.found != _MAGIC:
        check_names(first, file.path, plain=True)
        return first, {}, "little"
    version, machine = record(file, _none).found, record(file, _none).found
    if version != _PROTOCOL or not isinstance(machine, dict):
        raise TorchFileError(f"protocol version {told(version)}; known: {_PROTOCOL}")
    recorded = record(file, functools.partial(_storage, kinds=kinds, used=set()))
    check_names(recorded, file.path)
    order = "little" if machine.get("little_endian", True) else "big"
    storages = {}
    for key in record(file, _none).found:
        if not isinstance(key, str) or key not in kinds:
            raise TorchFileError(f"storage {told(key)} belongs to no tensor")
        (count,) = struct.unpack("<q" if order == "little" else ">q", file.read(8))
        start, length = file.tell(), count * kinds[key].itemsize
        if not 0 <= length <= file.size - start:
            raise TorchFileError(
                f"it is cut short: storage {told(key)} needs {length:,} bytes, and {file.size - start:,} are "
                "left; download or save it again"
            )
        storages[key] = _Place(start, length, 0)
        file.seek(start + length)
    return recorded, storages, order


def _none(pid: Any) -> Any:
    raise TorchFileError("it refers to a storage where a plain value belongs")


def _storage(pid: Any, *, kinds: dict[str, np.dtype], used: set[str]) -> Storage | Name:
    """What a persistent id stands for; notes the dtype of the storage's numbers in ``kinds``."""
    if pid[0] == "module":  # of a class of networks or losses, with its source text
        return pid[1]
    if pid[0] != "storage":
        raise TorchFileError(f"unknown kind of object {told(pid[0])}")
    # Only the old format has a view: None, or (key, start, length).
    _, kind, key, _, count, *view = pid
    if not isinstance(key, str | int):
        raise TorchFileError(f"a storage whose key is {told(key)}")
    start, length = view[0][1:] if view and view[0] else (0, count)
    dtype = kinds[str(key)] = storage_dtype(kind)
    used.add(str(key))
    return Storage(dtype, str(key), whole(start), whole(length))


def _check(file: Raw, place: _Place, name: str) -> None:
    # PyTorch can leave checksums out; they are 0 then.
    if place.crc and file.crc32(place.start, place.length) != place.crc:
        raise TorchFileError(f"the checksum of {name} is wrong, so it is damaged: download or save it again")


class _Numbers:
    """The numbers in a file's storages. Those of a tensor are read at each use of it, and no others."""

    def __init__(self, file: Raw, storages: Mapping[str, _Place], order: str) -> None:
        self._file, self._storages, self._swap = file, storages, order != sys.byteorder
        self._intact: set[str] = set()  # keys of storages with the right checksum

    def why_not(self, tensor: Tensor) -> str:
        """Why a tensor can't be read, although the file is in order; "" if it can.

        Raises:
          TorchFileError: the tensor reaches out of its storage.
        """
        storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
        there = self._storages[storage.key].length // storage.dtype.itemsize
        if not 0 <= storage.start <= storage.start + storage.length <= there:
            raise TorchFileError(f"storage {storage.key!r} is shorter than its tensors say")
        last = tensor.offset + _last(tensor)
        if min((0, tensor.offset, *shape, *strides)) < 0 or (0 not in shape and last >= storage.length):
            raise TorchFileError(
                f"a tensor of shape {shape} extends past the end of its storage of {storage.length}"
            )
        if storage.dtype.kind == "c":
            return "is complex: save its real and imaginary part"
        if math.prod(shape) > max(storage.length, _REPEATED):
            return f"repeats {storage.length:,} numbers to the shape {shape}"
        np.zeros(shape if 0 in shape else 0)  # whether NumPy can represent an empty tensor's shape
        return ""

    def length(self, tensor: Tensor) -> int:
        """Bytes that are read or made for a tensor."""
        numbers = 0 if 0 in tensor.shape else max(_last(tensor) + 1, math.prod(tensor.shape))
        return numbers * tensor.storage.dtype.itemsize

    def array(self, tensor: Tensor) -> np.ndarray:
        storage, shape = tensor.storage, tensor.shape
        if 0 in shape:
            return np.zeros(shape, storage.dtype)
        place, size = self._storages[storage.key], storage.dtype.itemsize
        if storage.key not in self._intact:
            _check(self._file, place, f"storage {storage.key!r}")
            self._intact.add(storage.key)
        start = place.start + size * (storage.start + tensor.offset)
        numbers = self._file.array(start, f"u{size}", _last(tensor) + 1)
        if self._swap:
            numbers = numbers.byteswap()
        return np.ndarray(shape, storage.dtype, numbers, 0, [size * s for s in tensor.strides])


def _last(tensor: Tensor) -> int:
    """The place of a tensor's last number behind its first."""
    return sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))


def _contents(root: Any, numbers: _Numbers, path: str | Path, file_size: int) -> Contents:
    tensors: dict[str, Callable[[], np.ndarray]] = {}
    values: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}  # of the tensors that can be read
    empty: list[str] = []
    total = 0

    def refuse(name: str, why: str) -> np.ndarray:
        raise TorchFileError(f"{path}: the tensor {name!r} {why}")

    for name, leaf in leaves(root):
        if not isinstance(leaf, Tensor | Unreadable | Array):
            values[name] = leaf
            continue
        if name in tensors:
            raise TorchFileError(f"it has two tensors called {name!r}")
        if isinstance(leaf, Unreadable):
            tensors[name] = functools.partial(refuse, name, leaf.why)
            continue
        if isinstance(leaf, Array):
            total += len(leaf.content)
            tensors[name] = leaf.read
        elif why := numbers.why_not(leaf):
            tensors[name] = functools.partial(refuse, name, why)
            continue
        else:
            total += numbers.length(leaf)
            tensors[name] = functools.partial(numbers.array, leaf)
        if total > _SHARED * file_size + _SMALL:
            raise TorchFileError(
                f"its tensors share numbers so often that they have {total:,} bytes or more, in a file of "
                f"{file_size:,}: save the weights of the network alone"
            )
        shapes[name] = leaf.shape
        if 0 in leaf.shape and name.endswith("weight"):
            empty.append(name)
    if empty and "ds_version" in values:
        raise TorchFileError(
            f"its tensor {empty[0]!r} is empty: it is one part of a DeepSpeed checkpoint (ZeRO-3). Join the "
            "parts with the script that DeepSpeed wrote above this folder: python zero_to_fp32.py . weights"
        )
    return Contents(tensors, values | scalars(tensors, shapes), _about(root))


def _about(root: Any) -> str:
    root = meaning(root) or root
    if not isinstance(root, dict):
        return f"a {type(root).__name__}"
    return ", ".join(str(key) for key in root if isinstance(key, PLAIN))[:300]
