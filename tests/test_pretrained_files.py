"""Reading checkpoints: every format gives the numbers that went in, when they are asked for."""

import argparse
import collections
import datetime
import functools
import json
import pickle
import struct
import types
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import ml_dtypes
import numpy as np
import pytest
from pretrained_helpers import SAVED
from safetensors.numpy import save_file
from torch_pickles import archive, beside, chain, container, named, tensor, torch_pickle, zip_file

from resjax.pretrained import read
from resjax.pretrained.reading.files import read_checkpoint, sha256, size, under

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["pretrained_zip.pth", "pretrained_legacy.th"])
def test_files_that_pytorch_wrote_are_read_exactly(name):
    checkpoint = read_checkpoint(DATA / name)
    found = checkpoint.tensors
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
    # A number in a tensor is a value, too.
    assert checkpoint.values.keys() == {"epoch", "best"} and checkpoint.values["epoch"] == 3
    assert checkpoint.values["best"] == found["best"] == pytest.approx(SAVED["bn.running_var"].sum())


# --- safetensors ---


def safetensors_file(path, entries, metadata=None):
    """Of {name: (dtype, shape, bytes)}, for dtypes that the library does not write from NumPy."""
    table, numbers = {"__metadata__": metadata or {}}, b""
    for name, (dtype, shape, raw) in entries.items():
        place = [len(numbers), len(numbers) + len(raw)]
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        numbers += raw
    head = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + numbers)
    return path


def test_safetensors_are_read_one_by_one(tmp_path):
    half = SAVED["conv.weight"].astype(ml_dtypes.bfloat16)
    saved = {"module.a": SAVED["bn.running_var"], "module.b": half}
    numbers = {"acc1": np.float32([61.5]), "n": np.array(3), "half": half[0, 0, 0, :1]}
    counted = {"module.num_batches_tracked": np.array(7)}
    save_file(saved | numbers | counted, tmp_path / "x.safetensors", {"acc": "92.9"})
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    tensors = checkpoint.tensors
    assert set(tensors) == {*saved, *numbers, *counted} and len(tensors) == 6
    np.testing.assert_array_equal(tensors["module.a"], SAVED["bn.running_var"])
    np.testing.assert_array_equal(tensors["module.b"], half)
    assert checkpoint.values == {"acc": "92.9", "acc1": 61.5, "n": 3, "half": float(half[0, 0, 0, 0])}
    assert type(checkpoint.values["half"]) is float
    with pytest.raises(KeyError):
        tensors["a"]


@pytest.mark.parametrize(
    ("code", "dtype"),
    [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("F8_E8M0", "float8_e8m0fnu"),
     ("F8_E4M3FNUZ", "float8_e4m3fnuz"), ("F8_E5M2FNUZ", "float8_e5m2fnuz")],
)  # fmt: skip
def test_floats_of_8_bits_are_read(tmp_path, code, dtype):
    numbers = np.array([[0.5, 1, 2, 4]], getattr(ml_dtypes, dtype))
    entries = {"first": ("I8", [3], b"abc"), "w": (code, [1, 4], numbers.tobytes()), "e": (code, [0], b"")}
    tensors = read_checkpoint(safetensors_file(tmp_path / "x.safetensors", entries)).tensors
    assert tensors["w"].dtype == numbers.dtype and tensors["e"].shape == (0,)
    np.testing.assert_array_equal(tensors["w"].astype(np.float32), [[0.5, 1, 2, 4]])


@pytest.mark.parametrize(("code", "raw"), [("C64", b"\0" * 16), ("F4", b"\0")])
def test_dtypes_without_plain_numbers_are_refused_where_they_are_needed(tmp_path, code, raw):
    entries = {"w": (code, [2], raw), "b": ("F32", [1], struct.pack("<f", 2.5))}
    tensors = read_checkpoint(safetensors_file(tmp_path / "x.safetensors", entries)).tensors
    assert tensors["b"] == [2.5]
    with pytest.raises(ValueError, match=rf"x.safetensors: the tensor 'w' is of dtype {code}, .*: save"):
        tensors["w"]


# --- tensors of torch.save ---


@pytest.mark.parametrize(
    ("view", "value"),
    [
        ((1, (2, 2), (3, 1)), [[1, 2], [4, 5]]),
        ((0, (2, 3), (1, 2)), [[0, 2, 4], [1, 3, 5]]),
        ((5, (), ()), 5),
        ((0, (2, 3), (0, 1)), [[0, 1, 2], [0, 1, 2]]),
        ((6, (0, 2), (2, 1)), np.zeros((0, 2))),
    ],
)
def test_a_tensor_is_a_strided_view_of_its_storage(tmp_path, view, value):
    found = read_checkpoint(zip_file(tmp_path / "x.pth", view, range(6))).tensors["w"]
    assert found.dtype == np.float32 and found.shape == np.shape(value)
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    ("kind", "dtype", "numbers"),
    [("Double", "f8", [1.5, -2]), ("Half", "f2", [1.5, -2]), ("Long", "i8", [3, -4]), ("Bool", "?", [1, 0])],
)
@pytest.mark.parametrize("order", ["little", "big"])
def test_numbers_of_any_order_of_bytes(tmp_path, kind, dtype, numbers, order):
    raw = torch_pickle({"w": tensor("0", 2, 0, (2,), (1,))}).replace(
        b"FloatStorage", f"{kind}Storage".encode()
    )
    with zipfile.ZipFile(archive(tmp_path / "x.pth", raw), "a") as made:
        made.writestr("x/byteorder", order)
        made.writestr(
            "x/data/0", np.array(numbers, dtype).astype(np.dtype(dtype).newbyteorder(order)).tobytes()
        )
    found = read_checkpoint(tmp_path / "x.pth").tensors["w"]
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, numbers)


@pytest.mark.parametrize("kind", ["zip", "chain"])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "uint16"])
def test_dtypes_without_a_storage_class(tmp_path, kind, dtype):
    numbers = np.array([1, 2, 4], getattr(ml_dtypes, dtype, None) or dtype)
    count = numbers.nbytes
    storage = b"(U\x07storage" + named("torch.storage.UntypedStorage") + b"U\x010U\x03cpuK%cNtQ" % count
    storage = storage.replace(b"Nt", b"t") if kind == "zip" else storage
    shape = b"K\x00K\x03\x85K\x01\x85\x89N"
    made = named("torch._utils._rebuild_tensor_v3") + b"(" + storage + shape + named(f"torch.{dtype}") + b"tR"
    raw = beside(made)
    path = tmp_path / "x.pth"
    if kind == "zip":
        with zipfile.ZipFile(archive(path, raw), "a") as archived:
            archived.writestr("x/data/0", numbers.tobytes())
    else:
        end = pickle.dumps([], 2)
        path.write_bytes(
            chain(raw).removesuffix(end)
            + pickle.dumps(["0"], 2)
            + struct.pack("<q", count)
            + numbers.tobytes()
        )
    found = read_checkpoint(path).tensors["other"]
    assert found.dtype == numbers.dtype
    np.testing.assert_array_equal(found.astype(np.float32), [1, 2, 4])


@pytest.mark.parametrize(
    "wrapper", ["torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"]
)
def test_a_parameter_is_its_tensor(tmp_path, wrapper):
    inner = torch_pickle(tensor("0", 2, 0, (2,), (1,)))[2:-1]
    path = archive(tmp_path / "x.pth", beside(named(wrapper) + b"(" + inner + b"\x89)NtR"), {"0": [7, 8]})
    np.testing.assert_array_equal(read_checkpoint(path).tensors["other"], [7, 8])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (named("torch._utils._rebuild_qtensor") + b")R", "is quantized: .*dequantize"),
        (named("torch._utils._rebuild_sparse_tensor") + b")R", r"is sparse: save tensor.to_dense"),
        (named("torch._utils._rebuild_meta_tensor_no_storage") + b")R", "has no numbers"),
        (named("torch._utils._rebuild_wrapper_subclass") + b")R", "is distributed or wrapped"),
    ],
)
def test_tensors_without_plain_numbers_are_refused_where_they_are_needed(tmp_path, made, message):
    tensors = read_checkpoint(archive(tmp_path / "x.pth", beside(made))).tensors
    with pytest.raises(ValueError, match=f"x.pth: the tensor 'other' {message}"):
        tensors["other"]


@pytest.mark.parametrize(("marks", "negative"), [((), False), (({},), False), (({"neg": True},), True)])
def test_numbers_that_are_stored_with_the_opposite_sign_are_refused(tmp_path, marks, negative):
    """PyTorch marks -x as a view of x where it can, instead of computing it."""
    path = zip_file(tmp_path / "x.pth", (0, (2,), (1,), *marks), [7, 8])
    if negative:
        with pytest.raises(ValueError, match="'w' is stored with the opposite sign"):
            read_checkpoint(path).tensors["w"]
    else:
        np.testing.assert_array_equal(read_checkpoint(path).tensors["w"], [7, 8])


def test_the_file_of_a_tensor_that_can_not_be_read_is_named_once(tmp_path):
    path = archive(tmp_path / "x.pth", beside(named("torch._utils._rebuild_qtensor") + b")R"))
    with pytest.raises(ValueError, match=r"^[^:]*x\.pth: the tensor 'other' is quantized"):
        read(path)


def test_a_number_repeated_without_end_is_refused_where_it_is_needed(tmp_path):
    tensors = read_checkpoint(zip_file(tmp_path / "x.pth", (0, (1 << 40,), (0,)), range(6))).tensors
    with pytest.raises(ValueError, match="repeats 6 numbers"):
        tensors["w"]


def damage(path, numbers):
    """Changes a bit of a storage with these numbers."""
    raw, there = path.read_bytes(), np.asarray(numbers, "<f4").tobytes()
    assert raw.count(there) == 1
    path.write_bytes(raw.replace(there, there[:-1] + bytes([there[-1] ^ 1])))
    return path


def test_numbers_are_read_and_checked_when_they_are_asked_for(tmp_path):
    saved = {"net": {"w": tensor("0", 3, 0, (3,), (1,))}, "optimizer": {"m": tensor("1", 4, 0, (4,), (1,))}}
    path = archive(tmp_path / "x.pth", torch_pickle(saved), {"0": [1, 2, 3], "1": [4, 5, 6, 7]})
    tensors = read_checkpoint(damage(path, [4, 5, 6, 7])).tensors
    np.testing.assert_array_equal(tensors["net.w"], [1, 2, 3])
    with pytest.raises(ValueError, match=r"checksum of storage '1' is wrong.*download"):
        tensors["optimizer.m"]


def test_a_checksum_that_was_left_out_is_not_checked(tmp_path):
    path = zip_file(tmp_path / "x.pth", (0, (2,), (1,)), [1.5, 2.5])
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as opened:
        for info in opened.infolist():
            raw = raw.replace(struct.pack("<I", info.CRC), b"\0\0\0\0")
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_checkpoint(path).tensors["w"], [1.5, 2.5])


# --- what lies beside the weights ---

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("kind", ["zip", "chain"])
@pytest.mark.parametrize(
    "value",
    [
        {1, 2}, frozenset([1]), PurePosixPath("/a/b"), PureWindowsPath("c:/x"), Path("a"),
        datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(1),
        1 + 2j, bytearray(b"ab"), b"ab", slice(1, 2), range(3), functools.partial(dict, a=1),
        np.random.RandomState(0), np.random.default_rng(0),
        np.array(["a"]), np.array([1, "a"], object), np.dtype("f4"), np.str_("a"), np.float32, dict, None,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_objects_beside_the_weights_stand_for_nothing(tmp_path, protocol, kind, value):
    raw = pickle.dumps({"epoch": 3, "other": value, "w": ARRAY}, protocol)
    found = read_checkpoint(container(kind, raw, tmp_path / "x.pth"))
    assert found.values == {"epoch": 3} and list(found.tensors) == ["w"]
    np.testing.assert_array_equal(found.tensors["w"], ARRAY)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.float64(92.25), {"other": 92.25}),
        (np.float32(0.5), {"other": 0.5}),
        (np.float16(0.5), {"other": 0.5}),
        (np.int64(-7), {"other": -7}),
        (np.bool_(True), {"other": True}),
        (np.array([1j]), {}),
        (np.array(3.5), {"other": 3.5}),
        (collections.Counter({30: 1, 60: 2}), {"other.30": 1, "other.60": 2}),
        (collections.defaultdict(dict, a=1.5), {"other.a": 1.5}),
        (collections.OrderedDict(a={"b": "c"}), {"other.a.b": "c"}),
        (argparse.Namespace(lr=0.1, best=np.float64(3)), {"other.lr": 0.1, "other.best": 3.0}),
        (types.SimpleNamespace(lr=0.1), {"other.lr": 0.1}),
        (collections.deque([1, 2], maxlen=5), {"other": (1, 2)}),
        ([0.5, 0.25], {"other": (0.5, 0.25)}),
        ((1, "a"), {"other": (1, "a")}),
        ([{"lr": 0.1}, {"lr": 0.2}], {"other.0.lr": 0.1, "other.1.lr": 0.2}),
        (list(range(17)), {}),
        (True, {"other": True}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_beside_the_weights_are_kept(tmp_path, protocol, value, wanted):
    raw = pickle.dumps({"other": value, "w": ARRAY}, protocol)
    found = read_checkpoint(container("zip", raw, tmp_path / "x.pth")).values
    assert found == wanted
    assert [type(value) for value in found.values()] == [type(value) for value in wanted.values()]


@pytest.mark.parametrize(
    "name",
    ["torch.optim.sgd.SGD", "torch.optim.lr_scheduler.MultiStepLR", "torch.nn.modules.loss.CrossEntropyLoss",
     "torch.amp.grad_scaler.GradScaler", "torch.device", "torch.Generator",
     "torch.torch_version.TorchVersion", "torchmetrics.metric.Metric",
     "omegaconf.dictconfig.DictConfig", "pytorch_lightning.utilities.enums.X", "timm.scheduler.X",
     "mmengine.logging.history_buffer.HistoryBuffer", "sparseml.pytorch.optim.manager.X",
     "easydict.EasyDict", "yacs.config.CfgNode", "numpy.random._mt19937.MT19937"],
)  # fmt: skip
def test_optimizers_and_settings_beside_the_weights_stand_for_nothing(tmp_path, name):
    array = pickle.dumps(ARRAY, 2)[2:-1]
    state = b"}(U\x04selfh\x00U\x05arrayN" + b"u"
    made = named(name) + b")\x81q\x00" + state + b"bU\x01w" + array
    found = read_checkpoint(archive(tmp_path / "x.pth", beside(made)))
    assert found.values == {"epoch": 3} and list(found.tensors) == ["w"]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8", "|u1", "|b1", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_read_exactly(tmp_path, protocol, dtype, order):
    array = np.asarray(ARRAY, dtype, order)
    raw = pickle.dumps({"mean": array}, protocol)
    found = read_checkpoint(container("zip", raw, tmp_path / "x.pth")).tensors["mean"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_plain_pickle_of_arrays_is_read(tmp_path):
    path = container("plain", pickle.dumps({"model": {"w": ARRAY}}), tmp_path / "x.pkl")
    np.testing.assert_array_equal(read_checkpoint(path).tensors["model.w"], ARRAY)


@pytest.mark.parametrize("first", ["ds_version", "module"])
def test_a_part_of_a_network_is_named(tmp_path, first):
    saved = {"ds_version": "0.7", "module": {"conv1.weight": tensor("0", 2, 0, (0,), (1,))}}
    saved = {first: saved.pop(first), **saved}
    path = archive(tmp_path / "x.pt", torch_pickle(saved), {"0": [1, 2]})
    with pytest.raises(ValueError, match=r"'module\.conv1\.weight' is empty.*DeepSpeed.*zero_to_fp32\.py"):
        read_checkpoint(path)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    path = container("plain", pickle.dumps({"a.b": ARRAY, "a": {"b": ARRAY}}), tmp_path / "x.pkl")
    with pytest.raises(ValueError, match=r"two tensors called 'a.b'"):
        read_checkpoint(path)


def test_a_file_without_tensors_says_what_it_holds(tmp_path):
    path = container("zip", pickle.dumps({"epoch": 3, "optimizer": {}}, 2), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="it holds: epoch, optimizer"):
        read_checkpoint(path)


def test_sha256_and_size_are_of_the_whole_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf") and size(tmp_path / "x") == 3
