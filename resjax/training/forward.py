"""A port of this host that forwards to one of another host.

JAX's coordination client ends its process, with C++ output or without a word, as soon as its connection to
process 0 closes. Through this port the connection stays open, so that ``resjax.training.links`` can say first
what happened.
"""

from __future__ import annotations

import socket
import threading


def forward(host: str, port: int) -> int:
    """Forwards connections to a new port of this host to ``port`` of ``host``; returns the new port.

    Works in daemon threads for the rest of the process. Where the other host closes a connection, the end on
    this host stays open.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_connect, args=(near, host, port), daemon=True).start()

    threading.Thread(target=accept, name="forward", daemon=True).start()
    return int(listener.getsockname()[1])


def _connect(near: socket.socket, host: str, port: int) -> None:
    try:
        far = socket.create_connection((host, port), timeout=10)
    except OSError:  # the client on this host sees a closed connection, and tries again
        near.close()
        return
    far.settimeout(None)
    threading.Thread(target=_pump, args=(far, near), daemon=True).start()
    _pump(near, far)
    far.close()
    near.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copies bytes until ``source`` is closed; those that ``sink`` no longer takes are dropped."""
    try:
        while data := source.recv(65536):
            try:
                sink.sendall(data)
            except OSError:
                continue
    except OSError:
        return
