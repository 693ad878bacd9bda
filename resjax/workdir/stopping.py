"""Graceful shutdown on SIGTERM, SIGUSR1 or Ctrl-C; a second SIGTERM or Ctrl-C stops the process at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(Exception):
    """A signal stopped the work; its results so far are saved."""


# With --signal=USR1@120, Slurm sends it before the time of a job is over, perhaps more than once. It never
# means impatience.
WARNING = getattr(signal, "SIGUSR1", None)  # Windows has none


class StopRequest:
    """A context in which the first SIGTERM or SIGINT, and each SIGUSR1, only sets ``name``, which the work
    checks.

    A signal that arrives during a long call into the compiler is handled when that call returns.

    Raises:
      Stopped: at the end of the context, after a signal that came too late for the work to check.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in filter(None, (signal.SIGTERM, signal.SIGINT, WARNING)):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.name and kind is None:
            raise Stopped(f"{self.name}: the work was just finished and is saved; the same command goes on")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number != WARNING:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked = self._asked or number != WARNING
        self.name = self.name or signal.Signals(number).name
