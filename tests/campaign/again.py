"""Starts a command again until it is done, and compares what it made with the truth."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from tests.campaign.commands import COMMANDS, Command
from tests.campaign.contents import after_a_stop, contents, difference, same_checkpoints
from tests.campaign.lab import Lab, Undisturbed

_STARTS = 4  # after which it must be done
_ONCE = (COMMANDS["import"], COMMANDS["cut"])  # commands that never write into a run


def finish(lab: Lab, command: Command, case: Path, cache: Path, **how: Any) -> tuple[str, int]:
    """Starts ``command`` until it is done, and follows the remedy that it names; returns what is wrong, or
    '', and the number of starts. ``how`` is as in ``Commands.run``."""
    for starts in range(1, _STARTS + 1):
        done = lab.run(command, case, cache, **how)
        if done.stack:
            return f"a stack of calls: {done.error}", starts
        if done.status == 0:
            return "", starts
        if not done.failed_plainly:
            return f"ended with {done.status}: {done.error}", starts
        remedy = re.search(r"rm -r (\S+?),? ", done.error)
        if remedy and Path(remedy[1]).is_relative_to(case):
            shutil.rmtree(remedy[1])
        elif command in _ONCE and "holds a run" in done.error:
            return "", starts  # it was whole; what it holds is compared
        else:
            return f"refused: {done.error}", starts
    return f"not done after {_STARTS} starts", _STARTS


def compared(command: Command, undisturbed: Undisturbed, case: Path, *, stopped: bool = False) -> str:
    """How the results in ``case`` differ from the truth; '' if they do not. ``stopped``: by SIGTERM."""
    truth = dict(undisturbed.contents)
    try:
        found = contents(case, command.results)
    except Exception as error:
        return f"unreadable result: {type(error).__name__}: {error}"
    if command in _ONCE:  # the network was whole before its error and its cost were measured
        for name in (f"{command.results[0]}/{file}" for file in ("metrics.jsonl", "costs.json")):
            if name not in found:
                truth.pop(name, None)
    if stopped and (log := "run/metrics.jsonl") in found:
        found[log] = after_a_stop(found[log], truth[log])
        same_checkpoints(found, truth)
    return difference(found, truth)
