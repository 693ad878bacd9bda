"""Files and folders that the command line names: on this machine, writable, several in one argument."""

import glob
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
# Commands that copy a folder, and a file.
_COPY = {"gs": ("gcloud storage rsync --recursive", "gcloud storage cp"), "s3": ("aws s3 sync", "aws s3 cp")}


def local(path: str | Path, flag: str = "--workdir", *, reads: bool = False, file: bool = False) -> Path:
    """The absolute path of a folder, or a ``file``, of this machine that ``flag`` named; ``reads`` tells that
    it is not to be written.

    Raises:
      ValueError: it is a URL, blank, or no possible name.
    """
    text = str(path)
    if not text.strip():
        raise ValueError(f"{flag} is empty; name a folder: {flag}=runs/NAME")
    # A Path has one slash where a URL has two. One letter is a drive.
    if url := _URL.match(text):
        scheme, rest = url[1].lower(), text[url.end() :]
        if scheme == "file":
            own = shlex.quote("/" + rest.removeprefix("localhost/"))
            raise ValueError(f"{flag}={text} is a URL; give the path alone: {flag}={own}")
        here = f"runs/{Path(rest).name or 'NAME'}"
        pair = (f"{scheme}://{rest}", here) if reads else (here, f"{scheme}://{rest}")
        copy = f": {_COPY[scheme][file]} {shlex.join(pair)}" if scheme in _COPY else ""
        when = "copy it to this machine first" if reads else "copy it when the command has ended"
        kinds = "files" if file else "folders"
        raise ValueError(
            f"{flag}={text} is a URL, and only {kinds} of this machine can be used. Give one, "
            f"{flag}={shlex.quote(here)}, and {when}{copy}; or mount the storage as a folder"
        )
    try:
        text.encode()  # checkpoints are written by libraries that need UTF-8
        found = Path(text).expanduser().resolve()
        found.exists()
    except (ValueError, RuntimeError, OSError) as error:
        runtime = "is a circle of links" if "loop" in str(error) else "begins with an unknown user"
        known = {UnicodeEncodeError: "is not UTF-8", RuntimeError: runtime}
        why = known.get(type(error), f"is no possible name ({error.args[-1]})")
        raise ValueError(f"{flag}={ascii(text)[1:-1]} {why}; name another folder") from error
    return found


def writable(folder: str | Path, flag: str = "--workdir") -> Path:
    """The absolute path of a folder, there or not yet, in which files can be made; it is not created.

    Raises:
      ValueError: it is a URL, a file or within one, or the user may not write there.
    """
    path = local(folder, flag)
    there = next(above for above in (path, *path.parents) if above.exists())
    if not there.is_dir():
        what = "is a file" if there == path else f"is within the file {there}"
        raise ValueError(f"{flag}={folder} {what}; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{flag}={folder}: you may not write in {there}; name another folder")
    return path


def writable_file(file: str | Path, flag: str) -> Path:
    """The absolute path of a file that can be written, there or not yet; its folder is not created.

    Raises:
      ValueError: as ``writable`` says of its folder, or it is a folder itself.
    """
    path = local(file, flag, file=True)
    if path.is_dir():
        raise ValueError(f"{flag}={file} is a folder; name a file")
    writable(path.parent, flag)
    return path


def split(values: Iterable[str]) -> list[str]:
    """The workdirs in the values of ``--workdir``, which separates them by commas.

    A comma that belongs to the name of a folder, or to a pattern that matches, separates nothing: the longest
    such name is taken.
    """
    found = []
    for value in values:
        parts = value.split(",")
        while parts:
            longest = (n for n in range(len(parts), 1, -1) if _is_there(",".join(parts[:n]).strip()))
            count = next(longest, 1)
            found.append(",".join(parts[:count]).strip())
            parts = parts[count:]
    return [name for name in found if name]


def _is_there(name: str) -> bool:
    path = Path(name).expanduser()
    return path.exists() or (glob.has_magic(name) and any(glob.iglob(str(path), recursive=True)))
