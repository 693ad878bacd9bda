"""Setup that all commands share: flags, quiet libraries, fast and cached compilation, errors in one line."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags

from resjax import config as configs
from resjax.cpu.compilation import compile_quickly, keep_compiled
from resjax.workdir.stopping import Stopped

CONFIG_FLAGS = ("--config", "-config")
CONFIG_HELP = (
    f"a Python file with a get_config(arg), or one of resjax: {', '.join(configs.files())}. "
    "With ':smoke' behind it, one of resjax is small and its training short"
)


def define_options(options: type[Any]) -> dict[str, flags.FlagHolder[Any]]:
    """A flag for each field of an options class (``resjax.studies.options``), with its default and help."""
    define: dict[str, Callable[..., Any]] = {
        "int": flags.DEFINE_integer,
        "bool": flags.DEFINE_bool,
    }
    return {
        field.name: define[str(field.type)](field.name, field.default, field.metadata["help"])
        for field in dataclasses.fields(options)
    }


def chosen(options: type[Any], given: dict[str, flags.FlagHolder[Any]]) -> Any:
    """The options as given on the command line."""
    return options(**{name: flag.value for name, flag in given.items()})


def run(main: Callable[[list[str]], None]) -> None:
    """Runs ``main(argv)`` with absl's flags parsed. The exit status is 2 after a wrong flag, 1 after an error
    that the command reports, and 143 after a signal to stop."""
    app.run(_quietly(main), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(_with_paths(argv))
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        # absl wraps the error of a configuration file; the original message comes last.
        text = str(error).replace("\\n", " ").replace("\\'", "'").strip("\"'\n ")
        _leave(text.splitlines()[-1] if "Traceback" in text else " ".join(text.split()))


def _with_paths(argv: list[str]) -> list[str]:
    """``argv`` with the paths of configurations that are given by name: ``--config=digits:smoke``."""
    argv = list(argv)
    for place, argument in enumerate(argv[1:], 1):
        flag, equals, value = argument.partition("=")
        if argv[place - 1] in CONFIG_FLAGS:  # --config digits:smoke
            flag, equals, value = "", "", argument
        elif flag not in CONFIG_FLAGS or not equals:
            continue
        name, colon, arg = value.partition(":")
        argv[place] = f"{flag}{equals}{configs.find_file(name)}{colon}{arg}"
    return argv


def _leave(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


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
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(143)
        except (ValueError, FileNotFoundError, FloatingPointError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return quiet_main
