"""Kills a command in a phase, starts it again until it is done, and compares what it found with the truth."""

from __future__ import annotations

import random
import signal
from typing import Any

from tests.campaign.again import compared, finish
from tests.campaign.commands import COMMANDS, Done, Signal
from tests.campaign.lab import Lab
from tests.campaign.outcome import Outcome
from tests.campaign.phases import PHASES, Phase, Span, inside, spans

# A command that is stopped with SIGTERM ends so; before it can take the signal, the signal ends it.
STOPPED = (143, -signal.SIGTERM)


def command_of_kill(number: int) -> str:
    """The command of case ``number``."""
    return list(PHASES.values())[number % len(PHASES)].command


def try_kill(lab: Lab, seed: int, number: int, number_of: signal.Signals = signal.SIGKILL) -> Outcome:
    """Case ``number`` of ``seed``: one phase is interrupted by a signal, sometimes the next start, too."""
    stops = number_of == signal.SIGTERM
    name = f"{'stop' if stops else 'kill'}-{number}"
    draw = random.Random(f"{seed} {name}")
    label = list(PHASES)[number % len(PHASES)]
    phase = PHASES[label]
    command, truth = COMMANDS[phase.command], lab.truth[phase.command]
    span = draw.choice(spans(phase, truth.events if phase.cached else truth.cold))
    case, cache = lab.begin(name, command.start, cached=phase.cached)
    how, said = _interruption(draw, phase, span, number_of)
    done = lab.run(command, case, cache, **how)
    hit = done.status < 0 or done.status in STOPPED
    reached = hit and inside(phase, span.occurrence, done.events)
    facts: dict[str, Any] = {
        "phase": label,
        "how": said,
        "hit": hit,
        "in_phase": reached,
        "status": done.status,
    }
    if stops:
        facts["seconds_to_end"] = done.after_signal
    lost = _wrong_end(done, number_of)
    starts = 1
    if not lost and draw.random() < 0.25:
        again = Signal(signal.SIGKILL, ">process", 1, draw.random() * truth.seconds)
        lab.run(command, case, cache, send=again)
        facts["killed_again"], starts = True, 2
    if not lost:
        lost, more = finish(lab, command, case, cache)
        starts += more
    if not lost:
        lost = compared(command, truth, case, stopped=stops)
    facts["starts"] = starts
    lab.end(name, keep=bool(lost))
    return Outcome(name, label, not lost, lost or said, facts)


def _interruption(
    draw: random.Random, phase: Phase, span: Span, number: signal.Signals
) -> tuple[dict[str, Any], str]:
    """How a process is interrupted within ``span``, and the same in words."""
    event, occurrence = phase.begin, span.occurrence
    if number == signal.SIGKILL and span.operations and draw.random() < 0.5:
        operation = draw.randrange(span.operations)
        kill = {"event": event, "occurrence": occurrence, "operation": operation}
        where = f"before operation {operation + 1} of {span.operations} on files"
        return {"kill": kill}, f"SIGKILL {where}, {phase.command}, time {occurrence}"
    seconds = draw.random() * span.seconds
    how = Signal(number, event, occurrence, seconds)
    when = f"{1000 * seconds:.1f} of {1000 * span.seconds:.1f} ms"
    return {"send": how}, f"{number.name} after {when}, {phase.command}, time {occurrence}"


def _wrong_end(done: Done, number: signal.Signals) -> str:
    """What is wrong with the end of an interrupted process; '' if nothing is."""
    if number == signal.SIGKILL:
        return "" if done.status in (-signal.SIGKILL, 0) else f"ended with {done.status}: {done.error}"
    if done.stack:
        return f"a stack of calls after {number.name}: {done.error}"
    return "" if done.status in (*STOPPED, 0) else f"ended with {done.status}: {done.error}"
