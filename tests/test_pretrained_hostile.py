"""Files that would run code are refused, and nothing happens."""

import copyreg
import itertools
import os
import pickle
import shutil

import numpy as np
import pytest
from hostile_helpers import nothing_happens  # noqa: F401
from torch_pickles import Call, archive, beside, container, named, tensor, torch_pickle

from resjax.pretrained.reading.files import read_checkpoint
from resjax.pretrained.reading.pickles import Name, TorchFileError
from resjax.pretrained.reading.stand_ins import accepted

pytestmark = pytest.mark.usefixtures("nothing_happens")

KINDS = ("zip", "chain", "plain")
TEXT = b"U\x06number"
ONES = b"U\x01w" + pickle.dumps(np.ones(2), 2)[2:-1]  # the array 'w' of two ones, after another entry


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
