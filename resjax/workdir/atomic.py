"""Files that are whole or absent: each is written beside its place, as ``.NAME.PID``, and then renamed.

The disk holds a file before it is renamed, so a loss of power leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resjax.workdir.failures import naming

# Seconds without a change after which the process that wrote a temporary file is taken for killed. Its number
# proves nothing, because the process may run on another machine.
_ABANDONED = 600
# What file systems answer that can't flush a folder.
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_unfinished: set[Path] = set()


def write(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, in a folder that is created if absent.

    An existing file is replaced when the new one is whole.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A context that gives a file in the same folder, to which the new content of ``path`` is written.

    The folder is created if absent. The file takes its place at the end; after an error it is removed, and
    ``path`` is as it was. What a killed process has left is removed when the same file is written again, ten
    minutes later or more.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.iterdir():
            if is_temporary(other, path.name):
                with contextlib.suppress(OSError):  # it has just gone, or belongs to another user
                    if time.time() - other.stat().st_mtime > _ABANDONED:
                        other.unlink()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        _unfinished.add(temporary)
        try:
            yield temporary
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # of the disk or folder that the first error reports
                temporary.unlink()
            raise
        finally:
            _unfinished.discard(temporary)


def discard() -> None:
    """Removes the temporary files of this process, just before it ends without unwinding."""
    for temporary in list(_unfinished):
        with contextlib.suppress(OSError):
            temporary.unlink()


def flush(path: Path) -> None:
    """Waits until the disk holds the content of a file, or the names of the files in a folder.

    Raises:
      OSError: the disk can't hold the file.
    """
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    opened = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDERS):
            raise
    finally:
        os.close(opened)


def flush_all(folder: Path) -> None:
    """``flush`` of every file in ``folder`` and below, and of the folders; raises as it does."""
    paths = [folder, *folder.rglob("*")]
    with ThreadPoolExecutor(8) as pool:  # file systems write what is flushed concurrently at once
        list(pool.map(flush, paths))


def is_temporary(path: Path, name: str = "") -> bool:
    """Whether ``path`` is called as a temporary file, of the file ``name`` if that is given."""
    return re.fullmatch(rf"\.{re.escape(name) if name else '.+'}\.\d+", path.name) is not None
