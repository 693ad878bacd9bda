"""The bytes of a file, read into memory when they are asked for.

The file is not mapped into memory: a process that reads a mapped file ends without a word (SIGBUS) when
another one shortens that file.
"""

import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from resjax.data.files import open_regular

_PIECE = 1 << 24


class Raw:
    """A file that is open for reading. Nothing larger than the file is allocated."""

    def __init__(self, path: str | Path) -> None:
        """Opens ``path``; raises as ``open_regular``."""
        self.path = path
        self.file = open_regular(path)
        weakref.finalize(self, self.file.close)  # when its tensors are no longer used
        self.size = os.fstat(self.file.fileno()).st_size

    def read(self, count: int) -> bytes:
        """The next bytes, at most ``count``."""
        if count > _PIECE:  # a file that is open would allocate all of it
            count = min(count, max(self.size - self.file.tell(), 0))
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, place: int) -> None:
        self.file.seek(place)

    def bytes(self, start: int, length: int) -> bytes:
        """Bytes ``start`` to ``start + length``.

        Raises:
          ValueError: the file ends before.
        """
        return self.array(start, np.uint8, length).tobytes()

    def array(self, start: int, dtype: Any, count: int) -> np.ndarray:
        """``count`` numbers [count] from byte ``start`` on, in memory of their own.

        Raises:
          ValueError: the file ends before.
        """
        dtype = np.dtype(dtype)
        length = count * dtype.itemsize
        if not 0 <= start <= start + length <= self.size:
            raise ValueError(f"{self.path} is damaged: bytes {start:,} to {start + length:,} are not in it")
        self.file.seek(start)
        found = np.fromfile(self.file, np.uint8, length)
        if len(found) < length:
            raise ValueError(
                f"{self.path} became shorter while it was read: wait until it is whole, and repeat"
            )
        return found.view(dtype)

    def crc32(self, start: int, length: int) -> int:
        """The checksum of some bytes, without holding them; raises as ``array``."""
        found = 0
        for place in range(start, start + length, _PIECE):
            found = zlib.crc32(self.bytes(place, min(_PIECE, start + length - place)), found)
        return found
