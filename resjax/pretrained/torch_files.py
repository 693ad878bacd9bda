"""Reading files of ``torch.save`` without PyTorch and without running code in them.

Such a file contains a pickle and raw numbers. A pickle is a small program that may call any function of any
module, so a "checkpoint" can run code on the machine that opens it. This reader looks up every name in a
short table instead of importing it. The table contains stand-ins, which record the storage, offset, shape and
strides of a tensor, and empty shells for objects that are often saved with tensors. A file with any other
name is refused. No object of the interpreter or of numpy can be reached or changed: the stand-ins are created
for each file.

Two formats exist. Since PyTorch 1.6 a file is a zip archive with ``data.pkl`` and one member per storage.
Before, it was a chain of pickles (a magic number, a protocol version, facts about the machine, the object,
the order of the storages), followed by the length and numbers of each storage.
"""

import functools
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES = {
    f"{name}Storage": np.dtype(kind)
    for name, kind in {
        "Float": np.float32, "Double": np.float64, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}  # fmt: skip
_IGNORED_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")


class TorchFileError(ValueError):
    """The file is damaged, of another format, or contains more than tensors."""


class _Kind(NamedTuple):
    dtype: np.dtype


class _Storage(NamedTuple):
    """Numbers ``start`` to ``start + length`` of the storage called ``key``."""

    dtype: np.dtype
    key: str
    start: int
    length: int


class _Tensor(NamedTuple):
    """A strided view of a storage; offsets and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: str | Path) -> Any:
    """The saved dicts, lists, tuples and plain values, with numpy arrays in place of tensors.

    Other values (numpy numbers, ``argparse.Namespace``, dtypes, devices) become None.

    Raises:
      TorchFileError (a ValueError): it can't be read; none of the file's code was run.
    """
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            return _read_chain(file)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise TorchFileError(
            f"{path} can't be read as a PyTorch file ({type(error).__name__}: {error}); it is damaged or of "
            "another format"
        ) from error


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise TorchFileError(
                "this zip archive is no PyTorch checkpoint: it has no data.pkl. (TorchScript is not read: "
                "save the state_dict())"
            )
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in archive.namelist():
            raise TorchFileError("this is TorchScript, which holds a program: save the state_dict()")
        order = "little"
        if f"{folder}byteorder" in archive.namelist():
            order = archive.read(f"{folder}byteorder").decode()
        found = _Reader(io.BytesIO(archive.read(pickles[0]))).load()
        return _resolve(found, _storages(lambda key: archive.read(f"{folder}data/{key}"), order))


def _read_chain(file: BinaryIO) -> Any:
    if _plain(file) != _MAGIC:
        raise TorchFileError("it does not begin like a PyTorch file")
    version, machine = _plain(file), _plain(file)
    if version != _PROTOCOL:
        raise TorchFileError(f"protocol version {version}; known: {_PROTOCOL}")
    reader = _Reader(file)
    found = reader.load()
    order = "little" if machine.get("little_endian", True) else "big"
    raw: dict[str, bytes] = {}
    for key in _plain(file):
        kind = reader.kinds.get(key)
        if kind is None:
            raise TorchFileError(f"storage {key!r} belongs to no tensor")
        (count,) = struct.unpack("<q" if order == "little" else ">q", file.read(8))
        raw[key] = file.read(count * kind.itemsize)
    return _resolve(found, _storages(raw.__getitem__, order))


class _Reader(pickle.Unpickler):
    """An unpickler that resolves names to stand-ins only. ``kinds`` has the dtype of each storage."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.kinds: dict[str, np.dtype] = {}
        self._known = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise TorchFileError(
                f"it refers to {module}.{name}, which tensors do not need, so it was refused and no code was "
                "run. If you trust it, open it with PyTorch and save the state_dict() alone, preferably as "
                "safetensors"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if pid[0] == "module":
            raise TorchFileError("it contains a whole model: save the state_dict() alone")
        if pid[0] != "storage":
            raise TorchFileError(f"unknown kind of object {pid[0]!r}")
        # Only the old format has a view: None, or (key, start, length).
        _, kind, key, _, count, *view = pid
        start, length = view[0][1:] if view and view[0] else (0, count)
        self.kinds[str(key)] = kind.dtype
        return _Storage(kind.dtype, str(key), int(start), int(length))


def _plain(file: BinaryIO) -> Any:
    """The next pickle of the chain, which must not contain names."""

    class Plain(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise TorchFileError(f"it refers to {module}.{name} where a plain value belongs")

    return Plain(file).load()


def _stand_ins() -> dict[tuple[str, str], Any]:
    class Dict(dict):
        """An OrderedDict without its attributes (``_metadata``)."""

        def __setstate__(self, state: object) -> None:
            pass

    class Shell:
        """An object that is not a tensor; its contents are dropped."""

        __slots__ = ()

        def __init__(self, *args: object) -> None:
            pass

        def __setstate__(self, state: object) -> None:
            pass

    def tensor(storage: _Storage, offset: int, size: Any, stride: Any, *rest: object) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise TorchFileError("a tensor without a storage")
        return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))

    return {
        ("collections", "OrderedDict"): Dict,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
        ("torch", "Size"): lambda values=(): tuple(values),
        ("torch", "device"): Shell,
        ("argparse", "Namespace"): Shell,
        ("numpy", "dtype"): Shell,
        ("numpy.core.multiarray", "scalar"): Shell,
        ("numpy._core.multiarray", "scalar"): Shell,
        ("_codecs", "encode"): Shell,
        **{("torch", name): _Kind(dtype) for name, dtype in _DTYPES.items()},
        **{("torch", name): None for name in _IGNORED_DTYPES},
    }


def _storages(read: Callable[[str], bytes], order: str) -> Callable[[_Storage], np.ndarray]:
    """A function from a storage to its numbers; each is read once, since tensors may share it."""

    @functools.cache
    def whole(key: str, dtype: np.dtype) -> np.ndarray:
        if order not in ("little", "big"):
            raise TorchFileError(f"byte order {order!r}; known: little, big")
        numbers = np.frombuffer(read(key), dtype)
        return numbers if order == sys.byteorder else numbers.byteswap()

    def numbers(storage: _Storage) -> np.ndarray:
        there = whole(storage.key, storage.dtype)
        if not 0 <= storage.start <= storage.start + storage.length <= len(there):
            raise TorchFileError(f"storage {storage.key!r} is shorter than its tensors say")
        return there[storage.start : storage.start + storage.length]

    return numbers


def _resolve(found: Any, storages: Callable[[_Storage], np.ndarray]) -> Any:
    if isinstance(found, _Tensor):
        return _array(found, storages(found.storage))
    if isinstance(found, dict):
        return {
            key if isinstance(key, str | int) else str(key): _resolve(value, storages)
            for key, value in dict.items(found)
        }
    if isinstance(found, list | tuple) and not isinstance(found, _Storage | _Kind):
        return type(found)(_resolve(value, storages) for value in found)
    return found if isinstance(found, str | int | float | bool | bytes) else None


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    shape, strides = tensor.shape, tensor.strides
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min((0, tensor.offset, *shape, *strides)) < 0 or (0 not in shape and last >= len(numbers)):
        raise TorchFileError(
            f"a tensor of shape {shape} extends past the end of its storage of {len(numbers)}"
        )
    if 0 in shape:
        return np.zeros(shape, numbers.dtype)
    bytes_ = [s * numbers.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, bytes_, writeable=False)
