"""Damages one file of a run, and looks at what a command makes of it.

It may refuse in one line that names the file, or find what an undisturbed run finds. Where something is lost,
such as the newest checkpoint, it may find what it would without that part, if a line says so. A stack of
calls, or another number without a word, counts as lost.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.campaign.commands import COMMANDS, Command, Done
from tests.campaign.contents import Contents, contents, difference
from tests.campaign.lab import Lab
from tests.campaign.outcome import Outcome


class Target(NamedTuple):
    """Files to damage, and the commands that then read them."""

    pattern: str  # of files, in the state of the command
    commands: tuple[str, ...]


_READERS = ("resume", "analyze", "export")
_STEP = "run/checkpoints/*"
TARGETS = {
    "checkpoint: arrays": Target(f"{_STEP}/state/**/d/*", _READERS),
    "checkpoint: index": Target(f"{_STEP}/state/**/manifest.ocdbt", _READERS),
    "checkpoint: metadata": Target(f"{_STEP}/**/_*", _READERS),
    "checkpoint: checksums": Target(f"{_STEP}/SHA256SUMS", _READERS),
    "config.json": Target("run/config.json", _READERS),
    "runs.json": Target("run/runs.json", _READERS),
    "metrics.jsonl": Target("run/metrics.jsonl", ("resume", "analyze")),
    "kept result": Target("run/studies/*.json", ("analyze again",)),
    "import: file": Target("net.safetensors", ("import",)),
}
# Commands on a state that only damages need: (command, state, the undisturbed command with the same result).
_ON = {"analyze again": ("analyze", "undisturbed/analyze")}

Damage = Callable[[random.Random, Path, Path], None]
"""(draw, file, the same file of another run)."""


def _flip(draw: random.Random, file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def _truncate(draw: random.Random, file: Path, other: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))] if content else b"")


def _append(draw: random.Random, file: Path, other: Path) -> None:
    with file.open("ab") as opened:
        opened.write(draw.randbytes(draw.randint(1, 200)))


def _empty(draw: random.Random, file: Path, other: Path) -> None:
    file.write_bytes(b"")


def _delete(draw: random.Random, file: Path, other: Path) -> None:
    file.unlink()


def _replace(draw: random.Random, file: Path, other: Path) -> None:
    shutil.copy(other, file)


def _zeros(draw: random.Random, file: Path, other: Path) -> None:
    """What a file system may leave after a loss of power."""
    file.write_bytes(bytes(file.stat().st_size))


DAMAGES: dict[str, Damage] = {
    "a bit flipped": _flip,
    "cut off": _truncate,
    "emptied": _empty,
    "filled with zeros": _zeros,
    "deleted": _delete,
    "garbage appended": _append,
    "replaced by another run's": _replace,
}


def command_of_damage(seed: int, number: int) -> str:
    """The name of the undisturbed command to which case ``number`` is compared."""
    reader = _drawn(seed, number)[3]
    return _ON.get(reader, (reader, ""))[0]


def _drawn(seed: int, number: int) -> tuple[random.Random, str, str, str]:
    """Of case ``number``: the source of randomness, the kind of file, the damage, the reader."""
    draw = random.Random(f"{seed} damage-{number}")
    label = list(TARGETS)[number % len(TARGETS)]
    kind = list(DAMAGES)[number // len(TARGETS) % len(DAMAGES)]
    return draw, label, kind, draw.choice(TARGETS[label].commands)


def try_damage(lab: Lab, seed: int, number: int) -> Outcome:
    """Case ``number`` of ``seed``: the table of files turns fastest, then that of damages."""
    name = f"damage-{number}"
    draw, label, kind, reader = _drawn(seed, number)
    target = TARGETS[label]
    of, state = _ON.get(reader, (reader, COMMANDS[reader].start if reader in COMMANDS else ""))
    command = COMMANDS[of]
    case, cache = lab.begin(name, state)
    files = sorted(path for path in case.glob(target.pattern) if path.is_file())
    file = draw.choice(files)
    relative = file.relative_to(case)
    before = file.read_bytes()
    DAMAGES[kind](draw, file, _of_other(lab, state, target.pattern, files.index(file), relative))
    same = file.is_file() and file.read_bytes() == before
    done = lab.run(command, case, cache)
    what = f"{relative} {kind}, then {reader}"
    lost, said = (
        ("", "nothing was damaged") if same else _judged(lab, command, of, state, case, relative, done)
    )
    lab.end(name, keep=bool(lost))
    facts = {"damage": kind, "reader": reader, "status": done.status, "file": str(relative)}
    return Outcome(name, label, not lost, f"{what}: {lost or said}", facts)


def _of_other(lab: Lab, state: str, pattern: str, place: int, relative: Path) -> Path:
    """The same file of a run with another seed; files of arrays have random names, so their place counts."""
    home = lab.folder / "other" / ("half" if state == "half" else "done")
    files = sorted(path for path in home.glob(pattern) if path.is_file())
    same = home / relative
    return same if same.is_file() else files[min(place, len(files) - 1)]


def _judged(
    lab: Lab, command: Command, of: str, state: str, case: Path, file: Path, done: Done
) -> tuple[str, str]:
    """What was lost, '' if nothing was; and in words how the case ended."""
    if done.stack or done.status < 0:
        return f"ended with {done.status} and a stack of calls: {done.error}", ""
    lines = done.err.splitlines()
    named = [line for line in lines if file.name in line or _checkpoint(file) in line]
    if done.status:
        if not done.failed_plainly:
            return f"ended with {done.status}, but not in one line: {done.error}", ""
        if file.name not in done.error and _checkpoint(file) not in done.error:
            return f"the refusal does not name the file: {done.error}", ""
        return "", f"refused: {done.error}"
    try:
        found = contents(case, command.results)
    except Exception as error:
        return f"unreadable result: {type(error).__name__}: {error}", ""
    truth = lab.truth["train" if of == "resume" else of].contents
    differs = difference(found, truth)
    if not differs:
        return "", "right" + (f", and said: {named[0]}" if named else "")
    less = _without(lab, command, of, state, case, file)
    if less is not None and not difference(found, less):
        return (
            ("", f"right without it, and said: {named[0]}") if named else (f"without a word: {differs}", "")
        )
    return f"another result: {differs}" + (f" (said: {named[0]})" if named else ", without a word"), ""


def _checkpoint(file: Path) -> str:
    """The checkpoint's folder in the path of one of its files; else what is in no line."""
    return "/".join(file.parts[1:3]) if "checkpoints" in file.parts else "\0"


def _without(lab: Lab, command: Command, of: str, state: str, case: Path, file: Path) -> Contents | None:
    """What the command finds in an undamaged folder without the damaged part; None if there is no such part.

    That is the checkpoint to which ``file`` belongs, or the lines of the log that have changed.
    """
    work, cache = lab.begin("without", state)
    try:
        if "checkpoints" in file.parts:
            shutil.rmtree(work.joinpath(*file.parts[:3]))
        elif file.name == "metrics.jsonl":
            # Training moves damaged lines to other files; nothing that was whole may be missing.
            logs = [*(case / "run").glob("metrics.jsonl*")]
            left = {line for log in logs for line in log.read_bytes().split(b"\n")}
            kept = [
                line for line in (work / file).read_bytes().splitlines(True) if line.rstrip(b"\n") in left
            ]
            (work / file).write_bytes(b"".join(kept))
        else:
            return None
        done = lab.run(command, work, cache)
        if done.status:
            return None
        found = contents(work, command.results)
        return found
    finally:
        lab.end("without", keep=False)
