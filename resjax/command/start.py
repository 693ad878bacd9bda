"""The start and the end of a command: quiet libraries, fast and cached compilation, errors in one line."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags

import resjax
from resjax.command.parsing import Misuse, parse, plain_text
from resjax.cpu.compilation import compile_quickly, keep_compiled
from resjax.workdir.failures import explained
from resjax.workdir.stopping import Stopped, ends_process


def run(main: Callable[[list[str]], None]) -> None:
    """Runs ``main(argv)`` with absl's flags parsed; ends as ``in_one_line`` says."""
    program = sys.modules["__main__"]
    program.__doc__ = plain_text(program.__doc__ or "")
    with in_one_line():
        app.run(_quietly(main), flags_parser=parse)


def _quietly(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    def quiet_main(argv: list[str]) -> None:
        # absl.app enables the logs of all libraries: orbax logs each save, JAX each missing platform.
        for name in ("absl", "jax", "matplotlib"):
            logging.getLogger(name).setLevel(logging.WARNING)
        compile_quickly()
        keep_compiled()
        main(argv)
        sys.stdout.flush()

    return quiet_main


@contextlib.contextmanager
def in_one_line(what: str = "the command ran") -> Iterator[None]:
    """A context that ends the process after an error, with one line instead of a traceback.

    The exit status is 2 after a misuse of flags, 1 after another error, and 143 after a signal to stop, such
    as Ctrl-C. An error that only a fault of a program explains has its traceback before the line.

    Args:
      what: is done, for the line of a stop (``resjax.workdir.stopping.ends_process``).
    """
    try:
        with ends_process(what):
            yield
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        _leave("", 0)
    except Stopped as stopped:  # in a thread, or of other code
        _leave(str(stopped), 143)
    except KeyboardInterrupt:
        _leave("stopped by Ctrl-C", 130)
    except (app.UsageError, flags.Error, Misuse) as error:
        _leave(f"error: {error}", 2)
    except Exception as error:
        said = explained(error, _smaller())
        if said is None:
            traceback.print_exception(error)
            said = _fault(error)
        _leave(f"error: {said}", 1)


def _leave(line: str, status: int) -> None:
    try:
        sys.stdout.flush()
    except OSError:  # Python would try it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if line:
        print(line, file=sys.stderr)
    sys.exit(status)


def _smaller() -> str:
    """The flags of this command that decide how much memory it needs, with their values."""
    known = flags.FLAGS
    config = known["config"].value if "config" in known else None
    values = {"batch_size": known["batch_size"].value} if "batch_size" in known else {}
    for name in ("train", "eval"):
        if config is not None and name in config:
            values[f"config.{name}.batch_size"] = config[name].batch_size
    return " or ".join(shlex.quote(f"--{name}={value}") for name, value in values.items())


def _fault(error: Exception) -> str:
    """Where the fault is: in a file of the user, or here."""
    others = (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), Path(resjax.__file__).parent)

    def of_user(file: str) -> bool:
        return not file.startswith("<") and not any(Path(file).is_relative_to(folder) for folder in others)

    frames = reversed(traceback.extract_tb(error.__traceback__))
    own = next((frame for frame in frames if of_user(frame.filename)), None)
    name = type(error).__name__
    if own:
        return f"the {name} above comes from {own.filename}, line {own.lineno}, or from its arguments"
    return (
        f"the {name} above is a fault of resjax {resjax.__version__}. Please report it with these lines and "
        "the command"
    )
