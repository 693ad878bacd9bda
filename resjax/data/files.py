"""Reading files that somebody else may have made: regular files only, so that reading always ends.

A pipe may wait for a writer for ever, and a device such as /dev/zero never ends. A file is opened without
waiting and then looked at, so it can't be exchanged in between. Where another library opens a file by its
name, `check_regular` looks at it before.
"""

import errno
import io
import json
import os
import pathlib
import stat
from typing import Any

_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip
# Windows has only the last of these; there, bytes are not to be changed at the ends of lines.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_LONGEST_JSON = 1 << 24  # bytes


class NotRegular(ValueError):
    """A path names a pipe, socket, device or folder where a file is needed."""


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading bytes; links are followed.

    Raises:
      FileNotFoundError: there is no such file.
      NotRegular (a ValueError): it is of another kind.
      OSError: it can't be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from error
    except OSError:
        check_regular(path)  # a socket can't be opened
        raise
    try:
        _check(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a regular file; raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises NotRegular (a ValueError) if there is something else than a regular file at `path`."""
    try:
        found = os.stat(path)
    except OSError:
        return  # whoever opens it says why this is not possible
    _check(path, found)


def _check(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "of another kind")
    if stat.S_ISDIR(found.st_mode):
        remedy = "name a file"
    else:
        remedy = "save what comes out of it as a file first, and name that"
    link = f"a link to {os.readlink(path)}, " if os.path.islink(path) else ""
    raise NotRegular(f"{pathlib.Path(path)} is {link}{kind}, not a file: {remedy}")


def read_json(path: pathlib.Path, kind: type[Any], remedy: str) -> Any:
    """The value in a JSON file.

    Args:
      path: the file.
      kind: dict or list, what the file must hold.
      remedy: what the message advises if the file is damaged.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is empty, is no JSON in UTF-8, holds another kind, is no regular file, or has more
        than 16 MiB.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > _LONGEST_JSON:
            raise ValueError(
                f"{path} is damaged: it has {size:,} bytes, of at most {_LONGEST_JSON:,}. {remedy}"
            )
        content = file.read()
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        what = "is damaged: it is no text in UTF-8"
    except (ValueError, RecursionError) as error:
        what = f"is damaged: it is no JSON ({error})" if content.strip() else "is empty"
    else:
        if isinstance(value, kind):
            return value
        names: dict[type[Any], str] = {dict: "an object", list: "a list"}
        what = f"is damaged: it holds {names.get(type(value), repr(value))}, not {names[kind]}"
    raise ValueError(f"{path} {what}. {remedy}")
