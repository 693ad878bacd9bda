"""The server of the page: one process, one person, on this machine.

It answers with the page and with numbers; no part of a request reaches the disk. Whoever asks needs the token
of the address, and a browser that shows another page is refused, so that no other page can use it.

Networks are measured one at a time, because two programs that share the cores of a CPU must not run at once.
Of several questions that wait, the newest is answered; the page has no use for the others.
"""

from __future__ import annotations

import asyncio
import errno
import json
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from resjax.play.as_python import as_python
from resjax.play.live import Live, Stopped
from resjax.play.state import State, Wrong, read

MOST_BYTES = 100_000  # of a request; a state of 1,000 units has about 15,000
_TRIES = 100  # ports


class Replaced(Exception):
    """A newer question has come before this one was begun."""


class Newest:
    """Runs one function at a time; of those that wait, only the newest."""

    def __init__(self) -> None:
        self._running, self._counting, self._last = threading.Lock(), threading.Lock(), 0

    def run(self, function: Callable[[], Any]) -> Any:
        """``function()``.

        Raises:
          Replaced: another call came while this one waited.
        """
        with self._counting:
            self._last += 1
            own = self._last
        with self._running:
            if own != self._last:
                raise Replaced
            return function()


def app(lives: Sequence[Live], token: str) -> Starlette:
    """The application for one network, or for two of the same structure.

    Args:
      lives: the networks, which all get the same state.
      token: what a request must name, in the address of the page or in the header ``X-Token``.
    """
    newest = Newest()
    described = [live.described() for live in lives]
    page = _page(described, token)

    def state_of(given: Mapping[str, Any]) -> State:
        for live in lives:
            state = read(given.get("state"), live.network, live.subject.deletable, live.has_statistics)
        return state

    def of_each(answer: Callable[[Live, State], Any]) -> Callable[[Mapping[str, Any]], Any]:
        def answers(given: Mapping[str, Any]) -> list[Any]:
            state = state_of(given)
            return [answer(live, state) for live in lives]

        return answers

    questions: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "measure": of_each(lambda live, state: live.measure(state)),
        "gradient": of_each(_gradient),
        "python": of_each(as_python),
        "greedy": lambda given: lives[0].greedy_order,
    }

    async def show(request: Request) -> Response:
        if reason := _refused(request, request.query_params.get("token", ""), token):
            return PlainTextResponse(reason, 403)
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
        return HTMLResponse(page, headers=headers)

    async def ask(request: Request) -> Response:
        if reason := _refused(request, request.headers.get("x-token", ""), token):
            return JSONResponse({"wrong": reason}, 403)
        answer = questions.get(request.path_params["question"])
        if answer is None:
            return JSONResponse({"wrong": f"questions are {', '.join(questions)}"}, 404)
        try:
            given = await _body(request)
            found = await run_in_threadpool(newest.run, lambda: answer(given))
        except Replaced:
            return JSONResponse({"replaced": True})
        except (Stopped, asyncio.CancelledError):  # cancelled: what can't be stopped, such as a compilation
            return JSONResponse({"wrong": "the command has ended"}, 503)
        except Wrong as error:
            return JSONResponse({"wrong": str(error)}, 400)
        except Exception as error:  # the server goes on, and the page tells
            traceback.print_exc(file=sys.stderr)
            return JSONResponse({"wrong": f"{type(error).__name__}: {error}"}, 500)
        return JSONResponse({"found": found})

    own = Starlette(routes=[Route("/", show), Route("/ask/{question}", ask, methods=["POST"])])
    own.state.lives = lives
    return own


def _gradient(live: Live, state: State) -> dict[str, Any]:
    """The gradient of one network by path length, or why it has none: the other network may have it."""
    try:
        return live.gradient(state)
    except Wrong as error:
        return {"wrong": str(error)}


def _refused(request: Request, given: str, token: str) -> str:
    """Why a request is refused, or ''."""
    if not secrets.compare_digest(given.encode(), token.encode()):
        return "this address needs the token that the command has printed"
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        return f"pages of {origin} may not use this server"
    return ""


async def _body(request: Request) -> Mapping[str, Any]:
    """The request's JSON object.

    Raises:
      Wrong: it is too large, or no such object.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Wrong(f"a request may have {MOST_BYTES:,} bytes")
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Wrong(f"no JSON: {error}") from error
    if not isinstance(given, dict):
        raise Wrong("a request is a JSON object")
    return given


def _page(described: Sequence[Mapping[str, Any]], token: str) -> str:
    """The page as one file."""
    html, css, *scripts = (
        resources.files("resjax.play").joinpath(name).read_text("utf-8")
        for name in ("page.html", "page.css", "draw.js", "page.js")
    )
    # No label or name can end the script, or begin a comment in it.
    given = json.dumps({"runs": described, "token": token}, allow_nan=False).replace("<", "\\u003c")
    script = "\n".join([f"const GIVEN = {given};", *scripts])
    return html.replace("/*css*/", css).replace("/*js*/", script)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at ``port`` or the next free one.

    Raises:
      OSError: none of a hundred ports is free, the host is not one of this machine, or the port is reserved.
    """
    for number in range(port, min(port + _TRIES, 65_536)):
        own = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((host, number))
            own.listen()  # else another process could bind this port, too, until one of them listens
        except OSError as error:
            own.close()
            if error.errno == errno.EADDRINUSE:
                continue
            raise OSError(
                f"the page can't be at --host={host} --port={number}: {error.strerror or error}; name an "
                "address of this machine, such as --host=127.0.0.1, and a port from 1024 on"
            ) from error
        return own
    raise OSError(f"no port from {port} to {port + _TRIES - 1} is free; name another one: --port=N")


class Server(uvicorn.Server):
    """Ends the measurement that runs, too; its thread would keep the process."""

    def __init__(self, application: Starlette) -> None:
        super().__init__(
            # Errors of answers are printed by the application.
            uvicorn.Config(application, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
        )
        self._lives: Sequence[Live] = application.state.lives

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        for live in self._lives:
            live.stop()
        super().handle_exit(sig, frame)


def serve(application: Starlette, own: socket.socket) -> None:
    """Answers until a signal ends the process."""
    Server(application).run(sockets=[own])
