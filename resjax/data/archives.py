"""Opening zip archives that somebody else made: their directory is limited, and damage has one error.

The list of an archive's members takes some fifteen times the memory of their directory in the file.
"""

import struct
import zipfile
from typing import Any, BinaryIO

# Some 200,000 members; a file of torch.save has one for each tensor.
_LONGEST_DIRECTORY = 1 << 24


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in a file that is open for reading.

    Raises:
      BadZipFile: it is no zip archive or damaged, or its directory has more than 16 MiB.
    """
    try:
        return zipfile.ZipFile(_Limited(file))
    except (struct.error, ValueError, OverflowError, NotImplementedError) as error:
        raise zipfile.BadZipFile(f"damaged directory ({error})") from error


class _Limited:
    """A file of which nothing long is read at once. ``ZipFile`` reads the directory at once, and the numbers
    of members piece by piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if count > _LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(
                f"a directory of {count:,} bytes; at most {_LONGEST_DIRECTORY:,} are read"
            )
        return self._file.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
