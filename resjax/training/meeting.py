"""How the processes of a run meet before JAX starts: each one connects to process 0 and says what it runs.

Process 0 listens at the coordinator's address. It waits for all others, compares what they run with what it
runs itself, and answers. So it can name the process that is missing or different. The connections stay open
afterwards (``resjax.training.links``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

SILENCE = 20  # seconds after which a host that no longer answers counts as lost
_PATIENCE = 10  # seconds before a process says for whom it waits
_LONGEST = 1 << 20  # bytes of a message


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process among those of a run: ``own`` of ``number``, with process 0 at ``address``."""

    address: str
    number: int
    own: int
    devices: tuple[int, ...] | None = None

    @property
    def host(self) -> str:
        """The host of process 0."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port at which process 0 listens."""
        return int(self.address.rpartition(":")[2])


class Link:
    """A connection to another process, which sends and takes JSON objects, one a line."""

    def __init__(self, connection: socket.socket, host: str = "") -> None:
        self.host = host
        self._socket = connection
        self._rest = b""
        self._taken: list[Any] = []
        self._sending = threading.Lock()
        _notice_silence(connection)
        if hasattr(os, "register_at_fork"):
            # A copy in a forked child would hold the connection open after this process is gone.
            os.register_at_fork(after_in_child=connection.close)

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Sends ``message``; does nothing if the other process is gone, which ``take`` notices."""
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def take(self) -> list[Any] | None:
        """Waits for bytes and returns the messages that they complete; None once the other process is gone.

        Raises:
          ValueError: what arrives is no message.
        """
        try:
            data = self._socket.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise ValueError("the message is too long")
        return [json.loads(line) for line in lines]

    def wait(self, seconds: float | None) -> Any:
        """The next message; None if the other process is gone or silent for ``seconds``."""
        self._socket.settimeout(seconds)
        try:
            while not self._taken:
                if (messages := self.take()) is None:
                    return None
                self._taken += messages
            return self._taken.pop(0)
        finally:
            self._socket.settimeout(None)

    def taken(self) -> list[Any]:
        """Messages that came with one for which ``wait`` waited."""
        messages, self._taken = self._taken, []
        return messages

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


def _notice_silence(connection: socket.socket) -> None:
    """Makes the operating system close a connection whose other host has not answered for ``SILENCE``."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    rare = {"TCP_KEEPIDLE": SILENCE // 4, "TCP_KEEPALIVE": SILENCE // 4, "TCP_KEEPINTVL": SILENCE // 4,
            "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": SILENCE * 1000}  # fmt: skip
    for name, value in rare.items():
        if hasattr(socket, name):  # each system has only some of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Waiting:
    """A wait for other processes, of which the user is told once if it takes long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start = time.monotonic()
        self._told = False

    @property
    def _waited(self) -> float:
        return time.monotonic() - self._start

    @property
    def over(self) -> bool:
        """Whether it has taken all its seconds."""
        return self._waited > self._seconds

    def tell(self, who: str) -> None:
        """Prints who waits for whom."""
        if self._waited > _PATIENCE and not self._told:
            self._told = True
            print(f"{who}, up to {self._seconds:.0f} s", file=sys.stderr, flush=True)


def meet(place: Place, says: Mapping[str, str], seconds: float) -> tuple[dict[int, Link], int]:
    """Links to the other processes ({0: link} for all but process 0), and a free port of process 0 for JAX.

    Args:
      place: that of this process.
      says: what must be equal in all processes, by name.
      seconds: how long to wait for a process that has not started.

    Raises:
      ValueError: a process is missing after ``seconds`` or was started differently, two have the same number,
        or the port is in use; process 0 and those that have met it all raise it.
    """
    hello = {"resjax": place.own, "number": place.number, "host": socket.gethostname(), "says": dict(says)}
    return _receive(place, hello, seconds) if place.own == 0 else _call(place, hello, seconds)


def _receive(place: Place, hello: dict[str, Any], seconds: float) -> tuple[dict[int, Link], int]:
    met: dict[int, Link] = {}
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        listener = socket.create_server(("", place.port), family=family, dualstack_ipv6=dual, backlog=1024)
    except OSError as error:
        raise ValueError(
            f"process 0 can't listen at port {place.port} of {place.address}: {error.strerror}. If another "
            "run uses it, give all processes another port"
        ) from error
    try:
        with listener:
            _gather(place, hello, seconds, listener, met)
    except ValueError as refusal:
        for link in met.values():
            link.send({"refused": str(refusal)})
            link.close()
        raise
    port = _free_port()
    for link in met.values():
        link.send({"port": port, "host": hello["host"]})
    return met, port


def _gather(
    place: Place, hello: dict[str, Any], seconds: float, listener: socket.socket, met: dict[int, Link]
) -> None:
    """Fills ``met`` with links to all other processes."""
    waiting = _Waiting(seconds)
    listener.settimeout(0.5)
    while True:
        for number in _gone(met):
            met.pop(number).close()
        if len(met) == place.number - 1:
            return
        missing = [number for number in range(1, place.number) if number not in met]
        if waiting.over:
            raise ValueError(
                f"{_listed(missing)} of {place.number} did not start within {seconds:.0f} s of process 0, "
                f"which waits at {place.address}. Start all processes within that time of each other"
            )
        waiting.tell(f"process 0 waits at {place.address} for {_listed(missing)}")
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        _admit(Link(connection), place, hello, met)


def _admit(link: Link, place: Place, hello: dict[str, Any], met: dict[int, Link]) -> None:
    try:
        theirs = link.wait(5)
        number, link.host = int(theirs["resjax"]), str(theirs["host"])
        refusal = _difference(theirs, hello)
    except (ValueError, TypeError, KeyError, AttributeError):  # no process of ours
        link.close()
        return
    if not refusal and (number in met or number == 0):
        other = met[number].host if number in met else hello["host"]
        refusal = (
            f"process {number} was started twice, on {other} and on {link.host}. Each "
            "process has a number of its own"
        )
    if refusal:
        link.send({"refused": refusal})
        link.close()
        raise ValueError(refusal)
    met[number] = link


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """How another process was started differently from process 0; '' if it was not."""
    here = {"the number of processes": ours["number"], **ours["says"]}
    there = {"the number of processes": theirs["number"], **theirs["says"]}
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if not names:
        return ""
    number, host = theirs["resjax"], theirs["host"]
    said = "; ".join(
        f"{name} is {here.get(name)} in process 0 and {there.get(name)} in process {number}"
        for name in names[:3]
    )
    more = f"; {len(names) - 3} more differ" if len(names) > 3 else ""
    return (
        f"process {number} on {host} was started differently: {said}{more}. Start all processes with the "
        "same command, code and versions"
    )


def _call(place: Place, hello: dict[str, Any], seconds: float) -> tuple[dict[int, Link], int]:
    waiting = _Waiting(seconds)
    while True:
        try:
            link = Link(socket.create_connection((place.host, place.port), timeout=5))
            link.send(hello)
            # Process 0 waits no longer than that for others, counted from its own start.
            if (answer := link.wait(seconds + 10)) is not None:
                break
            link.close()
            why = "it closed the connection"  # perhaps it is started again
        except OSError as error:
            why = error.strerror or str(error)
        except ValueError:
            answer = None
            break
        if waiting.over:
            raise ValueError(
                f"process {place.own} did not reach process 0 at {place.address} within {seconds:.0f} s: "
                f"{why}. Start all processes within that time of each other, with the same address"
            )
        waiting.tell(f"process {place.own} waits for process 0 at {place.address}")
        time.sleep(0.5)
    if isinstance(answer, dict) and "refused" in answer:
        link.close()
        raise ValueError(answer["refused"])
    if not isinstance(answer, dict) or not {"port", "host"} <= set(answer):
        link.close()
        raise ValueError(
            f"what answers at {place.address} is not process 0 of this run; give all processes another port"
        )
    link.host = answer["host"]
    return {0: link}, int(answer["port"])


def _gone(met: Mapping[int, Link]) -> list[int]:
    """Processes that have ended while they waited for others: nothing else comes from them."""
    if not met:
        return []
    with selectors.DefaultSelector() as selector:
        for number, link in met.items():
            selector.register(link, selectors.EVENT_READ, number)
        return [key.data for key, _ in selector.select(0)]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
    return f"process{'es' if len(numbers) > 1 else ''} {shown}"
