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
    "kept scores": Target("run/studies/*.npz", ("analyze again",)),
    "import: file": Target("net.safetensors", ("import",)),
}
# Commands on a state that only damages need: (command, state, the undisturbed command with the same result).
_ON = {"analyze again": ("analyze", "undisturbed/analyze")}

# What no format can notice; docs/reliability.md says so.
_UNPROMISED = "not promised"
_TENSORS = "a file of tensors has no checksums, so the network is that of the changed file"
_UNCHECKED = {
    ("import: file", "a bit flipped"): _TENSORS,
    ("import: file", "filled with zeros"): _TENSORS,
    ("import: file", "replaced by another run's"): _TENSORS,
    ("metrics.jsonl", "replaced by another run's"): "the lines of a log do not say to which run they belong",
}

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
    hurt = _Hurt(lab, command, of, state, case, file.relative_to(case))
    before = file.read_bytes()
    DAMAGES[kind](draw, file, _of_other(hurt, target.pattern, files.index(file)))
    same = file.is_file() and file.read_bytes() == before
    done = lab.run(command, case, cache)
    lost, said = (
        ("", "nothing was damaged") if same else _judged(hurt, done, _UNCHECKED.get((label, kind), ""))
    )
    lab.end(name, keep=bool(lost))
    facts = {
        "damage": kind,
        "reader": reader,
        "status": done.status,
        "file": str(hurt.file),
        "promised": not said.startswith(_UNPROMISED),
    }
    return Outcome(name, label, not lost, f"{hurt.file} {kind}, then {reader}: {lost or said}", facts)


class _Hurt(NamedTuple):
    """A damaged file, and the command that reads it."""

    lab: Lab
    command: Command
    of: str  # its name
    state: str  # of the folder before
    case: Path
    file: Path  # within the folder of the case

    @property
    def checkpoint(self) -> str:
        """The checkpoint's folder as messages name it; '' for another file."""
        return "/".join(self.file.parts[1:3]) if "checkpoints" in self.file.parts else ""

    def named_in(self, line: str) -> bool:
        """Whether a line names the file, its checkpoint, or the run to which a ``config.json`` belongs."""
        run = f"{self.case / self.file.parent} belongs to a run with another configuration"
        whole = self.file.name == "config.json" and run in line
        return self.file.name in line or bool(self.checkpoint and self.checkpoint in line) or whole


def _of_other(hurt: _Hurt, pattern: str, place: int) -> Path:
    """The same file of a run with another seed; files of arrays have random names, so their place counts."""
    home = hurt.lab.folder / "other" / ("half" if hurt.state == "half" else "done")
    files = sorted(path for path in home.glob(pattern) if path.is_file())
    same = home / hurt.file
    return same if same.is_file() else files[min(place, len(files) - 1)]


def _judged(hurt: _Hurt, done: Done, unchecked: str) -> tuple[str, str]:
    """What was lost, '' if nothing was; and in words how the case ended.

    ``unchecked`` says why nobody could notice the damage, if so.
    """
    if done.stack or done.status < 0:
        return f"ended with {done.status} and a stack of calls: {done.error}", ""
    if done.status:
        if not done.failed_plainly:
            return f"ended with {done.status}, but not in one line: {done.error}", ""
        if not hurt.named_in(done.error):
            return f"the refusal does not name the file: {done.error}", ""
        return "", f"refused: {done.error}"
    try:
        found = contents(hurt.case, hurt.command.results)
    except Exception as error:
        return f"unreadable result: {type(error).__name__}: {error}", ""
    said = next(filter(hurt.named_in, done.err.splitlines()), "")
    differs = difference(found, hurt.lab.truth["train" if hurt.of == "resume" else hurt.of].contents)
    if not differs:
        return "", "right" + (f", and said: {said}" if said else "")
    if unchecked:
        return "", f"{_UNPROMISED}: {unchecked}"
    less = _without(hurt)
    if less is not None and not difference(found, less):
        return ("", f"right without it, and said: {said}") if said else (f"without a word: {differs}", "")
    return f"another result: {differs}" + (f" (said: {said})" if said else ", without a word"), ""


def _without(hurt: _Hurt) -> Contents | None:
    """What the command finds in an undamaged folder without the damaged part; None if there is no such part.

    That is the checkpoint to which ``file`` belongs, or the lines of the log that have changed.
    """
    lab, command, _, state, case, file = hurt
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
