"""Small files that would fill the memory or keep the reader busy without end, and files that reach beyond
themselves, are refused."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hostile_helpers import little_memory, nothing_happens  # noqa: F401
from safetensors.numpy import save_file
from test_pretrained_hostile import ONES
from torch_pickles import archive, beside, chain, named, tensor, torch_pickle, zip_file

from resjax.data import archives
from resjax.pretrained.reading import pickles
from resjax.pretrained.reading.files import read_checkpoint
from resjax.pretrained.reading.pickles import TorchFileError

pytestmark = pytest.mark.usefixtures("nothing_happens")


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
                for n in range(500)
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
        assert len(read_checkpoint(path).tensors) == 501


@pytest.mark.parametrize(
    "made", [b"Nr\xff\xff\xff\xff", b"]q\x00h\x00a", b"}q\x00U\x01ah\x00s"], ids=["memo", "list", "dict"]
)
@pytest.mark.usefixtures("little_memory")
def test_what_is_odd_but_small_is_read(tmp_path, made):
    found = read_checkpoint(archive(tmp_path / "x.pth", beside(made + ONES)))
    assert list(found.tensors) == ["w"] and found.values == {"epoch": 3}


@pytest.mark.parametrize("count", [64, 20_000])
def test_a_tensor_is_not_wrapped_without_end(tmp_path, count):
    inner = torch_pickle(tensor("0", 2, 0, (2,), (1,)))[2:-1]
    made = (
        (named("torch._utils._rebuild_parameter") + b"(") * count
        + inner
        + b"\x89Nt R".replace(b" ", b"") * count
    )
    path = archive(tmp_path / "x.pth", beside(made), {"0": [1, 2]})
    if count > 64:
        with pytest.raises(TorchFileError, match="wrapped more than 64 times"):
            read_checkpoint(path)
    else:
        np.testing.assert_array_equal(read_checkpoint(path).tensors["other"], [1, 2])


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
     (0, (-1,), (1,)), (0, (0, -1), (1, 1)), (1 << 62, (1,), (1,))],
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
        ((1 << 63, (1,), (1,)), "more than 64 bits"),
        ((0, (1 << 10_000,), (1,)), "more than 64 bits"),
        ((0, (1,) * 65, (1,) * 65), "a shape of 65 dimensions"),
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


# --- work that grows faster than the file ---

LIST = b"(" + b"K\x01" * 100_000 + b"t"  # 100,000 numbers
KEYS = b"}(" + b"".join(b"J" + struct.pack("<i", n) + b"\x85K\x01" for n in range(50_000)) + b"u"
ORDERED = named("collections.OrderedDict")


@pytest.mark.parametrize(
    "made",
    [
        KEYS + b"q\x000](" + b"h\x00" * 1000 + b"e",
        LIST + b"q\x000](" + ORDERED + b"q\x01" + b"h\x01h\x00R" * 1000 + b"e",
        LIST + b"q\x000](" + ORDERED + b"q\x01" + b"h\x01h\x00\x85R" * 1000 + b"e",
    ],
    ids=["entries without a name", "arguments", "given entries"],
)
def test_a_long_part_that_stands_in_many_places_is_not_walked_each_time(tmp_path, made):
    with pytest.raises(TorchFileError, match="more than 200,000 entries"):
        read_checkpoint(archive(tmp_path / "x.pth", beside(made)))


def test_keys_that_have_one_hash_are_no_names(tmp_path):
    equal = [1, 1 << 61, (1 << 61) + (1 << 61) - 1]
    assert len({hash(n) for n in equal}) == 1
    made = pickle.dumps({n: float(n % 7) for n in equal}, 2)[2:-1]
    found = read_checkpoint(archive(tmp_path / "x.pth", beside(made + ONES)))
    assert found.values == {"epoch": 3, "other.1": 1.0}


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_a_memo_has_no_numbers_that_a_list_could_not_have(tmp_path, number):
    made = b"Np%d\n" % number
    with pytest.raises(TorchFileError, match="a number of its memo"):
        read_checkpoint(archive(tmp_path / "x.pth", beside(made + ONES)))


@pytest.mark.parametrize(
    ("limit", "value", "made"), [("_INSTRUCTIONS", 300, b"N0" * 300), ("_OBJECTS", 100, b"\x8f0" * 200)]
)
def test_the_instructions_of_a_pickle_and_their_objects_are_limited(
    tmp_path, monkeypatch, limit, value, made
):
    path = archive(tmp_path / "x.pth", beside(made + b"N" + ONES))
    assert read_checkpoint(path).values == {"epoch": 3}
    monkeypatch.setattr(pickles, limit, value)
    with pytest.raises(TorchFileError, match=r"it has more than .* instructions or makes more"):
        read_checkpoint(path)


@pytest.mark.parametrize("length", [1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("opcode", [b"\x8d", b"\x8e", b"\x96"], ids=["text", "bytes", "bytearray"])
@pytest.mark.usefixtures("little_memory")
def test_a_text_can_not_be_longer_than_the_file(tmp_path, opcode, length):
    (tmp_path / "x.pth").write_bytes(b"\x80\x05" + opcode + struct.pack("<Q", length) + b"abc.")
    with pytest.raises(TorchFileError, match="only 4 remain"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_refusal_does_not_list_without_end(tmp_path):
    many = b"(" + b"".join(b"c__main__\nClass%d\n" % n for n in range(5000)) + b"t"
    with pytest.raises(TorchFileError, match="and 4995 more names") as refused:
        read_checkpoint(archive(tmp_path / "x.pth", beside(many)))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("shape", [(1 << 20,), (1 << 10, 1 << 10)])
def test_tensors_can_not_share_numbers_without_end(tmp_path, shape):
    def views(count):
        strides = (0,) * len(shape)
        tensors = {f"w{n}": tensor("0", 4, 0, shape, strides) for n in range(count)}
        return archive(tmp_path / "x.pth", torch_pickle(tensors), {"0": range(4)})

    assert len(read_checkpoint(views(16)).tensors) == 16  # 64 MiB
    with pytest.raises(TorchFileError, match="share numbers so often that they have 71,303,168 bytes"):
        read_checkpoint(views(17))


# --- archives ---


def test_members_can_not_share_their_bytes(tmp_path):
    tensors = {f"w{n}": tensor(str(n), 4, 0, (4,), (1,)) for n in range(9)}
    path = archive(tmp_path / "x.pth", torch_pickle(tensors), {str(n): np.zeros(1000) for n in range(9)})
    raw = bytearray(path.read_bytes())
    assert len(read_checkpoint(path).tensors) == 9
    entries = [raw.index(b"PK\x01\x02")]
    while (place := raw.find(b"PK\x01\x02", entries[-1] + 4)) > 0:
        entries.append(place)
    first = raw[entries[1] + 42 : entries[1] + 46]
    for entry in entries[1:]:  # of data/0 … data/8
        raw[entry + 42 : entry + 46] = first
    cut = tmp_path / "y.pth"
    with zipfile.ZipFile(path) as whole:
        last, end = whole.getinfo("x/data/1").header_offset, whole.start_dir
    directory = raw[end:]
    directory[-6:-2] = struct.pack("<I", last)  # where it begins now
    cut.write_bytes(raw[:last] + directory)
    with pytest.raises(TorchFileError, match="its members overlap: 36,000 bytes"):
        read_checkpoint(cut)


def test_the_directory_of_an_archive_is_limited(tmp_path, monkeypatch):
    path = zip_file(tmp_path / "x.pth", (0, (6,), (1,)), range(6))
    monkeypatch.setattr(archives, "_LONGEST_DIRECTORY", 90)
    with pytest.raises(ValueError, match=r"damaged \(a directory of 110 bytes; at most 90 are read"):
        read_checkpoint(path)


# --- a file that another process shortens ---


@pytest.mark.parametrize("kind", ["zip", "chain", "safetensors"])
def test_a_file_that_becomes_shorter_is_refused(tmp_path, kind):
    path = tmp_path / "x"
    numbers = np.arange(1 << 20, dtype=np.float32)
    if kind == "zip":
        zip_file(path, (0, (1 << 20,), (1,)), numbers)
    elif kind == "safetensors":
        save_file({"w": numbers}, path)
    else:
        whole = chain(torch_pickle({"w": tensor("0", 1 << 20, 0, (1 << 20,), (1,))}))
        ends = pickle.dumps(["0"], 2) + struct.pack("<q", 1 << 20) + numbers.tobytes()
        path.write_bytes(whole.removesuffix(pickle.dumps([], 2)) + ends)
    found = read_checkpoint(path).tensors
    np.testing.assert_array_equal(found["w"], numbers)
    os.truncate(path, 1 << 20)  # a process that had mapped the file would end here
    with pytest.raises(ValueError, match="became shorter while it was read"):
        found["w"]
