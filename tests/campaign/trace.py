"""What a command is doing, told by itself: the phases' functions report when they begin and end.

An event is ``>module:function`` or ``<module:function``. It is written, with the number of file operations
before it, to a pipe that the campaign reads. A process can also kill itself right before its n-th operation
on a file in a phase: that finds states between two operations, which a clock would hardly meet.
"""

import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

# Audit events of Python that change files; `open` counts when it may write.
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND


class _Told:
    """The events of this process so far."""

    def __init__(self, pipe: int, kill: dict[str, Any] | None) -> None:
        self.pipe, self.kill = pipe, kill
        self.operations = 0
        self.seen = 0  # of the event after which the process kills itself
        self.last: int | None = None  # number of the operation at which it does so

    def event(self, name: str) -> None:
        os.write(self.pipe, f"{time.monotonic()} {self.operations} {name}\n".encode())
        if self.kill and name == self.kill["event"]:
            self.seen += 1
            if self.seen == self.kill["occurrence"]:
                self.last = self.operations + self.kill["operation"]

    def audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        changes = name in _CHANGES or (name == "open" and bool((arguments[2] or 0) & _WRITES))
        if changes and self.last is not None and self.operations >= self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.operations += changes


def install(events: dict[str, Any], kill: dict[str, Any] | None) -> None:
    """Makes the functions ``events["functions"]`` of this process report to the pipe ``events["pipe"]``.

    Args:
      kill: {event, occurrence, operation}: the process kills itself before the first operation on a file
        after ``operation`` of them since that occurrence (from 1) of the event. None: it does not.
    """
    told = _Told(os.open(events["pipe"], os.O_WRONLY), kill)
    for name in events["functions"]:
        owner, attribute = located(name)
        setattr(owner, attribute, _telling(getattr(owner, attribute), name, told))
    sys.addaudithook(told.audit)
    told.event(">process")


def located(name: str) -> tuple[Any, str]:
    """``module:Class.method`` → the class and ``method``; ``module:function`` → the module and ``function``.

    Raises:
      ValueError: there is no such function.
    """
    module, _, path = name.partition(":")
    *above, attribute = path.split(".")
    try:
        owner = functools.reduce(getattr, above, importlib.import_module(module))
        getattr(owner, attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {name}; mend the table PHASES in tests/campaign/phases.py") from error
    return owner, attribute


def _telling(function: Callable[..., Any], name: str, told: _Told) -> Callable[..., Any]:
    @functools.wraps(function)
    def telling(*arguments: Any, **named: Any) -> Any:
        told.event(f">{name}")
        try:
            return function(*arguments, **named)
        finally:
            told.event(f"<{name}")

    return telling
