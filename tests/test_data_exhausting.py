"""Small files of data and of a run that would fill the memory or keep the reader busy without end."""

import inspect
import io
import json
import re
import struct
import sys
import zipfile

import numpy as np
import pytest
from hostile_helpers import little_memory  # noqa: F401
from PIL import Image

from resjax import config as configs
from resjax.data import archives, layout, npz
from resjax.data.npz import read_npz
from resjax.data.pixels import shown
from resjax.report import kept
from resjax.workdir import records
from resjax.workdir.workdir import read_starts
from resjax.workdir.writers import read_records, set_aside

ARRAYS = {
    "train_images": np.zeros((4, 3, 3), np.uint8), "train_labels": np.arange(4) % 2,
    "test_images": np.zeros((2, 3, 3), np.uint8), "test_labels": np.arange(2),
}  # fmt: skip


def header(descr, shape, version=1):
    """The bytes of .npy before its numbers."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


def npz_with(path, key, content, compression=zipfile.ZIP_DEFLATED):
    """The path of an .npz file with other bytes for one of its arrays."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in ARRAYS.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", content if name == key else buffer.getvalue())
        if key not in ARRAYS:
            archive.writestr(f"{key}.npy", content)
    return str(path)


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("train_images", header("|u1", (1 << 40,)) + bytes(9)),
        ("train_images", header("|u1", (1 << 40, 1 << 40, 1 << 40)) + bytes(9)),
        ("train_images", header("|u1", (1 << 32, 1 << 32, 0, 3)) + bytes(9)),
        ("train_images", header("|u1", (-4, -9)) + bytes(36)),
        ("train_labels", header("<i8", (1 << 60,)) + bytes(8)),
        ("train_labels", header("|V2147483647", (1 << 20,)) + bytes(8)),
        ("train_labels", header("|V0", (1 << 60,)) + bytes(8)),
        ("train_labels", header("<i8", (4,)).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03") + bytes(32)),
        ("train_labels", b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 31) + b" " * 40_000_000),
        ("train_labels", b"\x93NUMPY\x01\0" + struct.pack("<H", 999) + b"(" * 999),
        ("train_labels", header([("a", "<i8", (1 << 31,))], (1,)) + bytes(8)),
    ],
    ids=["long", "more than 64 bits", "nothing of much", "negative", "labels", "bytes", "of no size",
         "version", "header", "brackets", "fields"],
)  # fmt: skip
def test_an_array_has_the_size_of_its_bytes(tmp_path, request, key, content):
    path = npz_with(tmp_path / "x.npz", key, content)
    request.getfixturevalue("little_memory")
    with pytest.raises(ValueError, match=f"{key} is damaged, or no array"):
        read_npz(path)


def test_a_compressed_file_may_have_arrays_of_4_gib(tmp_path, monkeypatch, request):
    path = npz_with(tmp_path / "x.npz", "test_images", header("|u1", (400, 300, 300)) + bytes(36_000_000))
    request.getfixturevalue("little_memory")
    monkeypatch.setattr(npz, "_LARGEST", 1 << 24)
    with pytest.raises(ValueError, match="is compressed, and its arrays have 36,000,084 bytes; more than"):
        read_npz(path)


def test_a_file_without_compression_may_be_as_large_as_it_is(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    monkeypatch.setattr(npz, "_LARGEST", 10)
    np.testing.assert_array_equal(read_npz(str(tmp_path / "x.npz"))[0]["train_labels"], [0, 1, 0, 1])


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_numpy_does_not_use_is_refused(tmp_path, compression):
    """The standard library reads it in pieces that a file can make as large as it likes."""
    path = npz_with(tmp_path / "x.npz", "train_images", header("|u1", (4,)) + bytes(4), compression)
    with pytest.raises(ValueError, match="train_images is compressed in another way than by numpy"):
        read_npz(path)


@pytest.mark.parametrize(
    ("descr", "shape", "size"),
    [("|S1", (1_000_000,), 1_000_000), ("<U0", (10**9,), 0), ("<U3000000", (2,), 24_000_000)],
)
def test_class_names_are_limited(tmp_path, request, descr, shape, size):
    path = npz_with(tmp_path / "x.npz", "class_names", header(descr, shape) + bytes(size))
    request.getfixturevalue("little_memory")
    told = re.escape(f"class_names has {shape[0]:,} names, {size:,} bytes; at most 100,000 names")
    with pytest.raises(ValueError, match=told):
        read_npz(path)


def test_the_directory_of_an_archive_is_limited(tmp_path, monkeypatch):
    path = npz_with(tmp_path / "x.npz", "other", b"")
    monkeypatch.setattr(archives, "_LONGEST_DIRECTORY", 100)
    with pytest.raises(ValueError, match=r"not an \.npz archive"):
        read_npz(path)


# --- pictures ---


def test_links_between_folders_do_not_multiply(tmp_path):
    folders = [tmp_path / "train" / "a" / str(n) for n in range(8)]
    for folder in folders:
        folder.mkdir(parents=True)
    for folder, other in zip(folders, [*folders[1:], folders[0]], strict=True):
        for link in ("x", "y"):  # and so without end
            (folder / link).symlink_to(other)
    assert layout.classes(tmp_path / "train") == {"a": []}


def test_many_folders_in_each_other_are_walked(tmp_path):
    (tmp_path / "train" / "a" / "/".join("b" * 120)).mkdir(parents=True)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 90)
    try:
        found = layout.classes(tmp_path / "train")
    finally:
        sys.setrecursionlimit(before)
    assert found == {"a": []}


def test_16_bits_become_8_without_floats_of_the_whole_picture(request):
    levels = np.linspace(0, 65535, 3000 * 1000).astype(np.uint16).reshape(3000, 1000)
    request.getfixturevalue("little_memory")
    grey = np.asarray(shown(Image.fromarray(levels), 1))
    np.testing.assert_array_equal(grey[:, ::99], np.round(levels[:, ::99] / 257))


# --- a workdir ---


@pytest.mark.parametrize(("name", "read"), [("config.json", configs.load), ("runs.json", read_starts)])
@pytest.mark.usefixtures("little_memory")
def test_json_of_a_run_is_limited(tmp_path, name, read):
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=rf"{name} is damaged: it has 1,099,511,627,776 bytes"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, None], ids=["deep", "long"])
@pytest.mark.usefixtures("little_memory")
def test_a_kept_result_that_can_not_be_one_is_measured_again(tmp_path, content):
    with (tmp_path / "x.json").open("wb") as file:
        file.write(content or b"")
        file.truncate(len(content) if content else 1 << 40)
    assert kept._load(tmp_path / "x.json", lambda data: "key", dict) is None


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_long_line_of_the_log_is_moved_in_pieces(tmp_path, monkeypatch, end):
    monkeypatch.setattr(records, "_LONGEST", 64)
    log = tmp_path / "metrics.jsonl"
    record = json.dumps({"step": 1, "loss": 0.5}).encode() + b"\n"
    # A piece of it alone would be a record, and another one blank.
    long = b" " * 128 + b'{"step": 7}'.rjust(64) + b"x" * 100 + end
    log.write_bytes(record + long + record.replace(b"1", b"2") * bool(end))
    found = read_records(tmp_path)
    assert [r["step"] for r in found] == ([1, 2] if end else [1])
    assert found.unreadable == (2,)
    told = set_aside(log, 2 if end else 1)
    if end:
        assert "1 line that is no record" in told
        assert (tmp_path / "metrics.jsonl.set-aside-1").read_bytes() == long
        assert log.read_bytes() == record + record.replace(b"1", b"2")
    else:
        assert not told and log.read_bytes() == record + long + b"\n"
