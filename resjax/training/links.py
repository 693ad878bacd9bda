"""What the processes of a run tell each other while they train, and how one ends when another is lost.

A process that waits in a sum over devices for one that is gone can wait for minutes or for ever, and nothing
in Python can interrupt it. So a thread watches the connections of ``resjax.training.meeting``, which the
operating system closes when a process ends. It prints one line and ends this process.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import selectors
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax

from resjax.training.meeting import SILENCE, Link
from resjax.workdir.stopping import Stopped

LOST = 75  # EX_TEMPFAIL of sysexits.h: the same command can succeed
FAILED = 1

_GRACE = 3  # seconds for a process to report by itself an error that all have
_TICK = 0.5  # seconds between looks at the clock
_MOMENT = 1  # seconds in which the news of a lost process arrives
# How the errors of a broken sum over devices begin: with the name of a status of absl.
_BROKEN = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|DATA_LOSS): "
)


class Watch:
    """Watches the other processes of a run, from ``start`` to ``leave``.

    Ends this process with status ``LOST`` when another one is gone without a word, and with ``FAILED`` when
    another one reported an error and this one still works after some seconds.

    Args:
      own: number of this process.
      number: number of all processes.
      links: a link to each other process, in process 0; a link to process 0, in each other one.
      remedy: says how the run continues, for instance from which step.
    """

    def __init__(self, own: int, number: int, links: Mapping[int, Link], remedy: Callable[[], str]) -> None:
        self._own = own
        self._number = number
        self._links = dict(links)
        self._remedy = remedy
        self._ended: set[int] = set()
        self._failure: tuple[str, float] | None = None
        self._left = False  # the work of this process has ended, well or not
        self._over = threading.Event()  # nobody needs to be watched any more
        self._stopping = False

    def start(self) -> None:
        """Starts to watch, in a daemon thread."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def leave(self, error: BaseException | None) -> None:
        """Says that the work here has ended. After success, waits until it has ended everywhere.

        After an ``error``, it waits a moment: the error may only be how the loss of another process shows.
        """
        if error is None or isinstance(error, Stopped):
            self._end_own(None)
            self._wait(None)
            return
        broken = isinstance(error, jax.errors.JaxRuntimeError) or bool(_BROKEN.match(str(error)))
        self._left = not broken
        self._wait(SILENCE + 2 * _GRACE if broken else _MOMENT)
        self._end_own(" ".join(f"{type(error).__name__}: {error}".split())[:500])
        self._over.set()

    def _wait(self, seconds: float | None) -> None:
        """Waits until all is over, or for ``seconds``; for ever while the watch ends this process."""
        self._over.wait(seconds)
        if self._stopping:
            threading.Event().wait()

    def _end_own(self, failure: str | None) -> None:
        self._left = True
        if self._own > 0:
            self._links[0].send({"ended": self._own, "failure": failure})
        else:
            self._end(0, failure)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number, link in self._links.items():
                selector.register(link, selectors.EVENT_READ, number)
                self._take_all(number, link.taken())
            while not self._over.is_set():
                for key, _ in selector.select(_TICK):
                    messages = self._links[key.data].take()
                    if messages is None:
                        selector.unregister(key.fileobj)
                        self._closed(key.data)
                    else:
                        self._take_all(key.data, messages)
                if self._failure and not self._left and time.monotonic() > self._failure[1]:
                    self._stop(self._failure[0], FAILED)

    def _take_all(self, sender: int, messages: list[Any]) -> None:
        for message in messages:
            if "lost" in message:
                self._lose(message["lost"], message["host"])
            elif "over" in message:
                self._over.set()
            else:
                self._end(message["ended"], message["failure"])

    def _end(self, number: int, failure: str | None) -> None:
        """Notes that process ``number`` has ended; process 0 tells the others what they need."""
        self._ended.add(number)
        if failure is not None:
            if number != self._own and self._failure is None:
                text = f"process {number} of {self._number} ended with an error: {failure}"
                self._failure = (text, time.monotonic() + _GRACE)
            self._tell({"ended": number, "failure": failure}, but=number)
        if self._own == 0 and len(self._ended) == self._number:
            self._tell({"over": True})
            self._over.set()

    def _closed(self, number: int) -> None:
        if number not in self._ended:
            self._lose(number, self._links[number].host)
        elif self._own > 0 and self._left:
            self._over.set()

    def _lose(self, number: int, host: str) -> NoReturn:
        self._tell({"lost": number, "host": host})
        self._stop(f"process {number} of {self._number} on {host} was lost. {self._remedy()}", LOST)

    def _tell(self, message: Any, but: int | None = None) -> None:
        if self._own == 0:
            for number, link in self._links.items():
                if number != but:
                    link.send(message)

    def _stop(self, text: str, status: int) -> NoReturn:
        self._stopping = True
        if sys.stderr.isatty():
            text = f"\x1b[?25h\r{text}"  # a progress bar hides the cursor
        print(f"error: {text}", file=sys.stderr, flush=True)
        for child in multiprocessing.active_children():
            child.terminate()
        if status == FAILED:
            self._end_own(text)
            # The process with the error waits for this before it ends.
            leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            leaving.start()
            leaving.join(10)
        os._exit(status)
