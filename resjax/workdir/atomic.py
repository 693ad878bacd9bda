"""Files that are whole or absent: each is written beside its place, as ``.NAME.PID``, and then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from resjax.workdir.failures import naming

# Seconds without a change after which the process that wrote a temporary file is taken for killed. Its number
# proves nothing, because the process may run on another machine.
_ABANDONED = 600
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
            temporary.replace(path)
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


def is_temporary(path: Path, name: str = "") -> bool:
    """Whether ``path`` is called as a temporary file, of the file ``name`` if that is given."""
    return re.fullmatch(rf"\.{re.escape(name) if name else '.+'}\.\d+", path.name) is not None
