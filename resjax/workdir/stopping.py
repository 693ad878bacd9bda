"""Stops: SIGTERM, Ctrl-C and SIGUSR1 end the work in any phase, after saving what has to be saved.

The first signal raises ``Stopped`` in the main thread. Where the work has something to save
(``StopRequest.deferred``), it only sets ``StopRequest.name``, at which the work looks.

Python handles a signal between two of its own instructions, so one that comes during a long call into the
compiler waits for the end of the call. Where signals end the process (``ends_process``, for commands), a
thread therefore ends it if nothing has to be saved and the main thread has not ended it after ``GRACE``
seconds. After a second SIGTERM or Ctrl-C the thread ends it at once.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from resjax.workdir import atomic

T = TypeVar("T")

GRACE = 3.0  # seconds
STATUS = 143  # the exit status after any of the signals: that of a program that SIGTERM ends
NOTHING = "nothing had to be saved; the same command starts again"
# With --signal=USR1@120, Slurm sends it before the time of a job is over, perhaps more than once. It never
# means impatience.
WARNING = getattr(signal, "SIGUSR1", None)  # Windows has none
SIGNALS = tuple(number for number in (signal.SIGTERM, signal.SIGINT, WARNING) if number is not None)


class Stopped(KeyboardInterrupt):
    """A signal stopped the work. The text says what is saved.

    As a KeyboardInterrupt, it passes through code that survives any error, such as an event loop.
    """


class _Mode(enum.Enum):
    STARTING = "no work runs yet, or any more: the process ends at once"
    FREE = "nothing has to be saved"
    DEFERRED = "a stop waits until the work has saved"
    BETWEEN = "deferred, but what runs now is cut off"


class StopRequest:
    """What the signals have asked for; ``stoppable`` makes one.

    Attributes:
      name: the first signal, such as 'SIGTERM'; None before one.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._mode = _Mode.FREE
        self._limited = True
        self._impatient = False
        self._again: int | None = None
        self._line = ""
        self._said = False
        self._previous: dict[int, Any] = {}
        self._watch: tuple[socket.socket, socket.socket, int] | None = None

    @contextlib.contextmanager
    def deferred(
        self,
        done: str = "the work was just finished and is saved; the same command goes on",
        agreed: bool = False,
    ) -> Iterator[None]:
        """A context whose work looks at ``name`` and saves before it ends.

        Args:
          done: the text of ``Stopped`` at the end of the context, after the name of the signal.
          agreed: the work is shared with other processes, which stop in the same step and wait for each
            other. After such a context, no time limits the end of this process.

        Raises:
          Stopped: at the end of the context, after a signal that came too late for the work to look at it.
        """
        self._mode = _Mode.DEFERRED
        try:
            yield
        finally:
            self._limited = self._limited and not agreed
            self._mode = _Mode.FREE
        self.check(f": {done}")

    def interruptible(self, work: Callable[[], T]) -> T | None:
        """Within ``deferred``: the result of ``work()``, or None where a signal cuts it off."""
        try:
            self._mode = _Mode.BETWEEN
            return None if self.name else work()
        except Stopped:
            self._line = ""
            return None
        finally:
            self._mode = _Mode.DEFERRED

    def check(self, saved: str = "") -> None:
        """Raises ``Stopped`` after a signal, even if other code has swallowed the one that it raised.

        Args:
          saved: the text after the signal's name; '' for that of the phase.
        """
        if self.name:
            raise self.stopped(self.name + saved if saved else self._line or _text(self.name))

    def stopped(self, text: str) -> Stopped:
        """The exception with this text, which is also printed if the process has to be ended otherwise."""
        self._line = text
        return Stopped(text)

    def arm(self) -> None:
        """Directs the signals here, perhaps again, because JAX's multi-host service takes SIGTERM."""
        for number in SIGNALS:
            before = signal.signal(number, self._receive)
            self._previous.setdefault(number, before)

    def disarm(self) -> None:
        """Gives the signals back to their former handlers."""
        self._mode = _Mode.DEFERRED  # so that nothing is raised meanwhile
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if self._watch:
            _, writer, before = self._watch
            signal.set_wakeup_fd(before)
            writer.close()  # this ends the thread
            self._watch = None

    def watch(self) -> None:
        """Starts the thread that ends the process where the main thread can't."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._watch = reader, writer, signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._guard, args=(reader,), name="stops", daemon=True).start()

    @property
    def starting(self) -> bool:
        """Whether nothing has begun, so that the first signal ends the process at once."""
        return self._mode is _Mode.STARTING

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """A context whose work is not cut off by the end of the process, but can save and unwind."""
        before = self._mode
        self._mode = _Mode.FREE
        try:
            yield
        finally:
            self._mode = _Mode.FREE if self.name else before

    @property
    def watched(self) -> bool:
        """Whether a thread ends the process."""
        return self._watch is not None

    def leave(self) -> bool:
        """Prints the line of a stop and ends the process; False if there was no stop, True if other processes
        wait for an end with all that libraries do at it."""
        if not self._line:
            return False
        self._said = True
        print(self._line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        if self._limited:
            os._exit(STATUS)  # libraries would wait for threads that compile, and for other processes
        return True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first, again = self.name is None, self._impatient and number != WARNING
        self.name = self.name or signal.Signals(number).name
        self._impatient = self._impatient or number != WARNING
        if again and not self._watch:
            signal.signal(number, self._previous.get(number, signal.SIG_DFL))
            signal.raise_signal(number)
        self._again = number if again else self._again
        if self._watch:  # an event loop may have taken the thread's place in set_wakeup_fd
            with contextlib.suppress(OSError):
                self._watch[1].send(b"\0")
        if first and self._mode is _Mode.STARTING:
            self._end(_text(self.name))
        if first and self._mode is not _Mode.DEFERRED:
            if self._mode is _Mode.BETWEEN:
                self._mode = _Mode.DEFERRED
            raise self.stopped(_text(self.name))

    def _guard(self, reader: socket.socket) -> None:
        """Ends the process where it has to end and the main thread does not end it."""
        with reader:
            self._look(reader)

    def _look(self, reader: socket.socket) -> None:
        name, text, impatience, free_since = "", "", 0, None
        while True:
            if select.select([reader], [], [], 0.1 if name else None)[0]:
                received = reader.recv(64)
                if not received:
                    return
                sent = [signal.Signals(number) for number in received if number in SIGNALS]
                impatience += sum(number != WARNING for number in sent)
                if impatience > 1 or self._again:
                    number = sent[-1] if sent else signal.Signals(self._again or signal.SIGTERM)
                    self._end(f"{number.name} again: ended at once; what was saved before is whole")
                name = name or (sent[0].name if sent else self.name or "")
                text = text or _text(name)
            if name and self._limited and self._mode in (_Mode.STARTING, _Mode.FREE):
                free_since = free_since or time.monotonic()
                if time.monotonic() - free_since > GRACE:
                    self._end(self._line or text)
            else:
                free_since = None

    def _end(self, text: str) -> None:
        # In a thread of its own, because nobody may read what it writes.
        with contextlib.suppress(RuntimeError):  # Python starts no thread at its end
            last = threading.Thread(target=self._last_words, args=(text,), daemon=True)
            last.start()
            last.join(1)
        os._exit(STATUS)

    def _last_words(self, text: str) -> None:
        if not self._said:
            cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
            os.write(2, f"{cursor}{text}\n".encode())
        atomic.discard()
        sys.stdout.flush()


_active: StopRequest | None = None
_phases = [("the command started or ended", NOTHING)]


@contextlib.contextmanager
def phase(what: str, kept: str = NOTHING) -> Iterator[None]:
    """A context that names what is done, for the line of a stop: 'SIGTERM while WHAT: KEPT'."""
    _phases.append((what, kept))
    try:
        yield
    finally:
        _phases.pop()


@contextlib.contextmanager
def stoppable() -> Iterator[StopRequest]:
    """A context in which SIGTERM, SIGINT and SIGUSR1 raise ``Stopped``, or are deferred by the work.

    A second SIGTERM or SIGINT goes to the handler from before the context. Within another such context, or
    ``ends_process``, this is a part of it. Outside of the main thread, signals are left as they are.

    Raises:
      Stopped: a signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
    elif _active is not None:
        _active.arm()
        yield _active
    else:
        with _directed(StopRequest()) as stop:
            yield stop
            stop.check()


def starts_process() -> None:
    """Before a command's imports, which take seconds: a stop ends the process at once, with the same line and
    status as within ``ends_process``, which follows."""
    global _active
    if _active is None:
        _active = StopRequest()
        _active._mode = _Mode.STARTING
        _active.arm()
        _active.watch()


@contextlib.contextmanager
def ends_process(what: str = "the command ran") -> Iterator[None]:
    """A context for a command: a stop prints one line and ends the process with status 143.

    The end comes within five seconds, or when the work has saved; at once after a second SIGTERM or SIGINT.
    ``what`` is the phase of work that names none.
    """
    if _active and not _active.starting:
        with phase(what):
            yield
        return
    stop = _active or StopRequest()
    try:
        with phase(what), contextlib.nullcontext() if _active else _directed(stop):
            if not stop.watched:
                stop.watch()
            with stop.started():
                yield
    except BaseException:  # such as an error of what a stop has cut off
        if not stop.leave():
            raise
        sys.exit(STATUS)


@contextlib.contextmanager
def _directed(stop: StopRequest) -> Iterator[StopRequest]:
    global _active
    _active = stop
    stop.arm()
    try:
        yield stop
    finally:
        if not (stop.watched and stop.name):  # the process is about to end
            _active = None
            stop.disarm()


def _text(name: str) -> str:
    what, kept = _phases[-1]
    return f"{name} while {what}: {kept}"
