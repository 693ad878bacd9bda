"""A server of the page, for tests."""

import contextlib
import threading
import time

from resjax.play import server


@contextlib.contextmanager
def served(lives):
    """The address of a page with ``lives``, whose token is 'token'."""
    own = server.bound("127.0.0.1", 8400)
    config = server.uvicorn.Config(server.app(lives, "token"), log_level="error", lifespan="off")
    running = server.uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [own]})
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{own.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
