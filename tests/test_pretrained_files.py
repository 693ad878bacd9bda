"""Reading checkpoints: every format gives the numbers that went in, and nothing in a file is run."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from pretrained_helpers import SAVED
from safetensors.numpy import save_file

from resjax.pretrained.files import read_checkpoint, sha256, under
from resjax.pretrained.torch_files import TorchFileError, _stand_ins, read_torch

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["pretrained_zip.pth", "pretrained_legacy.th"])
def test_files_that_pytorch_wrote_are_read_exactly(name):
    found = read_checkpoint(DATA / name).tensors
    names = {n.removeprefix("state_dict.module."): n for n in found if n != "best"}
    tensors = under(found, names)
    assert set(tensors) == {*SAVED, "view.weight", "half"}
    for key, value in SAVED.items():
        np.testing.assert_array_equal(tensors[key], value)
        assert tensors[key].dtype == np.float32
    view = SAVED["conv.weight"].transpose(1, 0, 3, 2)[1:, ::2]
    np.testing.assert_array_equal(tensors["view.weight"], view)
    half = SAVED["bn.running_var"].astype(ml_dtypes.bfloat16)
    assert tensors["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensors["half"], half)


def test_what_lies_beside_the_tensors_is_kept_where_it_is_plain():
    found = read_torch(DATA / "pretrained_zip.pth")
    assert found["epoch"] == 3
    np.testing.assert_allclose(found["best"], SAVED["bn.running_var"].sum(), rtol=1e-6)


def test_safetensors_are_read_one_by_one(tmp_path):
    half = SAVED["conv.weight"].astype(ml_dtypes.bfloat16)
    save_file({"module.a": SAVED["bn.running_var"], "module.b": half}, tmp_path / "x.safetensors")
    tensors = read_checkpoint(tmp_path / "x.safetensors").tensors
    assert list(tensors) == ["module.a", "module.b"] and len(tensors) == 2
    np.testing.assert_array_equal(tensors["module.a"], SAVED["bn.running_var"])
    np.testing.assert_array_equal(tensors["module.b"], half)
    with pytest.raises(KeyError):
        tensors["a"]


# --- files made here, as torch.save would make them ---


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


TORCH = (
    (rebuild, ("torch._utils", "_rebuild_tensor_v2")),
    (storage_type, ("torch", "FloatStorage")),
)


class Storage:
    """A storage of ``count`` float32 numbers."""

    def __init__(self, count):
        self.count = count


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", storage_type, "0", "cpu", obj.count)


def zip_file(path, tensor, numbers, **more):
    """A zip checkpoint whose tensor 'w' is ``tensor``: (offset, shape, strides)."""
    file = io.BytesIO()
    arguments = (Storage(len(numbers)), *tensor, False, collections.OrderedDict())
    Pickler(file, 2).dump({"w": Call(rebuild, arguments), **more})
    raw = file.getvalue()
    for placeholder, (module, name) in TORCH:
        own = f"c{placeholder.__module__}\n{placeholder.__qualname__}\n".encode()
        raw = raw.replace(own, f"c{module}\n{name}\n".encode())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", raw)
        archive.writestr("x/data/0", np.asarray(numbers, "<f4").tobytes())
    return path


def test_a_tensor_is_a_strided_view_of_its_storage(tmp_path):
    path = zip_file(tmp_path / "x.pth", (1, (2, 2), (3, 1)), range(6), args=argparse.Namespace(a=1))
    found = read_torch(path)
    np.testing.assert_array_equal(found["w"], [[1, 2], [4, 5]])
    assert found["args"] is None


@pytest.mark.parametrize(
    "tensor",
    [
        (2, (2, 2), (3, 1)),
        (0, (2, 2), (-1, 1)),
        (-1, (2,), (1,)),
        (0, (1 << 40,), (1,)),
        (0, (7,), (1,)),
    ],
)
def test_a_tensor_can_not_reach_out_of_its_storage(tmp_path, tensor):
    path = zip_file(tmp_path / "x.pth", tensor, range(6))
    with pytest.raises(ValueError, match="extends past the end"):
        read_torch(path)


def test_a_storage_that_is_cut_short_is_refused(tmp_path):
    path = zip_file(tmp_path / "x.pth", (0, (6,), (1,)), range(6))
    with zipfile.ZipFile(path) as archive:
        raw = archive.read("x/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", raw)
        archive.writestr("x/data/0", b"\0" * 20)
    with pytest.raises(ValueError, match="shorter than its tensors say"):
        read_torch(path)


def chain(obj, protocol=2):
    """The first four pickles of the old format; ``obj`` is a finished pickle or an object."""
    raw = obj if isinstance(obj, bytes) else pickle.dumps(obj, protocol)
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in head) + raw + pickle.dumps([], 2)


def container(kind, raw, path):
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", raw)
    else:
        path.write_bytes(chain(raw))
    return path


@pytest.mark.parametrize("kind", ["zip", "chain"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, eval, __import__, getattr, shutil.rmtree, print])
def test_a_file_that_calls_anything_is_refused_and_nothing_runs(tmp_path, kind, protocol, function):
    target = str(tmp_path / "made")
    raw = pickle.dumps({"state_dict": Call(function, (target,))}, protocol)
    path = container(kind, raw, tmp_path / "evil.pth")
    with pytest.raises(TorchFileError, match=rf"evil.pth: it refers to .*{function.__name__}.*save the"):
        read_checkpoint(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name",
    ["collections.defaultdict", "torch._utils._rebuild_tensor_v2.__globals__", "torch.load",
     "numpy.core.multiarray._reconstruct", "torch.storage._load_from_bytes", "builtins.dict"],
)  # fmt: skip
def test_only_names_that_tensors_need_are_known(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    if name.endswith("__globals__"):  # protocol 4 would look attributes of attributes up
        module, attribute = "torch._utils", "_rebuild_tensor_v2.__globals__"
    raw = (
        b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
        + b"\x8c" + bytes([len(attribute)]) + attribute.encode() + b"\x93."
    )  # fmt: skip
    with pytest.raises(TorchFileError, match="which tensors do not need"):
        read_torch(container("zip", raw, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    "name", ["torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict", "torch\nFloatStorage"]
)
def test_a_file_can_not_change_the_reader(tmp_path, name):
    # BUILD sets attributes of whatever is on the stack, here of the stand-ins themselves.
    raw = b"\x80\x02c" + name.encode() + b"\nN}U\x06lengthU\x01xs\x86b."
    with contextlib.suppress(TorchFileError):
        read_torch(container("zip", raw, tmp_path / "x.pth"))
    good = zip_file(tmp_path / "good.pth", (0, (6,), (1,)), range(6))
    np.testing.assert_array_equal(read_torch(good)["w"], range(6))
    # Private: a stand-in that kept a file's length would show in no result.
    assert all(not hasattr(thing, "length") for thing in _stand_ins().values())
    assert not hasattr(collections.OrderedDict, "length")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read"),
        (b"hello world, this is text", "can't be read"),
        (pickle.dumps([1, 2]), "does not begin"),
        (pickle.dumps(Call(os.mkdir, ("made",))), "where a plain value belongs"),
        (chain({"a": 1})[:-40], "can't be read"),
        (struct.pack("<Q", 20) + b"{" + b"x" * 30, "damaged safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "x.pth")


def test_programs_and_archives_of_others_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    np.savez(path.with_suffix(".npz"), a=np.zeros(2))
    with pytest.raises(ValueError, match="no PyTorch checkpoint"):
        read_checkpoint(path.with_suffix(".npz"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, 2))
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript"):
        read_checkpoint(path)


def test_a_file_without_tensors_says_what_it_holds(tmp_path):
    path = container("zip", pickle.dumps({"epoch": 3, "optimizer": {}}, 2), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="it holds: epoch, optimizer"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "y.pth")


def test_sha256_is_of_the_whole_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf")
