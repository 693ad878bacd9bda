"""Reading ``metrics.jsonl``, which may be long and may be damaged: a line at a time, nothing kept in memory.

A record begins with the CRC-32 of the rest of its line, ``{"crc32": "0a1b2c3d", "step": …``, which is checked
and left out. Records without one, from earlier versions, are read, too. A line that is no record, for example
after a disk was full, or whose checksum is wrong, is passed over; its number is in ``unreadable``. Of a last
line without its end, which a killed process leaves, nothing is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

from resjax.data.files import open_regular

_LONGEST = 1 << 24  # bytes of a record
# Norms are most of a long log. The writer puts them last, so the rest of a line is read without them.
_NORMS, _END = b', "norms": {', b"}}}"


_CHECKSUM = re.compile(rb'\{"crc32": "([0-9a-f]{8})", ')


def line_of(record: Mapping[str, Any]) -> str:
    """The line of a record that is ready for JSON."""
    rest = json.dumps(record)[1:]
    return f'{{"crc32": "{zlib.crc32(rest.encode()):08x}", {rest}\n'


class Line(NamedTuple):
    """One line of the file."""

    number: int  # from 1
    content: bytes  # with its end, which the last line may lack
    step: int | None  # None if it is no record
    piece: bool = False  # whether it is a part of a line of more than 16 MiB, which is no record

    @property
    def blank(self) -> bool:
        return not self.piece and not self.content.strip()

    @property
    def half(self) -> bool:
        """Whether its writing was interrupted."""
        return self.step is None and not self.piece and not self.content.endswith(b"\n")


class Records(Sequence[dict[str, Any]]):
    """The records of a run, oldest first, as dictionaries that are read from the file when they are used.

    Attributes:
      unreadable: the numbers of lines that are no records, from 1.
      last: the highest step, 0 without records.
    """

    def __init__(self, path: Path) -> None:
        """Reads where the records are in ``path``; without such a file there are none."""
        self._path = path
        self._offsets = array("q")
        self._file: tuple[int, int] | None = None
        unreadable: list[int] = []
        self.last = 0
        with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
            self._file = _identity(file)
            offset = 0
            for line in lines(file):
                if line.step is not None:
                    self._offsets.append(offset)
                    self.last = max(self.last, line.step)
                elif not line.blank and not line.half and line.number not in unreadable[-1:]:
                    unreadable.append(line.number)
                offset += len(line.content)
        self.unreadable = tuple(unreadable)

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        chosen = self._offsets[index]
        if isinstance(chosen, array):
            return [_whole(line) for line in self._read(chosen)]
        return _whole(next(self._read([chosen])))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_whole, self._read(self._offsets))

    def without_norms(self) -> Iterator[dict[str, Any]]:
        """The same records without norms, many times faster."""
        return map(_scalars, self._read(self._offsets))

    def _read(self, offsets: Sequence[int]) -> Iterator[bytes]:
        if not offsets:
            return
        with open_regular(self._path) as file:
            if _identity(file) != self._file:
                raise ValueError(f"{self._path} was replaced while it was read; start the analysis again")
            for offset in offsets:
                file.seek(offset)
                yield file.readline()


def lines(file: BinaryIO) -> Iterator[Line]:
    """The lines of a file that is open at its start; long ones in pieces, which have one number."""
    number, piece = 0, False
    while content := file.readline(_LONGEST):
        number += not piece
        ended = content.endswith(b"\n")
        piece = piece or (len(content) == _LONGEST and not ended)
        yield Line(number, content, None if piece else _step(content), piece)
        piece = piece and not ended


def _step(content: bytes) -> int | None:
    found = _CHECKSUM.match(content)
    if found and int(found[1], 16) != zlib.crc32(content[found.end() :].rstrip(b"\r\n")):
        return None
    try:
        record = _scalars(content)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _scalars(content: bytes) -> dict[str, Any]:
    place = content.find(_NORMS)
    if place > 0 and content.rstrip().endswith(_END):
        record = json.loads(content[:place].decode() + "}")
    else:
        record = json.loads(content.decode())
    if isinstance(record, dict):
        record.pop("norms", None)
        record.pop("crc32", None)
    return record


def _whole(content: bytes) -> dict[str, Any]:
    """A record; without norms, if these alone are damaged."""
    try:
        record = dict(json.loads(content.decode()))
    except (ValueError, RecursionError):
        return _scalars(content)
    record.pop("crc32", None)
    return record


def _identity(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino
