"""The start and the end of a command: quiet libraries, fast and cached compilation, the exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from absl import app

from resjax.command.parsing import Misuse, leave, parse, plain_text
from resjax.cpu.compilation import compile_quickly, keep_compiled
from resjax.workdir.stopping import ends_process


def run(main: Callable[[list[str]], None]) -> None:
    """Runs ``main(argv)`` with absl's flags parsed. The exit status is 2 after a wrong flag, 1 after an error
    that the command reports, and 143 after a signal to stop (``resjax.workdir.stopping``)."""
    program = sys.modules["__main__"]
    program.__doc__ = plain_text(program.__doc__ or "")
    with ends_process():
        app.run(_quietly(main), flags_parser=parse)


def _quietly(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    def quiet_main(argv: list[str]) -> None:
        # absl.app enables the logs of all libraries: orbax logs each save, JAX each missing platform.
        for name in ("absl", "jax"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            compile_quickly()
            keep_compiled()
            main(argv)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (app.UsageError, Misuse) as error:
            sys.stdout.flush()
            leave(str(error))
        except (ValueError, FileNotFoundError, FloatingPointError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return quiet_main
