"""What the recorded objects of a checkpoint stand for: tensors, arrays, dicts, numbers, or nothing."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from resjax.pretrained.reading.pickles import Made, Name, TorchFileError, is_key, told
from resjax.pretrained.reading.stand_ins import plain


class Storage(NamedTuple):
    """Numbers ``start`` to ``start + length`` of the storage called ``key``."""

    dtype: np.dtype
    key: str
    start: int
    length: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
    """An array of NumPy, whose bytes several may share. Protocol 2 writes them as a text in Latin-1."""

    content: str | bytes | bytearray
    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    def read(self) -> np.ndarray:
        raw = self.content.encode("latin-1") if isinstance(self.content, str) else self.content
        return np.frombuffer(raw, self.dtype).reshape(self.shape, order=self.order)


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor without plain numbers, which is refused only if the network needs it."""

    why: str


_STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64, "ComplexDoubleStorage": np.complex128, "QInt8Storage": np.int8,
    "QUInt8Storage": np.uint8, "QInt32Storage": np.int32, "UntypedStorage": np.uint8,
    "_UntypedStorage": np.uint8,
}  # fmt: skip
# Of tensors without a storage class of their own.
_DTYPES: dict[str, Any] = {
    "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip
_NUMPY_DTYPE = re.compile(r"[iu][1248]|f[248]|b1|c8|c16")
_ORDERS: dict[Any, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}
# What wraps a tensor, which is its first argument.
_WRAPPERS = {
    "_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_device_tensor_from_cpu_tensor",
    "_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor",
}  # fmt: skip
_UNREADABLE = {
    "_rebuild_qtensor": "is quantized: save the weights before quantization, or each tensor.dequantize()",
    "_rebuild_sparse_tensor": "is sparse: save tensor.to_dense()",
    "_rebuild_sparse_csr_tensor": "is sparse: save tensor.to_dense()",
    "_rebuild_nested_tensor": "is nested: save plain tensors",
    "_rebuild_meta_tensor_no_storage": "has no numbers (device 'meta'): save a model that is loaded",
    "_rebuild_wrapper_subclass": "is distributed or wrapped: save tensor.full_tensor()",
}
_DICTS = {
    "OrderedDict", "defaultdict", "Counter", "dict", "AttributeDict", "EasyDict", "CfgNode", "Munch", "Dict",
    "DotMap", "Box",
}  # fmt: skip
_NAMESPACES = {"Namespace", "SimpleNamespace"}
_DIMENSIONS = 64  # of an array of NumPy
_LARGEST = 1 << 63
_WRAPPED = 64  # times that a tensor may be wrapped


def storage_dtype(kind: Any) -> np.dtype:
    """Of the numbers in a storage of class ``kind``, a ``Name``."""
    if not isinstance(kind, Name) or kind.name not in _STORAGES:
        raise TorchFileError(f"{told(kind)} is no known kind of storage")
    return np.dtype(_STORAGES[kind.name])


def meaning(thing: Any) -> Any:
    """What an object of a pickle stands for.

    Returns:
      a dict, list, tuple, number or text, bytes, a ``Tensor``, an ``Array``, ``Unreadable``, or None. The
      values of dicts and the entries of lists are as they were recorded.

    Raises:
      TorchFileError: a tensor or an array contradicts itself.
    """
    thing = _unwrapped(thing)
    if not isinstance(thing, Made):
        return None if isinstance(thing, Name | Storage) else thing
    module, name = plain(thing.name)
    if module == "torch._utils" and name in _UNREADABLE:
        return Unreadable(_UNREADABLE[name])
    if module == "torch._utils" and name in _TENSORS:
        return _TENSORS[name](*thing.args)
    if name in _DICTS:
        return _dict(thing)
    if name in _NAMESPACES:
        return thing.state if isinstance(thing.state, dict) else {}
    if module in ("numpy.core.multiarray", "numpy.core.numeric") and name in _ARRAYS:
        return _ARRAYS[name](thing)
    if (module, name) == ("torch", "Size"):
        return _sizes(thing)
    if (module, name) in (("collections", "deque"), ("builtins", "list"), ("builtins", "tuple")):
        given = thing.args[0] if thing.args and isinstance(thing.args[0], list | tuple) else []
        return [*given, *thing.items]
    return None


def _unwrapped(thing: Any) -> Any:
    """The tensor in a parameter, in a tensor of a subclass, or in one of another device."""
    for _ in range(_WRAPPED + 1):
        if not isinstance(thing, Made):
            return thing
        module, name = plain(thing.name)
        if module == "torch._utils" and name in _WRAPPERS and thing.args:
            thing = thing.args[0]
        elif module == "torch._tensor" and len(thing.args) >= 3:
            function, _, args, *_ = thing.args
            if not isinstance(function, Name) or not isinstance(args, tuple):
                raise TorchFileError("a tensor of a subclass without its numbers")
            thing = Made(function, args)
        else:
            return thing
    raise TorchFileError(f"a tensor is wrapped more than {_WRAPPED} times")


def _dict(made: Made) -> dict[Any, Any]:
    """Entries that are given at creation (as a dict; as pairs in Python 2), and later ones."""
    given = next((arg for arg in made.args if isinstance(arg, dict | list)), {})
    if isinstance(given, list):
        pairs = [pair for pair in given if isinstance(pair, list | tuple) and len(pair) == 2]
        given = {pair[0]: pair[1] for pair in pairs if is_key(pair[0])}
    return {**given, **made.pairs}


def _tensor(storage: Any, offset: Any, size: Any, strides: Any, *rest: Any) -> Tensor | Unreadable:
    if not isinstance(storage, Storage):
        raise TorchFileError("a tensor without a storage")
    marks = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}  # after two facts on gradients
    if marks.get("neg") or marks.get("conj"):
        return Unreadable("is stored with the opposite sign: save tensor.resolve_neg().resolve_conj()")
    return Tensor(storage, whole(offset), _sizes(size), _sizes(strides))


def _tensor_of_bytes(storage: Any, offset: Any, size: Any, strides: Any, *rest: Any) -> Tensor | Unreadable:
    """A tensor of a dtype that has no storage class of its own, in a storage of bytes."""
    if not isinstance(storage, Storage) or len(rest) < 3 or not isinstance(rest[2], Name):
        raise TorchFileError("a tensor without a storage or a dtype")
    if rest[2].name not in _DTYPES:
        return Unreadable(f"is of dtype {rest[2]}, which NumPy lacks: save tensor.float()")
    dtype = np.dtype(_DTYPES[rest[2].name])
    start, length = (n // dtype.itemsize for n in (storage.start, storage.length))
    return _tensor(Storage(dtype, storage.key, start, length), offset, size, strides, *rest[:2], *rest[3:])


_TENSORS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_of_bytes,
}


def _sizes(thing: Any) -> tuple[int, ...]:
    if isinstance(thing, Made):
        (thing,) = thing.args or ((),)
    if not isinstance(thing, tuple | list):
        raise TorchFileError("a shape that is no tuple")
    if len(thing) > _DIMENSIONS:
        raise TorchFileError(f"a shape of {len(thing):,} dimensions; at most {_DIMENSIONS} are possible")
    return tuple(map(whole, thing))


def whole(thing: Any) -> int:
    """A number that is a size or a place in a file.

    Raises:
      TorchFileError: it is none, or too large for PyTorch.
    """
    if not isinstance(thing, int) or isinstance(thing, bool):
        raise TorchFileError(f"a {type(thing).__name__} where a whole number belongs")
    if not -_LARGEST <= thing < _LARGEST:
        raise TorchFileError("a size or place that needs more than 64 bits")
    return thing


def _content(thing: Any) -> str | bytes | bytearray | None:
    """Bytes, or the text for which protocol 2 writes a call that encodes it, and Python 2 only itself."""
    if isinstance(thing, Made) and plain(thing.name) == ("_codecs", "encode"):
        thing = thing.args[0] if thing.args[1:] == ("latin1",) else None
    return thing if isinstance(thing, str | bytes | bytearray) else None


def _numpy_dtype(thing: Any) -> np.dtype | None:
    """A dtype of plain numbers; None for any other."""
    if not isinstance(thing, Made) or plain(thing.name) != ("numpy", "dtype") or not thing.args:
        return None
    code = thing.args[0]
    order = thing.state[1] if isinstance(thing.state, tuple) and len(thing.state) > 1 else "="
    if not isinstance(code, str) or not _NUMPY_DTYPE.fullmatch(code):
        return None
    if not isinstance(order, str) or order not in _ORDERS:
        return None
    return np.dtype(code).newbyteorder(_ORDERS[order])


def _array(content: Any, kind: Any, shape: Any, order: Literal["C", "F"]) -> Array | None:
    """An array of numbers; None for one of objects or texts."""
    dtype, raw = _numpy_dtype(kind), _content(content)
    if dtype is None or raw is None:
        return None
    shape = _sizes(shape)
    if min((0, *shape)) < 0 or math.prod(shape) * dtype.itemsize != len(raw):
        raise TorchFileError(f"an array of shape {shape} and {dtype} has {len(raw):,} bytes")
    return Array(raw, dtype, shape, order)


def _scalar(made: Made) -> Any:
    """A numpy scalar as a number of Python."""
    kind, content, *_ = made.args
    found = _array(content, kind, (), "C")
    return None if found is None else found.read().item()


def _reconstructed(made: Made) -> Array | None:
    if not isinstance(made.state, tuple) or len(made.state) != 5:
        return None
    _, shape, kind, fortran, content = made.state
    return _array(content, kind, shape, "F" if fortran else "C")


def _from_buffer(made: Made) -> Array | None:
    content, kind, shape, order = made.args
    return _array(content, kind, shape, "F" if order == "F" else "C")


_ARRAYS: dict[str, Callable[[Made], Any]] = {
    "scalar": _scalar,
    "_reconstruct": _reconstructed,
    "_frombuffer": _from_buffer,
}
