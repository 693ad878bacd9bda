"""Files that would run code, reach beyond themselves or fill the memory are refused, and nothing happens."""

import copyreg
import itertools
import os
import pickle
import shutil
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from torch_pickles import Call, archive, beside, chain, container, named, tensor, torch_pickle, zip_file

from resjax.pretrained.reading.files import read_checkpoint
from resjax.pretrained.reading.pickles import Name, TorchFileError
from resjax.pretrained.reading.stand_ins import accepted

KINDS = ("zip", "chain", "plain")
TEXT = b"U\x06number"
ONES = b"U\x01w" + pickle.dumps(np.ones(2), 2)[2:-1]  # the array 'w' of two ones, after another entry


@pytest.fixture(autouse=True)
def nothing_happens(tmp_path):
    """Whatever a file says, no folder is made, and the next file reads the same."""
    yield
    assert not (tmp_path / "made").exists()
    good = zip_file(tmp_path / "good.pth", (0, (6,), (1,)), range(6))
    np.testing.assert_array_equal(read_checkpoint(good).tensors["w"], range(6))


@pytest.fixture
def little_memory():
    """No more than 30 MB are taken."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


# Plain pickles of protocol 0 are not recognized.
@pytest.mark.parametrize(("kind", "protocol"), [("zip", 0), ("chain", 0), *itertools.product(KINDS, (2, 4))])
@pytest.mark.parametrize("function", [os.mkdir, eval, __import__, getattr, shutil.rmtree, print])
def test_a_file_that_calls_anything_is_refused_and_nothing_runs(tmp_path, kind, protocol, function):
    target = str(tmp_path / "made")
    raw = pickle.dumps({"state_dict": {"w": Call(function, (target,))}}, protocol)
    path = container(kind, raw, tmp_path / "evil.pth")
    name = rf"{function.__name__} \(in 'state_dict.w'\)"
    with pytest.raises(TorchFileError, match=rf"evil.pth: it refers to .*{name}.*no code was run.*save the"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "name",
    ["os.system", "torch.load", "torch.storage._load_from_bytes", "torch.hub.load", "torch._utils.__import__",
     "torch._utils._rebuild_tensor_v2.__globals__", "builtins.eval", "builtins.setattr", "builtins.type",
     "copyreg.__newobj__", "functools.reduce", "numpy.load", "numpy.core.multiarray.fromfile",
     "types.CodeType", "collections.OrderedDict.__init__.__globals__", "collections.namedtuple",
     "pathlib.Path.unlink",
     "torch.optimizers.x", "torch.nn.modules.linear.Linear", "operator.attrgetter", "__main__.Net"],
)  # fmt: skip
def test_only_names_of_a_fixed_list_are_accepted(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    for known in ("torch._utils", "collections", "pathlib"):  # protocol 4 looks attributes of attributes up
        if name.startswith(f"{known}."):
            module, attribute = known, name.removeprefix(f"{known}.")
    assert not accepted(Name(module, attribute))
    raw = (
        b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
        + b"\x8c" + bytes([len(attribute)]) + attribute.encode() + b"\x93."
    )  # fmt: skip
    with pytest.raises(TorchFileError, match=f"it refers to {name}.*fixed list"):
        read_checkpoint(container("zip", raw, tmp_path / "x.pth"))


STAND_INS = [
    "collections.OrderedDict", "collections.Counter", "collections.defaultdict", "collections.deque",
    "builtins.set", "__builtin__.dict", "builtins.list", "builtins.object", "argparse.Namespace",
    "types.SimpleNamespace", "pathlib.PosixPath", "datetime.datetime", "functools.partial", "_codecs.encode",
    "copyreg._reconstructor", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.numeric._frombuffer", "numpy.random._pickle.__randomstate_ctor", "torch.Size", "torch.device",
    "torch.FloatStorage", "torch.float32", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter", "torch._utils._rebuild_qtensor",
    "torch._tensor._rebuild_from_type_v2", "torch.optim.sgd.SGD", "omegaconf.dictconfig.DictConfig",
    "easydict.EasyDict",
]  # fmt: skip
# With the stand-in below: it is called with odd arguments, and odd things are set on what it makes.
ATTACKS = {
    "called with nothing": b")R",
    "called with a text": TEXT + b"\x85R",
    "called with numbers": b"(K\x01J\xff\xff\xff\xffG\x7f\xf0\0\0\0\0\0\0tR",
    "called with itself": b"q\x00h\x00\x85R",
    "called with a list of itself": b"q\x00]q\x01(h\x00h\x01eK\x02\x86R",
    "made with a text": TEXT + b"\x85\x81",
    "made with keywords": b")}" + TEXT + b"K\x01s\x92",
    "state of a text": b")R" + TEXT + b"b",
    "state of a tuple": b")R(K\x01K\x02NNNK\x03tb",
    "state of attributes": b")RN}U\x09__class__" + TEXT + b"s\x86b",
    "state of itself": b")Rq\x00h\x00b",
    "entries of a text": b")R(" + TEXT + b"K\x01u",
    "entries under itself": b")Rq\x00h\x00h\x00s",
    "items": b")R(K\x01" + TEXT + b"e",
    "an item": b")RK\x01a",
    "items of a set": b")R(K\x01K\x02\x90",
}
CRIMES = {
    "attributes of a class": b"}U\x06lengthK\x01sb",
    "attributes in slots of a class": b"N}U\x08__code__K\x01s\x86b",
    "entries of a class": TEXT + b"K\x01s",
    "items of a class": b"K\x01a",
    "a call of what was made": b")R)R",
    "a call of a text": b"0" + TEXT + b")R",
    "arguments that are no tuple": b"]R",
    "attributes of a dict": b"0}}U\x05clearK\x01sb",
    "attributes of a number": b"0K\x01}U\x05clearK\x01sb",
}


# A tensor, an array and a number are refused without their parts.
WITH_PARTS = (
    "torch.Size", "_codecs.encode", "numpy._core.multiarray.scalar", "numpy.core.numeric._frombuffer",
    "numpy.core.multiarray._reconstruct",
)  # fmt: skip


@pytest.mark.parametrize("name", STAND_INS)
def test_what_a_stand_in_is_given_has_no_effect(tmp_path, name):
    assert accepted(Name(*name.rpartition(".")[::2]))
    for how, attack in ATTACKS.items():
        path = archive(tmp_path / "x.pth", beside(named(name) + attack + ONES))
        try:
            found = read_checkpoint(path)
        except TorchFileError as error:
            assert name in WITH_PARTS or "_rebuild" in name, (how, error)
        else:
            np.testing.assert_array_equal(found.tensors["w"], 1)


@pytest.mark.parametrize("crime", CRIMES)
@pytest.mark.parametrize(
    "name", ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage"]
)
def test_what_no_checkpoint_does_is_refused(tmp_path, name, crime):
    with pytest.raises(TorchFileError, match=r"x.pth: it is no plain pickle: it (calls|sets|appends)"):
        read_checkpoint(archive(tmp_path / "x.pth", beside(named(name) + CRIMES[crime])))


def test_registered_extensions_are_not_looked_up(tmp_path):
    copyreg.add_extension("posix", "mkdir", 0x70)
    try:
        made = (
            b"\x82\x70U" + bytes([len(str(tmp_path / "made"))]) + str(tmp_path / "made").encode() + b"\x85R"
        )
        with pytest.raises(TorchFileError, match="EXT1 is not used"):
            read_checkpoint(archive(tmp_path / "x.pth", beside(made)))
    finally:
        copyreg.remove_extension("posix", "mkdir", 0x70)


@pytest.mark.parametrize(
    ("owner", "refused"),
    [
        (named("torch.optim.sgd.SGD"), ""),
        (named("collections.OrderedDict"), "collections.OrderedDict.load"),
        (named("os.path"), "os.path"),
        (named("torch.optim.sgd.SGD") + b")R", "__builtin__.getattr"),
        (b"U\x02os", "__builtin__.getattr"),
    ],
    ids=["class", "of no list", "module", "object", "text"],
)
def test_a_member_is_accepted_as_its_dotted_name_is(tmp_path, owner, refused):
    # How protocol 2 writes methods and nested classes.
    raw = beside(named("__builtin__.getattr") + owner + b"U\x04load\x86R" + ONES)
    path = archive(tmp_path / "x.pth", raw)
    if refused:
        with pytest.raises(TorchFileError, match=f"it refers to {refused}"):
            read_checkpoint(path)
    else:
        assert read_checkpoint(path).values == {"epoch": 3}


@pytest.mark.parametrize(
    "made",
    [b"(cposix\nmkdir\nU\x04madeo", b"(U\x04madeiposix\nmkdir\n", b"cposix\nmkdir\nU\x04made\x85\x81"],
    ids=["OBJ", "INST", "NEWOBJ"],
)
def test_every_way_to_make_an_object_is_refused_by_name(tmp_path, made):
    with pytest.raises(TorchFileError, match=r"it refers to posix.mkdir \(in 'other'\)"):
        read_checkpoint(archive(tmp_path / "x.pth", beside(made)))


def test_a_call_that_leaves_nothing_behind_is_refused(tmp_path):
    path = archive(tmp_path / "x.pth", beside(b"cposix\nmkdir\nU\x04made\x85R0N"))
    with pytest.raises(TorchFileError, match=r"it refers to posix\.mkdir\. Tensors"):
        read_checkpoint(path)


# Each step would make the name of a class longer by a text that the file holds once.
MEMBERS = (
    named("builtins.getattr") + b"q\x00X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\x010h\x00"
    + named("torch.optim.X") + (b"h\x01\x86Rq\x020h\x00h\x02" * 2000)
)  # fmt: skip
LAUGHS = b"]q\x00" + b"".join(b"0]q%c(h%ch%ch%ce" % (n + 1, n, n, n) for n in range(40))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (b"(" * 20_000 + b"N" + b"t" * 20_000, "nested 64 deep"),
        (b"}U\x01a" * 20_000 + b"N" + b"s" * 20_000, "nested 64 deep"),
        (b"}" + b"(" * 20_000 + b"N" + b"t" * 20_000 + b"Ns", "is the key of a dict"),
        (MEMBERS, "too long"),
        (LAUGHS, "more than 200,000 entries"),
        (b"h\x07", "can't be read as a PyTorch file"),
        (b"\x97", "NEXT_BUFFER is not used"),
        (b"\xff", "can't be read as a PyTorch file"),
        (b"tttt", "can't be read as a PyTorch file"),
        (b"PID\n", "unknown kind of object"),
        (b"(U\x05otherK\x01tQ", "unknown kind of object 'other'"),
        (b"(U\x07storage" + named("torch.device") + b"U\x010U\x03cpuK\x01tQ", "no known kind of storage"),
        (b"(U\x07storage" + named("torch.FloatStorage") + b"U\x019U\x03cpuK\x01tQ", "storage '9' is missing"),
    ],
    ids=range(13),
)  # fmt: skip
def test_what_would_exhaust_the_reader_is_refused(tmp_path, made, message):
    with pytest.raises(TorchFileError, match=message):
        read_checkpoint(archive(tmp_path / "x.pth", beside(made)))


# Each of 40 tuples holds the one before it three times: 3^40 in all, for comparing, hashing or printing it.
ENDLESS = b")q\x00" + b"".join(b"0h%ch%ch%c\x87q%c" % (n, n, n, n + 1) for n in range(40)) + b"0h\x28"
COUNTER, DTYPE = named("collections.Counter"), named("numpy.dtype") + b"U\x02f8\x85R"
STORAGE = b"(U\x07storage"
FLOATS = named("torch.FloatStorage")
HEAD, END = (chain({"a": 1}).partition(pickle.dumps({"a": 1}, 2))[i] for i in (0, 2))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (ENDLESS + b"\x85Q", "unknown kind of object a tuple"),
        (STORAGE + FLOATS + ENDLESS + b"U\x03cpuK\x01tQ", "whose key is a tuple"),
        (STORAGE + ENDLESS + b"U\x010U\x03cpuK\x01tQ", "a tuple is no known kind of storage"),
        (COUNTER + b"](" + ENDLESS + b"K\x01\x86e\x85R", ""),
        (COUNTER + b")R" + ENDLESS + b"b", ""),
        (
            named("numpy.core.multiarray._reconstruct") + b")R(K\x01K\x01\x85" + DTYPE
            + b"(K\x03" + ENDLESS + b"NNNK\x01K\x01K\0tb\x89U\x08aaaaaaaatb",
            "",
        ),
    ],
    ids=["kind of object", "key of a storage", "class of a storage", "pairs", "state", "order of bytes"],
)  # fmt: skip
def test_a_part_that_repeats_itself_without_end_is_not_looked_into(tmp_path, made, message):
    path = archive(tmp_path / "x.pth", beside(made + ONES))
    if message:
        with pytest.raises(TorchFileError, match=message):
            read_checkpoint(path)
    else:
        assert list(read_checkpoint(path).tensors) == ["w"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02" + ENDLESS + b"." + END, "version a tuple"),
        (HEAD + beside(b"N") + b"\x80\x02]" + ENDLESS + b"a.", "storage a tuple belongs to no tensor"),
        (b"\x80\x02}(" + COUNTER + b")R" + ENDLESS + b"bK\x01U\x01aK\x02u.", "it holds: a$"),
    ],
    ids=["version", "storages", "key of an object"],
)
def test_a_file_that_repeats_itself_without_end_is_told_in_short(tmp_path, raw, message):
    (tmp_path / "x.pth").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "x.pth")


LONG = b"X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\x000"  # a text, once


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (LONG + b"}h\x00}(" + b"".join(b"K%cK\x01" % n for n in range(250)) + b"us", "names of its entries"),
        (LONG + b"}h\x00" * 2000 + named("os.system") + b"s" * 2000, r"os.system \(in 'other\.a{194}'\)"),
        (
            LONG + DTYPE + b"q\x010" + named("numpy.core.multiarray._reconstruct") + b"q\x020}("
            + b"".join(
                b"J" + struct.pack("<i", n) + b"h\x02)R(K\x01M\xd40\x85h\x01\x89h\x00tb"
                for n in range(1000)
            ) + b"u",
            "",
        ),
    ],
    ids=["names", "place", "bytes of arrays"],
)  # fmt: skip
def test_what_a_file_holds_once_is_kept_once(tmp_path, request, made, message):
    path = archive(tmp_path / "x.pth", beside(made + ONES))
    request.getfixturevalue("little_memory")
    if message:
        with pytest.raises(TorchFileError, match=message):
            read_checkpoint(path)
    else:
        assert len(read_checkpoint(path).tensors) == 1001


@pytest.mark.parametrize(
    "made", [b"Nr\xff\xff\xff\xff", b"]q\x00h\x00a", b"}q\x00U\x01ah\x00s"], ids=["memo", "list", "dict"]
)
@pytest.mark.usefixtures("little_memory")
def test_what_is_odd_but_small_is_read(tmp_path, made):
    found = read_checkpoint(archive(tmp_path / "x.pth", beside(made + ONES)))
    assert list(found.tensors) == ["w"] and found.values == {"epoch": 3}


def test_wrappers_of_wrappers_are_followed_without_recursion(tmp_path):
    count = 20_000
    inner = torch_pickle(tensor("0", 2, 0, (2,), (1,)))[2:-1]
    made = (
        (named("torch._utils._rebuild_parameter") + b"(") * count
        + inner
        + b"\x89Nt R".replace(b" ", b"") * count
    )
    found = read_checkpoint(archive(tmp_path / "x.pth", beside(made), {"0": [1, 2]}))
    np.testing.assert_array_equal(found.tensors["other"], [1, 2])


@pytest.mark.parametrize(
    ("shape", "dtype", "raw", "message"),
    [
        (1 << 40, b"f4", b"abcd", r"an array of shape \(1099511627776,\) and float32 has 4 bytes"),
        (-1, b"f4", b"abcd", r"an array of shape \(-1,\)"),
        (2, b"f4", b"abcd", "has 4 bytes"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("little_memory")
def test_an_array_can_not_be_larger_than_its_bytes(tmp_path, shape, dtype, raw, message):
    array = pickle.dumps(np.ones(1, "f4"), 2)[2:-1]
    assert array.count(b"K\x01\x85") == 1
    size = pickle.dumps(shape, 2)[2:-1]
    with pytest.raises(TorchFileError, match=message):
        read_checkpoint(archive(tmp_path / "x.pth", beside(array.replace(b"K\x01\x85", size + b"\x85"))))


@pytest.mark.parametrize("code", [b"O8", b"V4", b"M8", b"U1", b"S4", b"f4,f4", b"g", b"f16", b"x"])
def test_an_array_of_anything_but_numbers_stands_for_nothing(tmp_path, code):
    array = pickle.dumps(np.ones(1, "f4"), 2)[2:-1]
    text = b"X\x02\0\0\0f4"
    assert array.count(text) == 1
    array = array.replace(text, b"X" + struct.pack("<I", len(code)) + code)
    path = archive(tmp_path / "x.pth", beside(array + ONES))
    assert list(read_checkpoint(path).tensors) == ["w"]


# --- tensors and storages ---


@pytest.mark.parametrize(
    "view",
    [(2, (2, 2), (3, 1)), (0, (2, 2), (-1, 1)), (-1, (2,), (1,)), (0, (1 << 40,), (1,)), (0, (7,), (1,)),
     (0, (-1,), (1,)), (0, (0, -1), (1, 1)), (1 << 70, (1,), (1,))],
)  # fmt: skip
def test_a_tensor_can_not_reach_out_of_its_storage(tmp_path, view):
    path = zip_file(tmp_path / "x.pth", view, range(6))
    with pytest.raises(TorchFileError, match="extends past the end"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ((0, (0, 1 << 62, 1 << 62), (1, 1, 1)), "can't be read"),
        ((0, (2, 2), (1,)), "can't be read"),
        (("a", (2,), (1,)), "a str where a whole number belongs"),
        ((0, (2.5,), (1,)), "a float where a whole number belongs"),
        ((0, "ab", (1, 1)), "a shape that is no tuple"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tmp_path, view, message):
    with pytest.raises(TorchFileError, match=message):
        read_checkpoint(zip_file(tmp_path / "x.pth", view, range(6)))


def test_a_storage_that_is_cut_short_is_refused(tmp_path):
    raw = torch_pickle({"w": tensor("0", 6, 0, (6,), (1,))})
    path = archive(tmp_path / "x.pth", raw, {"0": range(5)})
    with pytest.raises(TorchFileError, match="shorter than its tensors say"):
        read_checkpoint(path)


@pytest.mark.parametrize("count", [1 << 40, 1 << 61, -1, 7])
@pytest.mark.usefixtures("little_memory")
def test_a_storage_of_the_old_format_can_not_be_larger_than_the_file(tmp_path, count):
    storage = b"(U\x07storage" + named("torch.FloatStorage") + b"U\x010U\x03cpuK\x06NtQ"
    end = pickle.dumps([], 2)
    raw = chain(beside(storage)).removesuffix(end) + pickle.dumps(["0"], 2)
    (tmp_path / "x.pth").write_bytes(raw + struct.pack("<q", count) + bytes(24))
    with pytest.raises(TorchFileError, match=r"it is cut short: storage '0' needs .* and 24 are left"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_storage_of_no_tensor_is_refused(tmp_path):
    raw = chain({"a": 1}).removesuffix(pickle.dumps([], 2)) + pickle.dumps(["0"], 2)
    (tmp_path / "x.pth").write_bytes(raw)
    with pytest.raises(TorchFileError, match="storage '0' belongs to no tensor"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path, request):
    raw = torch_pickle({"w": tensor("0", 10**7, 0, (10**7,), (1,))})
    path = archive(tmp_path / "x.pth", raw, {"0": np.zeros(10**7)}, zipfile.ZIP_DEFLATED)
    request.getfixturevalue("little_memory")
    with pytest.raises(TorchFileError, match=r"was compressed.*zip -0 -r"):
        read_checkpoint(path)


@pytest.mark.parametrize(("field", "value"), [(42, 1 << 30), (20, 1 << 30)])
def test_a_member_can_not_reach_out_of_the_archive(tmp_path, field, value):
    path = zip_file(tmp_path / "x.pth", (0, (6,), (1,)), range(6))
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")  # of data/0, the last one
    raw[entry + field : entry + field + 4] = struct.pack("<I", value)
    if field == 20:
        raw[entry + 24 : entry + 28] = struct.pack("<I", value)
    path.write_bytes(raw)
    with pytest.raises(TorchFileError, match=r"damaged or cut short|can't be read"):
        read_checkpoint(path)


# --- what the refusal says ---


def test_a_name_can_not_write_to_the_terminal(tmp_path):
    made = b"\x8c\x02os\x8c\x07\x1b[2Jrun\x93"
    with pytest.raises(TorchFileError, match=r"it refers to 'os\.\\x1b\[2Jrun' \(in 'other'\)"):
        read_checkpoint(archive(tmp_path / "x.pth", beside(made)))


def test_a_whole_model_of_a_script_is_saved_in_the_script(tmp_path):
    state = b"}U\x0b_parameters}sb"
    path = archive(tmp_path / "x.pth", beside(named("__main__.Net") + b")\x81" + state))
    with pytest.raises(
        TorchFileError, match=r"a __main__\.Net, in the program that defines this class:\n  import"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("raw", "command"),
    [
        (
            {"args": "__main__.Args", "state_dict": "tensors"},
            "\"Args = type('Args', (), {}); import torch; torch.save(torch.load('x.pth', map_location='cpu', "
            "weights_only=False)['state_dict'], 'x_weights.pth')\"",
        ),
        (
            {"epoch": "utils.Config", "net": "tensors"},
            "\"import torch; torch.save(torch.load('x.pth', map_location='cpu', "
            "weights_only=False)['net'], 'x_weights.pth')\"",
        ),
        (
            {"model": "torchvision.models.resnet.ResNet model"},  # where its module can be imported
            "\"import torch; torch.save(torch.load('x.pth', map_location='cpu', "
            "weights_only=False)['model'].state_dict(), 'x_weights.pth')\"",
        ),
    ],
)  # fmt: skip
def test_the_refusal_has_the_command_that_saves_the_weights(tmp_path, monkeypatch, raw, command):
    monkeypatch.chdir(tmp_path)
    made = b"\x80\x02}"
    for key, kind in raw.items():
        name, _, model = kind.partition(" ")
        state = b"}U\x0b_parameters}s" if model else b"}U\x02lrK\x01s"
        value = (
            torch_pickle({"w": tensor("0", 2, 0, (2,), (1,))})[2:-1]
            if name == "tensors"
            else named(name) + b")\x81" + state + b"b"
        )
        made += b"U" + bytes([len(key)]) + key.encode() + value + b"s"
    path = archive(tmp_path / "x.pth", made + b".", {"0": [1, 2]})
    with pytest.raises(TorchFileError) as refused:
        read_checkpoint(path.name)
    assert str(refused.value).endswith(f"\n  python -c {command}")
