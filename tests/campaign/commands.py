"""The commands of a campaign, as users type them, and processes that run them."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaign.phases import FUNCTIONS, Event

REPOSITORY = Path(__file__).parent.parent.parent
LONGEST = 600  # seconds


class Command(NamedTuple):
    """A command; it runs in the folder of its case."""

    module: str
    arguments: tuple[str, ...]
    start: str  # the state of the folder before it, see ``tests.campaign.lab``
    results: tuple[str, ...]  # files and folders that it makes or changes

    def __str__(self) -> str:
        return f"python -m {self.module} {shlex.join(self.arguments)}"


_FIELDS = {
    "model.depth": "8", "model.widths": "2,2,2", "model.placement": "post", "model.transition": "projection",
    "data.train_examples": "64", "train.batch_size": "16", "train.duration": "240 steps",
    "train.steps_per_dispatch": "4", "optimizer.warmup": "20 steps", "log.every": "20 steps",
    "eval.every": "60 steps", "checkpoint.every": "40 steps", "checkpoint.keep": "3",
}  # fmt: skip


def training(**fields: str) -> tuple[str, ...]:
    """The arguments of a training in ``run``; dots are written as two underscores."""
    own = _FIELDS | {name.replace("__", "."): value for name, value in fields.items()}
    return "--config=digits", "--workdir=run", *(f"--config.{name}={value}" for name, value in own.items())


COMMANDS = {
    "train": Command("resjax.train", training(), "empty", ("run",)),
    "train on two devices": Command("resjax.train", training(parallel__cpu_devices="2"), "empty", ("run",)),
    "resume": Command("resjax.train", training(), "half", ("run",)),
    "analyze": Command(
        "resjax.analyze",
        ("--workdir=run", "--studies=curves,lesion", "--full"),  # sizes that do not depend on the time
        "done",
        ("run/studies", "run/analysis"),
    ),
    "claims": Command(
        "resjax.claims", ("--names=vanishing", "--smoke", "--out=claims"), "empty", ("claims",)
    ),
    "export": Command(
        "resjax.pretrained.export",
        ("--workdir=run", "--out=net.safetensors", "--export=net.jaxexport"),
        "done",
        ("net.safetensors", "net.jaxexport"),
    ),
    "import": Command(
        "resjax.pretrained",
        ("net.safetensors", "--workdir=theirs", "--config.data.name=digits"),
        "source",
        ("theirs",),
    ),
    "cut": Command(
        "resjax.cut", ("--workdir=run", "--out=smaller", "--count=1", "--nolatency"), "done", ("smaller",)
    ),
    "prepare": Command(
        "tests.campaign.small_originals", ("mnist", "--data_dir=data", "--source=source"), "empty", ("data",)
    ),
}
# The same training from another seed: its files replace those of the first.
OTHER = training(seed="1")


class Done(NamedTuple):
    """How a process ended, and what it told of itself."""

    status: int  # negative: the signal that ended it
    out: str
    err: str
    events: list[Event]
    after_signal: float | None = None  # seconds from the signal that was sent to the end

    @property
    def failed_plainly(self) -> bool:
        """Whether it ended with one line that says why, and no stack of calls."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return self.status in (1, 2) and len(errors) == 1 and not self.stack

    @property
    def stack(self) -> bool:
        return "Traceback" in self.err or "Fatal Python error" in self.err

    @property
    def error(self) -> str:
        """The line that says why it failed, or the last one."""
        lines = self.err.strip().splitlines() or ["nothing on stderr"]
        return next((line for line in lines if line.startswith("error: ")), lines[-1])


class Signal(NamedTuple):
    """A signal that is sent while a command runs."""

    number: signal.Signals
    event: str
    occurrence: int  # of the event, from 1
    seconds: float  # after it


class Commands:
    """Starts commands, one at a time, from a process that has the libraries (``tests.campaign.server``)."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.server"],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def close(self) -> None:
        """Ends the process that starts the others."""
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()

    def run(
        self,
        module: str,
        arguments: tuple[str, ...],
        folder: Path,
        *,
        cache: Path,
        send: Signal | None = None,
        kill: Mapping[str, Any] | None = None,
        largest_file: int = 0,
        logs: Path | None = None,
    ) -> Done:
        """Runs one command in ``folder`` until it ends.

        Args:
          cache: the folder of compiled programs.
          send: a signal, from outside.
          kill: as ``tests.campaign.trace.install`` takes it.
          largest_file: bytes, a limit of the operating system; 0 for none.
          logs: the folder of what the command says; by default, ``logs`` in ``folder``.
        """
        logs = logs or folder / "logs"
        logs.mkdir(exist_ok=True)
        number = len(list(logs.glob("*.err")))
        pipe = logs / "events"
        if not pipe.exists():
            os.mkfifo(pipe)
        told = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        request = {
            "module": module,
            "arguments": arguments,
            "out": str(logs / f"{number}.out"),
            "err": str(logs / f"{number}.err"),
            "environment": {"RESJAX_CACHE_DIR": str(cache), "PWD": str(folder)},
            "folder": str(folder),
            "events": {"pipe": str(pipe), "functions": FUNCTIONS},
            "kill": kill,
            "largest_file": largest_file,
        }
        try:
            status, events, after = self._watched(request, told, send)
        finally:
            os.close(told)
        out, err = (Path(request[name]).read_text("utf-8", "replace") for name in ("out", "err"))
        return Done(status, out, err, events, after)

    def _watched(
        self, request: dict, told: int, send: Signal | None
    ) -> tuple[int, list[Event], float | None]:
        server = self._server
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(request) + "\n")
        process = int(server.stdout.readline())
        events, rest = [], ""
        until = time.monotonic() + LONGEST
        when: float | None = None  # the signal is due
        sent: float | None = None
        while True:
            now = time.monotonic()
            if when is not None and now >= when and send is not None:
                os.kill(process, send.number)
                when, send, sent = None, None, now
            if now > until:
                os.kill(process, signal.SIGKILL)
                until += LONGEST
            wait = 0.2 if when is None else max(when - now, 0)
            ready, _, _ = select.select([told, server.stdout], [], [], wait)
            if told in ready:
                rest = self._read(told, rest, events)
                if not ready[1:] and not rest and not events:
                    time.sleep(0.001)  # the process has not opened its end yet
            if send is not None and when is None:
                seen = [e for e in events if e.name == send.event]
                if len(seen) >= send.occurrence:
                    when = seen[send.occurrence - 1].seconds + send.seconds
            if server.stdout in ready:
                status = int(server.stdout.readline())
                self._read(told, rest, events)
                after = None if sent is None else time.monotonic() - sent
                first = events[0].seconds if events else 0.0
                return status, [e._replace(seconds=e.seconds - first) for e in events], after

    @staticmethod
    def _read(told: int, rest: str, events: list[Event]) -> str:
        try:
            *lines, rest = (rest + os.read(told, 2**20).decode()).split("\n")
        except BlockingIOError:
            return rest
        for line in lines:
            seconds, operations, name = line.split(" ", 2)
            events.append(Event(float(seconds), int(operations), name))
        return rest
