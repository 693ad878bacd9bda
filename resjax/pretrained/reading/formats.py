"""What a file is, by its first bytes.

``recognize`` tells the two formats that are read, and refuses any other file by saying what it is and how to
get what is needed from it.
"""

import json
import os
import re
import shlex
import zipfile
from pathlib import Path

from resjax.data.archives import open_zip
from resjax.data.files import open_regular

SAFETENSORS, TORCH, NUMPY = "safetensors", "torch", "numpy"
_KNOWN = "safetensors, files of torch.save and .npz are read"
_OTHER_FRAMEWORK = (
    f"{_KNOWN}. Networks of other libraries are analyzed as JAX functions: python -m resjax.analyze "
    "--network=MODULE:FUNCTION (docs/discover.md)"
)
_UNPACK = "unpack it and name the checkpoint in it"
JOIN = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
_PARTIAL = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2", ".tmp")
_MAGIC: list[tuple[int, bytes, str, str]] = [
    (0, b"\x89HDF\r\n\x1a\n", "HDF5, as Keras saves weights", _OTHER_FRAMEWORK),
    (0, b"\x93NUMPY", "a single NumPy array (.npy)", "save the arrays by name: safetensors.numpy.save_file"),
    (0, b"GGUF", "GGUF, a language model for llama.cpp", _KNOWN),
    (4, b"TFL3", "a TensorFlow Lite model", _OTHER_FRAMEWORK),
    (0, b"\x12\x01\0\0\0\0\0\0", "a file of MXNet", _OTHER_FRAMEWORK),
    (0, b"MATLAB ", "a file of MATLAB", _OTHER_FRAMEWORK),
    (0, b"\x1f\x8b", "compressed (gzip)", f"{_UNPACK}: gunzip -k {{file}}"),
    (0, b"BZh", "compressed (bzip2)", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed (xz)", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd)", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", f"{_UNPACK}: tar -xf {{file}}"),
    (0, b"\x89PNG", "a picture", _KNOWN),
    (0, b"\xff\xd8\xff", "a picture", _KNOWN),
    (0, b"%PDF", "a PDF", _KNOWN),
]
_LONGEST_SHOWN = 100
# safetensors allows no longer table.
_LONGEST_TABLE = 100_000_000
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # at the end of TensorFlow's indices


def recognize(file: Path) -> str:
    """``SAFETENSORS``, ``TORCH`` or ``NUMPY``.

    Raises:
      ValueError: it is of another format, empty, or not downloaded; the message says which and what to do.
    """
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        head = opened.read(4096)
        opened.seek(max(0, size - 8))
        tail = opened.read()
    if file.name.endswith(".distcp"):
        command = f"{JOIN} {quoted(file.absolute().parent)} weights.pth"
        raise ValueError(
            f"{file} is a part of a distributed checkpoint of PyTorch: join its parts:\n  {command}"
        )
    if found := _readable(file, head):
        return found
    what, remedy = _other(file, head, tail, size)
    raise ValueError(f"{file} is {what}: {remedy}")


def _readable(file: Path, head: bytes) -> str:
    """The format if it is one that is read, otherwise ""."""
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_TABLE:
        return SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 2:
        return TORCH
    if head[:4] == b"PK\x03\x04":
        try:
            names = _members(file)
        except zipfile.BadZipFile:
            return ""
        parts = {name.rpartition("/")[2] for name in names}
        if "data.pkl" in parts and "constants.pkl" not in parts:
            return TORCH
        if names and all(name.endswith(".npy") for name in names):
            return NUMPY
    return ""


def _other(file: Path, head: bytes, tail: bytes, size: int) -> tuple[str, str]:
    """What an unreadable file is, and the remedy."""
    if size == 0:
        return "empty (0 bytes)", "download it again"
    if file.name.endswith(_PARTIAL) or not any(head):
        return (
            f"a download that has not finished ({size:,} bytes so far)",
            "complete it, or download it again",
        )
    if head[:2] == b"PK":
        return _zip(file, size)
    if file.name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        return "a compressed tar archive", f"{_UNPACK}: tar -xf {quoted(file)}"
    for offset, magic, what, remedy in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return what, remedy.format(file=quoted(file))
    if tail == _TABLE_MAGIC or re.search(r"\.data-\d{5}-of-\d{5}$", file.name):
        return "a part of a TensorFlow checkpoint", _OTHER_FRAMEWORK
    if file.name == "saved_model.pb" or (head[:1] == b"\n" and file.suffix == ".pb"):
        return "a TensorFlow model", _OTHER_FRAMEWORK
    # Protocol buffers have no magic number: here the version of ONNX, then the producer or the graph.
    if head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42"):
        return (
            "an ONNX model",
            f"{_OTHER_FRAMEWORK}, or save the state_dict() of the PyTorch model it came from",
        )
    if file.suffix == ".caffemodel":
        return "a Caffe model", _OTHER_FRAMEWORK
    if (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)) and _is_msgpack_text(head):
        return "msgpack, as Flax saves weights", _OTHER_FRAMEWORK
    if (text := _text(head)) is not None:
        return _of_text(file, text)
    return f"of an unknown format (its first bytes are {head[:8].hex(' ')})", _KNOWN


def python_command(code: str) -> str:
    """A command for a shell that runs ``code``."""
    return f"python -c {quoted(code)}" if set('"$`!\\') & set(code) else f'python -c "{code}"'


def quoted(text: object) -> str:
    """``text``, such as a path, for a command of a shell."""
    return shlex.quote(str(text))


def _is_msgpack_text(head: bytes) -> bool:
    """Whether the first key of a msgpack map is a text."""
    start = {0xDE: 3, 0xDF: 5}.get(head[0], 1)
    return 0xA0 <= head[start] <= 0xBF or head[start] in (0xD9, 0xDA)


def _zip(file: Path, size: int) -> tuple[str, str]:
    try:
        names = _members(file)
    except zipfile.BadZipFile as error:
        return (
            f"a zip archive or PyTorch file that is damaged ({error}), or is cut short at {size:,} bytes",
            "download or save it again",
        )
    parts = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in parts:
        code = f"import torch; torch.save(torch.jit.load({str(file)!r}).state_dict(), 'weights.pth')"
        return "TorchScript, which holds a program", f"save the state_dict() alone:\n  {python_command(code)}"
    if "model.weights.h5" in parts:
        return "a Keras model", _OTHER_FRAMEWORK
    inside = [
        name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".pth.tar"))
    ]
    if inside:
        return f"a zip archive that contains {_some(inside, 5)}", f"{_UNPACK}: unzip {quoted(file)}"
    return f"a zip archive, no PyTorch checkpoint, of {_some(names, 3) or 'nothing'}, …", _KNOWN


def _some(names: list[str], most: int) -> str:
    """The first names of files, in a message."""
    return ", ".join(shown(name) for name in names[:most])


def shown(name: str) -> str:
    """A name that a file holds, in a message: short, and without characters that a terminal acts upon."""
    text = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
    return text if text.isprintable() else ascii(text)


def _members(file: Path) -> list[str]:
    """The names in a zip archive."""
    with open_regular(file) as opened, open_zip(opened) as archive:
        return archive.namelist()


def _text(head: bytes) -> str | None:
    """The beginning of a text file; None if it is none."""
    for encoding in ("utf-8-sig", "utf-16") if head[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            text = head[: len(head) - 4 if len(head) == 4096 else None].decode(encoding)
        except UnicodeDecodeError:
            continue
        if all(c.isprintable() or c.isspace() for c in text):
            return text
    return None


def _of_text(file: Path, text: str) -> tuple[str, str]:
    first = text.strip()[:80].splitlines()[0] if text.strip() else ""
    start = text.lstrip().lower()
    if start.startswith("version https://git-lfs"):
        size = re.search(r"^size (\d+)", text, re.M)
        real = f" of {int(size[1]):,} bytes" if size else ""
        return (
            f"a Git LFS pointer, in place of a file{real} that was not downloaded",
            f"run: cd {quoted(file.absolute().parent)} && git lfs pull",
        )
    if start.startswith(("<!doctype html", "<html", "<head", "<?xml", "<error")):
        title = re.search(r"<(title|message)[^>]*>(.*?)</", text, re.I | re.S)
        called = f" ({title[2].strip()[:80]!r})" if title else ""
        return (
            f"a web page{called}, not the file that it links to",
            "download the file itself: on GitHub 'Download raw file', on Hugging Face …/resolve/main/…, for "
            "Google Drive the program gdown",
        )
    if start[:1] in ("{", "["):
        try:
            keys = _some(list(json.loads(text)), 5) if start[0] == "{" else "a list"
        except (ValueError, RecursionError):
            keys = first
        return f"JSON ({keys})", _KNOWN
    return f"a text file that begins with {first!r}", f"{_KNOWN}; download the file again if this is no text"
