"""One process at a time writes a workdir.

The folder itself is locked, so a lock leaves no file and ends with its process, however that ends. File
systems without such locks, as NFS, and Windows let every process in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def alone(workdir: Path, flag: str = "--workdir") -> Iterator[None]:
    """A context in which no other process that uses ``alone`` writes ``workdir``, which ``flag`` named and
    which is created if absent.

    Raises:
      ValueError: another process is writing there.
    """
    if fcntl is None:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    folder = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is writing a run in {workdir}; wait for its end, stop it, or use another "
                f"{flag}"
            ) from error
        except OSError:  # this file system has no locks
            pass
        yield
    finally:
        os.close(folder)
