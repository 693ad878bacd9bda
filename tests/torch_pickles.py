"""Files as ``torch.save`` makes them, and others that it never would, without PyTorch."""

import collections
import io
import pickle
import zipfile

import numpy as np


class Call:
    """Pickles as ``function(*arguments)``."""

    def __init__(self, function, arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def rebuild(*args):
    """Stands for torch._utils._rebuild_tensor_v2."""


def storage_type():
    """Stands for torch.FloatStorage."""


_TORCH = (
    (rebuild, ("torch._utils", "_rebuild_tensor_v2")),
    (storage_type, ("torch", "FloatStorage")),
)


class _Storage:
    """The storage called ``key``, of ``count`` float32 numbers."""

    def __init__(self, key, count):
        self.key, self.count = key, count


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            return ("storage", storage_type, obj.key, "cpu", obj.count)


def tensor(key, count, offset, shape, strides, *marks):
    """A view of the storage ``key``."""
    hooks = collections.OrderedDict()
    return Call(rebuild, (_Storage(key, count), offset, shape, strides, False, hooks, *marks))


def torch_pickle(saved, protocol=2):
    """The pickle of an object with ``tensor``s in it."""
    file = io.BytesIO()
    _Pickler(file, protocol).dump(saved)
    raw = file.getvalue()
    for placeholder, (module, name) in _TORCH:
        own = f"c{placeholder.__module__}\n{placeholder.__qualname__}\n".encode()
        raw = raw.replace(own, f"c{module}\n{name}\n".encode())
    return raw


def archive(path, raw, storages=None, compression=zipfile.ZIP_STORED):
    """A zip checkpoint of a pickle and {key: float32 numbers}."""
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("x/data.pkl", raw)
        for key, numbers in (storages or {}).items():
            made.writestr(f"x/data/{key}", np.asarray(numbers, "<f4").tobytes())
    return path


def zip_file(path, view, numbers, **more):
    """A zip checkpoint whose tensor 'w' is ``view``: (offset, shape, strides)."""
    return archive(path, torch_pickle({"w": tensor("0", len(numbers), *view), **more}), {"0": numbers})


def chain(obj, protocol=2):
    """The pickles of the old format; ``obj`` is a finished pickle or an object."""
    raw = obj if isinstance(obj, bytes) else pickle.dumps(obj, protocol)
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in head) + raw + pickle.dumps([], 2)


def container(kind, raw, path):
    """A pickle in a file of the kind "zip", "chain" or "plain"."""
    if kind == "zip":
        return archive(path, raw)
    path.write_bytes(chain(raw) if kind == "chain" else raw)
    return path


def named(name):
    """The instruction that pushes a class or function, ``module.name``."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def beside(instructions):
    """A pickle of a dict with 'other', which instructions make, after 'epoch': 3."""
    return b"\x80\x02}(U\x05epochK\x03U\x05other" + instructions + b"u."
