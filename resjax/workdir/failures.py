"""Failures of files, disks and memory: each in one line that names what failed and the remedy.

Libraries report the same failure in different ways: Python raises OSError with a number, a file that is open
raises it without its name, TensorStore and safetensors have the number in a text, and some wrap the error in
another one or in a group.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_AGAIN = "then start the same command again"
_PERMISSION = ("permission denied", "change the permissions of it and its folders, or name another path")
# {number: (what is wrong, the remedy)}
_SYSTEM = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: ("this disk can only be read", "name a folder on another disk, or mount it for writing"),
    errno.ENAMETOOLONG: ("the name is too long", "name a shorter one"),
    errno.ENOTDIR: ("a part of this path is a file and no folder", "rename the file, or name another path"),
    errno.EISDIR: ("this is a folder, where a file is needed", "rename the folder, or name a file"),
    errno.EEXIST: ("there is something else of this name", "rename it, or name another path"),
    errno.ENOTEMPTY: ("there is a folder of this name", "rename it, or name another path"),
    errno.ELOOP: ("links lead in a circle", "remove the link, or name another path"),
    errno.ENOENT: ("there is no such file or folder", "check the name"),
    errno.EIO: ("the disk reports an error", "copy what can still be read to another disk"),
    errno.ESTALE: ("the network storage has lost it", f"mount the storage again, {_AGAIN}"),
    errno.EMFILE: ("this process has too many open files", f"raise the limit (ulimit -n), {_AGAIN}"),
    errno.ENFILE: ("this machine has too many open files", f"end other programs, {_AGAIN}"),
    errno.EFBIG: ("a file is larger than this disk or a limit allows", "see ulimit -f, or use another disk"),
    errno.ETIMEDOUT: ("the storage does not answer", f"check the network, {_AGAIN}"),
    errno.EBUSY: ("another program uses it", f"end that program, {_AGAIN}"),
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
# The number in texts of TensorStore, and of libraries in Rust.
_NUMBER = re.compile(r"os_error_code='(\d+)'|\(os error (\d+)\)")
# What TensorStore and Python put in quotes.
_QUOTED = re.compile(r"[\"'](/[^\"']*)[\"']")
# JAX's error has several names and several homes, by its version.
_JAX = ("JaxRuntimeError", "XlaRuntimeError")
# The errors whose text is for users: those of resjax, and those of networks without a number.
_TOLD = (ValueError, OSError, FloatingPointError)


def explained(error: BaseException, smaller: str = "") -> str | None:
    """What is wrong and what helps; None for an error that only a fault of a program explains.

    Args:
      error: its notes follow the text.
      smaller: what the user can reduce to need less memory.
    """
    texts = (_explained(one, smaller) for one in _inner(error))
    said = next((text for text in texts if text), None)
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]  # JAX's have several lines
    return said and " ".join([said, *notes])


def number_of(error: BaseException) -> int | None:
    """The number of the system's error (``errno``) that ``error`` reports; None if it reports none."""
    return next(filter(None, map(_own_number, _inner(error))), None)


def is_full(error: BaseException) -> bool:
    """Whether ``error`` reports that a disk, or the user's share of it, is full."""
    return number_of(error) in _FULL


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context in which errors of the system become OSErrors that name ``path``, not a temporary file or
    none."""
    try:
        yield
    except Exception as error:
        number = number_of(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def free(path: Path) -> int:
    """Free bytes on the disk of ``path``, which need not exist."""
    there = next(above for above in (path, *path.parents) if above.exists())
    return shutil.disk_usage(there).free


def size(count: int) -> str:
    """A number of bytes for people: 2.1 MB."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"


def _inner(error: BaseException) -> Iterator[BaseException]:
    """``error``, those in a group, and its cause, unless ``error`` was raised to explain that."""
    yield error
    for one in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _inner(one)
    if error.__cause__ is not None and not isinstance(error, _TOLD):
        yield from _inner(error.__cause__)


def _own_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1] or found[2]) if found else None


def _explained(error: BaseException, smaller: str) -> str | None:
    text = str(error).strip()
    if isinstance(error, MemoryError) or (type(error).__name__ in _JAX and "RESOURCE_EXHAUSTED" in text):
        return _memory(text, smaller)
    number = _own_number(error)
    if number == errno.ENOMEM:
        return _memory(os.strerror(number), smaller)
    if number is not None:
        found = _QUOTED.search(text)
        return of_system(number, _path(error) or (found[1] if found else ""))
    if isinstance(error, zipfile.BadZipFile):
        return f"a file is damaged, or only a part of one: {text or 'no zip archive'}. Copy it again"
    if isinstance(error, Image.UnidentifiedImageError | Image.DecompressionBombError):
        return f"a picture can't be read: {text}. Save it again, or remove it"
    return text if isinstance(error, _TOLD) and text else None


def _path(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


def of_system(number: int, path: str) -> str:
    """What the system's error ``number`` of ``path`` (or '') means, and what helps."""
    where = f"{path}: " if path else ""
    if number in _FULL:
        quota = number == errno.EDQUOT
        what = "your quota of this disk is used up" if quota else "the disk is full"
        left = f" ({size(free(Path(path)))} are free)" if path and not quota else ""
        return f"{where}{what}{left}; remove what you do not need there, {_AGAIN}."
    what, remedy = _SYSTEM.get(number, (os.strerror(number), "check the path and its disk"))
    return f"{where}{what}; {remedy}."


def _memory(text: str, smaller: str) -> str:
    first = text.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".") if text else ""
    why = f" ({first[:200]})" if first else ""
    remedy = f"reduce {smaller}, or " if smaller else ""
    return f"the memory does not suffice{why}; {remedy}use a machine or a device with more."
