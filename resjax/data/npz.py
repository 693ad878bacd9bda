"""Reading an `.npz` file. What its arrays are is known, and their sizes are checked, before any of them is
read."""

import io
import math
import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np

from resjax.data.archives import open_zip
from resjax.data.config import no_such
from resjax.data.files import open_regular
from resjax.data.layout import some

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
NAMES = "class_names"
_HEADER = 16_384  # numpy reads headers of at most 10,000 bytes
_DEFLATED = 1040  # times that compression by zip can make less of a file
_LARGEST = 1 << 32  # bytes of the arrays of a compressed file
_CLASSES, _LONGEST_NAMES = 100_000, 1 << 24


def read_npz(path: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The four arrays of an `.npz` file, and its optional `class_names`; other arrays are ignored.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an .npz file or damaged, an array is missing, one holds Python objects, the
        class names are not a list of at most 100,000 words, or the arrays of a compressed file have more than
        4 GiB.
    """
    file = pathlib.Path(path).expanduser()
    try:
        found = open_regular(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{no_such(path, 'file')}. Write it with numpy.savez(path, train_images=..., "
            "train_labels=..., test_images=..., test_labels=...)"
        ) from error
    with found as opened:
        size = opened.seek(0, io.SEEK_END)
        try:
            archive = open_zip(opened)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{path}: not an .npz archive, or only a part of one ({size:,} bytes); copy it "
                "again, or write it with numpy.savez"
            ) from error
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [key for key in KEYS if key not in members]
        if missing:
            raise ValueError(
                f"{path}: {', '.join(missing)} missing. Found: {some(members)}. "
                f"Needed: {', '.join(KEYS)} (class_names is optional){_renaming(path, [*members])}"
            )
        keys = [*KEYS, NAMES] if NAMES in members else [*KEYS]
        told = {key: header(path, archive, key, members[key], size) for key in keys}
        _check_sizes(path, told, [members[key] for key in keys])
        raw = {key: read_member(path, archive, key, members[key]) for key in keys}
    names = raw.pop(NAMES, np.zeros(0, str))
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    return raw, tuple(map(str, names))


class Header(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


# How an array of Python objects is saved without them.
_WITHOUT_OBJECTS = {
    "images": "images of one size as one uint8 array: numpy.stack(list(images))",
    "labels": "numbers: numpy.array(list(labels), dtype=int)",
    NAMES: "texts: numpy.array(list(class_names), dtype=str)",
}


def header(path: str, archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo, size: int) -> Header:
    """The header of an array, in a file of ``size`` bytes.

    Raises:
      ValueError: the header is damaged or contradicts the archive, or the array holds Python objects.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{path}: {key} is compressed in another way than by numpy; write the file with numpy.savez"
        )
    most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _DEFLATED)
    try:
        with archive.open(info) as member:
            head = io.BytesIO(member.read(_HEADER))  # numpy would read a header of any length
        read_header: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(head)]
        shape, _, dtype = read_header(head)
    except Exception as error:  # of zipfile, zlib, numpy or tokenize, by the place of the damage
        raise _damaged(path, key) from error
    if dtype.hasobject:
        remedies = (text for kind, text in _WITHOUT_OBJECTS.items() if key.endswith(kind))
        remedy = next(remedies, "arrays of numbers")
        raise ValueError(f"{path}: {key} has dtype {dtype}, and Python objects are not read; save {remedy}")
    told = Header(shape, dtype)
    fits = min((0, *shape)) == 0 and head.tell() + told.bytes == info.file_size
    if not fits or info.compress_size > size or info.file_size > most:
        raise _damaged(path, key)
    return told


def _check_sizes(path: str, told: dict[str, Header], members: list[zipfile.ZipInfo]) -> None:
    """Raises ValueError for class names that are none, and for compressed arrays that fill the memory."""
    if names := told.get(NAMES):
        if len(names.shape) != 1 or names.dtype.kind not in "SUiu":
            raise ValueError(
                f"{path}: class_names has dtype {names.dtype} and shape {names.shape}; needed: a list of "
                "words, numpy.array(['cat', 'dog'])"
            )
        if names.shape[0] > _CLASSES or names.bytes > _LONGEST_NAMES:
            raise ValueError(
                f"{path}: class_names has {names.shape[0]:,} names, {names.bytes:,} bytes; at most "
                f"{_CLASSES:,} names and {_LONGEST_NAMES:,} bytes are read"
            )
    total = sum(one.bytes for one in told.values())
    if total > _LARGEST and any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise ValueError(
            f"{path} is compressed, and its arrays have {total:,} bytes; more than {_LARGEST:,} are read "
            "only from a file without compression: write it with numpy.savez"
        )


def read_member(path: str, archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo) -> np.ndarray:
    try:
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)
    except Exception as error:  # of zipfile, zlib or numpy, by the place of the damage
        raise _damaged(path, key) from error


def _damaged(path: str, key: str) -> ValueError:
    return ValueError(
        f"{path}: {key} is damaged, or no array; copy the file again, or write it with numpy.savez"
    )


def _renaming(path: str, found: list[str]) -> str:
    """The line that renames the arrays of Keras's files; '' for others."""
    keras = ("x_train", "y_train", "x_test", "y_test")
    if not set(keras) <= set(found):
        return ""
    arrays = ", ".join(f"{key}=a[{old!r}]" for key, old in zip(KEYS, keras, strict=True))
    return f". Rename them in Python: a = numpy.load({path!r}); numpy.savez('renamed.npz', {arrays})"
