"""The phases in which a command is killed. One line adds one.

A phase begins with an event of ``tests.campaign.trace`` and ends with the next occurrence of another. It may
occur several times in a command. When, and how often, is learned from the undisturbed run.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Phase(NamedTuple):
    """A part of a command."""

    command: str  # a name in ``tests.campaign.commands.COMMANDS``
    begin: str  # an event
    end: str  # the event that ends it
    cached: bool = True  # whether programs compiled before are at hand


def _during(command: str, function: str, cached: bool = True) -> Phase:
    return Phase(command, f">{function}", f"<{function}", cached)


_LOOP = "resjax.training.loop"
_SAVE = "resjax.training.checkpoint:Checkpoints.save"
_WRITE = "resjax.workdir.writers:Writer.write"

PHASES = {
    "start": Phase("train", ">process", f">{_LOOP}:run"),
    "compilation": _during("train", f"{_LOOP}:prepare", cached=False),
    "steps": Phase("train", f"<{_LOOP}:prepare", f"<{_LOOP}:run"),
    "evaluation": Phase("train", ">resjax.training.feed:Evaluation.__call__", f">{_WRITE}"),
    "log": _during("train", _WRITE),
    "save": _during("train", _SAVE),
    "checksums": Phase("train", ">resjax.training.manifest:write", f"<{_SAVE}"),
    "save on two devices": _during("train on two devices", _SAVE),
    "resume": Phase("resume", ">process", f"<{_LOOP}:prepare"),
    "set aside": _during("resume", "resjax.workdir.writers:set_aside"),
    "analysis": _during("analyze", "resjax.report.compute:run_studies"),
    "keep a result": _during("analyze", "resjax.report.kept:save"),
    "report": _during("analyze", "resjax.report.write:write"),
    "claims": _during("claims", "resjax.report.compute:run_claims"),
    "claims' report": _during("claims", "resjax.report.write:write"),
    "import": _during("import", "resjax.pretrained.workdirs:make_workdir"),
    "imported error": _during("import", "resjax.training.loaded:evaluate"),
    "export": Phase("export", ">resjax.studies.run:load_run", "<safetensors.numpy:save_file"),
    "prepare data": _during("prepare", "resjax.data.prepare:prepare"),
    "choice": _during("cut", "resjax.studies.cutting.choose:order"),
    "cut": _during("cut", "resjax.cut.workdirs:make_workdir"),
    "cut error": _during("cut", "resjax.training.loaded:evaluate"),
}

# Every function that reports.
FUNCTIONS = sorted({e[1:] for p in PHASES.values() for e in (p.begin, p.end)} - {"process"})


class Event(NamedTuple):
    """What a process told of itself."""

    seconds: float  # since its first event
    operations: int  # on files, before it
    name: str


class Span(NamedTuple):
    """One occurrence of a phase in an undisturbed run."""

    occurrence: int  # of its first event, from 1
    seconds: float
    operations: int  # on files


def spans(phase: Phase, events: Sequence[Event]) -> list[Span]:
    """The occurrences of ``phase`` in the events of one process."""
    found: list[Span] = []
    begun, occurrence = None, 0
    for event in events:
        if begun is not None and event.name == phase.end:
            found.append(Span(occurrence, event.seconds - begun.seconds, event.operations - begun.operations))
            begun = None
        if event.name == phase.begin:
            begun, occurrence = event, occurrence + 1
    return found


def inside(phase: Phase, occurrence: int, events: Sequence[Event]) -> bool:
    """Whether a process with these events was in that occurrence of ``phase`` when it ended."""
    names = [event.name for event in events]
    if names.count(phase.begin) < occurrence:
        return False
    begins = [place for place, name in enumerate(names) if name == phase.begin]
    return phase.end not in names[begins[occurrence - 1] + 1 :]
