"""Fills the disk of a run, makes space, and starts the same command again.

The disk is a ``tmpfs`` of the size of a part of the result, where this process may mount one. Elsewhere the
operating system limits the size of files (``RLIMIT_FSIZE``), which is near: a write then fails with another
error, at the first large file instead of the last.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from resjax.training import manifest
from resjax.workdir.atomic import is_temporary
from tests.campaign.again import compared, finish
from tests.campaign.commands import COMMANDS
from tests.campaign.lab import Lab
from tests.campaign.outcome import Outcome

_COMMANDS = ("train", "train", "analyze", "import", "export", "claims", "cut")
_ENOUGH = "256m"


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a tmpfs below ``folder``."""
    trial = folder / "mount"
    trial.mkdir(parents=True, exist_ok=True)
    try:
        with _small_disk(trial, 65536):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def command_of_disk(number: int) -> str:
    """The command of case ``number``."""
    return _COMMANDS[number % len(_COMMANDS)]


def try_disk(lab: Lab, seed: int, number: int, mounts: bool) -> Outcome:
    """Case ``number`` of ``seed``: a command on a disk that is too small by a random part of its result."""
    name = f"disk-{number}"
    draw = random.Random(f"{seed} {name}")
    of = command_of_disk(number)
    command, truth = COMMANDS[of], lab.truth[of]
    case, cache = lab.begin(name, command.start)
    part = draw.random()
    if mounts:
        before, after = _bytes(case), _bytes(truth.folder)
        size = int(before + part * (after - before)) + 4096
        how = f"{of} on a disk of {size // 1024} KiB, {after // 1024} KiB are needed"
        with _small_disk(lab.folder / "mount", size) as disk:
            shutil.copytree(case, disk / "case", dirs_exist_ok=True)
            lost, said = _filled(lab, of, disk / "case", cache, disk=disk)
            if lost:
                shutil.copytree(disk / "case", case, dirs_exist_ok=True)
    else:
        largest = max(path.stat().st_size for path in truth.folder.rglob("*") if path.is_file())
        size = int(part * largest)
        how = f"{of}, files of at most {size} bytes"
        lost, said = _filled(lab, of, case, cache, largest_file=size)
    if lost:
        shutil.copytree(lab.folder / "logs", case / "logs", dirs_exist_ok=True, ignore=_pipes)
    lab.end(name, keep=bool(lost))
    return Outcome(name, f"disk: {of}", not lost, f"{how}: {lost or said}", {"tmpfs": mounts, "bytes": size})


def _filled(
    lab: Lab, of: str, case: Path, cache: Path, *, disk: Path | None = None, largest_file: int = 0
) -> tuple[str, str]:
    """What was lost, '' if nothing was; and in words how the case ended.

    ``disk`` is the small disk in which ``case`` is, or None where files have at most ``largest_file`` bytes.
    """
    command, logs = COMMANDS[of], lab.folder / "logs"  # what is said goes to another disk
    shutil.rmtree(logs, ignore_errors=True)
    done = lab.run(command, case, cache, largest_file=largest_file, logs=logs)
    if done.stack or done.status < 0:
        return f"ended with {done.status} and a stack of calls: {done.error}", ""
    if done.status and not done.failed_plainly:
        return f"ended with {done.status}, but not in one line: {done.error}", ""
    rest = [path.name for path in case.rglob("*") if is_temporary(path)]
    if rest:
        return f"left {', '.join(rest)}", ""
    for checkpoint in case.glob("*/checkpoints/*"):
        if checkpoint.name.isdigit() and (said := manifest.damage(checkpoint)):
            return f"checkpoint {checkpoint.name}: {said}", ""
    if disk is not None:
        subprocess.run(["mount", "-o", f"remount,size={_ENOUGH}", str(disk)], check=True)
    lost, _ = finish(lab, command, case, cache, logs=logs)
    lost = lost or compared(command, lab.truth[of], case)
    if lost:
        return f"with space again: {lost} (before: {done.error})", ""
    return "", done.error if done.status else "fitted"


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _bytes(folder: Path) -> int:
    """What a folder takes on a tmpfs, whose blocks have 4 KiB."""
    return sum(-(-path.stat().st_size // 4096) * 4096 if path.is_file() else 0 for path in folder.rglob("*"))


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]
