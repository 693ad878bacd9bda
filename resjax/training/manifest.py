"""The SHA-256 of every file of a checkpoint, in a file ``SHA256SUMS`` within it.

The store of the arrays has checksums of its index only, so a changed byte of an array would load as another
number. The format is that of ``sha256sum``: ``cd checkpoints && sha256sum -c 500/SHA256SUMS`` checks the
checkpoint of step 500. Names begin with the step, so that a copy of another step is noticed, too.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from resjax.data import files

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/]+)/(.+)")


def write(folder: Path, step: int) -> None:
    """Writes the checksums of the regular files in ``folder``, which will have the name of ``step``."""
    lines = [f"{_sha256(folder / name)}  {step}/{name}\n" for name in sorted(_files(folder))]
    (folder / FILE).write_text("".join(lines), "utf-8")


def damage(folder: Path) -> str | None:
    """What is not as ``write`` found it, in words that begin with a file's name; None if all is.

    Files that are not listed, as file managers make them, do no harm.

    Raises:
      FileNotFoundError: there are no checksums.
      OSError: a file can't be read.
    """
    content = files.read_bytes(folder / FILE)
    try:
        *lines, rest = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return f"{FILE} is no list of checksums"
    found = [_LINE.fullmatch(line) for line in lines]
    if rest or not found or None in found:
        return f"{FILE} is no list of checksums"
    there = _files(folder)
    for digest, step, name in (line.groups() for line in found if line):
        if step != folder.name:
            return f"{FILE} is that of step {step}"
        if name not in there:
            return f"{name} is missing"
        if _sha256(folder / name) != digest:
            return f"{name} has changed since it was saved"
    return None


def check_regular(folder: Path) -> None:
    """Raises NotRegular (a ValueError) for a pipe or device in ``folder`` or below, whose reading may never
    end, and for a link to a folder."""
    for above, folders, names in os.walk(folder):
        for path in (Path(above, name) for name in [*folders, *names]):
            if path.is_symlink() or not path.is_dir():
                files.check_regular(path)


def _files(folder: Path) -> set[str]:
    """Names of all regular files in ``folder`` and below, with /, except the checksums themselves."""

    def stop(error: OSError) -> None:
        raise error

    paths = (Path(above, name) for above, _, names in os.walk(folder, onerror=stop) for name in names)
    return {p.relative_to(folder).as_posix() for p in paths if p.is_file()} - {FILE}


def _sha256(path: Path) -> str:
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
