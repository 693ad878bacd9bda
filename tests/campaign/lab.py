"""The folder of a campaign: undisturbed runs, the states from which cases start, and the cases."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaign.commands import COMMANDS, OTHER, REPOSITORY, Command, Commands, Done, training
from tests.campaign.contents import Contents, contents, difference
from tests.campaign.phases import PHASES, Event

_SAVE = PHASES["save"].begin


class Undisturbed(NamedTuple):
    """What a command does when nothing disturbs it."""

    folder: Path  # as it left it
    contents: Contents  # of the command's result
    events: list[Event]
    cold: list[Event]  # without programs compiled before

    @property
    def seconds(self) -> float:
        return self.events[-1].seconds


class Lab:
    """Makes, once, all that the cases of a campaign need.

    Attributes:
      truth: {command: its undisturbed run}.
    """

    def __init__(self, folder: Path, commands: Commands, needed: set[str], others: bool) -> None:
        """Runs the commands ``needed``, and those before them, unless ``folder`` has them of the same code;
        with ``others``, also a run with another seed, whose files replace those of the first.

        Raises:
          RuntimeError: a command fails undisturbed, or two runs of it differ.
        """
        self.folder, self.commands = folder, commands
        self.truth: dict[str, Undisturbed] = {}
        code, of = _code(), folder / "code.txt"
        if not of.is_file() or of.read_text() != code:
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("empty", "cache", "none"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        of.write_text(code)
        for name in COMMANDS:
            if name in {"train", "export"} | needed:
                self._state(COMMANDS[name].start)
                self.truth[name] = self._undisturbed(name)
                if name == "train":
                    self._state("done")
        if others:
            self._state("half")
            self._others()

    def begin(self, name: str, state: str, *, cached: bool = True) -> tuple[Path, Path]:
        """A new folder of a case, a copy of ``state``, and its folder of compiled programs."""
        case = self.folder / "cases" / name
        shutil.rmtree(case, ignore_errors=True)
        cache = self.folder / "caches" / name
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(self.folder / state, case)
        shutil.copytree(self.folder / ("cache" if cached else "none"), cache)
        return case, cache

    def end(self, name: str, *, keep: bool) -> None:
        """Removes what ``begin`` made, except for a case to look at."""
        shutil.rmtree(self.folder / "caches" / name, ignore_errors=True)
        if not keep:
            shutil.rmtree(self.folder / "cases" / name, ignore_errors=True)

    def run(self, command: Command, case: Path, cache: Path, **how: Any) -> Done:
        """Runs a command in a case; ``how`` is as in ``Commands.run``."""
        return self.commands.run(command.module, command.arguments, case, cache=cache, **how)

    def _undisturbed(self, name: str) -> Undisturbed:
        folder, command = self.folder / "undisturbed" / name, COMMANDS[name]
        told = folder.with_suffix(".json")
        if not told.is_file():
            print(f"undisturbed: {command}", flush=True)
            found = []
            for _ in range(2):  # the second one has the compiled programs of the first
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(self.folder / command.start, folder)
                done = self.run(command, folder, self.folder / "cache")
                if done.status or done.stack:
                    raise RuntimeError(f"{command} ended with {done.status}, undisturbed:\n{done.err}")
                shutil.rmtree(folder / "logs")
                found.append((contents(folder, command.results), done.events))
            if said := difference(found[1][0], found[0][0]):
                raise RuntimeError(f"two undisturbed runs of {command} differ in {said}")
            told.write_text(json.dumps([found[1][1], found[0][1]]))
        warm, cold = ([Event(*event) for event in events] for events in json.loads(told.read_text()))
        return Undisturbed(folder, contents(folder, command.results), warm, cold)

    def _state(self, name: str) -> None:
        if (self.folder / name).is_dir():
            return
        if name == "done":
            shutil.copytree(self.folder / "undisturbed/train", self.folder / name)
        elif name == "half":
            self._half("half", training())
        elif name == "source":
            (self.folder / name).mkdir()
            shutil.copy(self.folder / "undisturbed/export/net.safetensors", self.folder / name)

    def _others(self) -> None:
        """The same training from another seed, half and whole, with its exported network and its studies."""
        folder = self.folder / "other/done"
        if folder.is_dir():
            return
        self._half("other/half", OTHER)
        folder.mkdir(parents=True)
        export, analyze = COMMANDS["export"], COMMANDS["analyze"]
        others = (("resjax.train", OTHER), export[:2], analyze[:2])
        for module, arguments in others:
            done = self.commands.run(module, arguments, folder, cache=self.folder / "cache")
            if done.status:
                raise RuntimeError(f"{module} ended with {done.status}:\n{done.err}")
        shutil.rmtree(folder / "logs")

    def _half(self, name: str, arguments: tuple[str, ...]) -> None:
        """A training that was killed in its fourth save, so its log is longer than its newest checkpoint."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        kill = {"event": _SAVE, "occurrence": 4, "operation": 0}
        done = self.commands.run("resjax.train", arguments, folder, cache=self.folder / "cache", kill=kill)
        if done.status != -9:
            raise RuntimeError(f"the training ended with {done.status} instead of being killed:\n{done.err}")
        shutil.rmtree(folder / "logs")


def _code() -> str:
    """Changes with the code that undisturbed runs depend on."""
    paths = [*sorted((REPOSITORY / "resjax").rglob("*.py")), Path(__file__).with_name("commands.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
