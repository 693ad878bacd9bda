"""The flags of all commands, and what is wrong with a command line, in one line."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from resjax import config as configs
from resjax.command.meant import MEANT_FLAGS, nearest_field, unknown_field
from resjax.data.config import check as check_data
from resjax.spelling import nearest, plain
from resjax.workdir.failures import of_system

CONFIG_FLAGS = ("--config", "-config")
CONFIG_HELP = (
    f"a Python file with a get_config(arg), or one of resjax: {', '.join(configs.files())}. "
    "With ':smoke' behind it, one of resjax is small and its training short"
)
# Flags that are defined here belong to the command, so its --help lists them.
flags.disclaim_key_flags()
# What parsing of flags and loading of a configuration raise.
_BROKEN = (SyntaxError, ImportError, NameError, ArithmeticError)
_ERRORS = (flags.Error, AttributeError, KeyError, IndexError, OSError, TypeError, ValueError, *_BROKEN)
# What absl says of a value of another type is the error of the conversion.
_NOT_CONVERTED = re.compile(
    r"flag --(\w+)=(.*): (?:invalid literal|could not convert|\('Non-boolean)", re.DOTALL
)
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


class Misuse(ValueError):
    """A flag has a wrong name or value; the exit status is 2."""


def define_options(options: type[Any]) -> dict[str, flags.FlagHolder[Any]]:
    """A flag for each field of an options class (``resjax.studies.options``), with its default and help."""
    define: dict[str, Callable[..., Any]] = {
        "int": flags.DEFINE_integer,
        "bool": flags.DEFINE_bool,
        "str": flags.DEFINE_string,
    }
    return {
        field.name: define[str(field.type)](field.name, field.default, field.metadata["help"])
        for field in dataclasses.fields(options)
    }


def define_allow_code() -> flags.FlagHolder[list[str]]:
    """``--allow_code=package.module:function``, for a command that reads workdirs, see ``config.load``."""
    return flags.DEFINE_list(
        "allow_code",
        [],
        "'package.module:function', the builder of a network that a workdir may import and run; needed for "
        "networks that are none of resjax",
    )


def chosen(options: type[Any], given: dict[str, flags.FlagHolder[Any]]) -> Any:
    """The options as given on the command line.

    Raises:
      Misuse: a value that an option can't have.
    """
    try:
        return options(**{name: flag.value for name, flag in given.items()})
    except ValueError as error:
        raise Misuse(error) from error


def define_config(config: ConfigDict) -> flags.FlagHolder[ConfigDict]:
    """``--config.FIELD=VALUE``, for a configuration that the command makes; --help lists the fields."""
    fields = configs.flat(config.to_dict()).items()
    listed = "\n".join(configs.as_flag(field, value) for field, value in fields)
    try:
        holder = config_flags.DEFINE_config_dict("config", config)
    except _ERRORS as error:  # this already reads the command line
        leave(explained(sys.argv, error, config, flags.FLAGS))
    flag = flags.FLAGS["config"]
    flag.help, flag.default_as_str = f"changes a field. Without a change, they are\n{listed}", None
    # Its library takes this module for the command, whose --help would lack it.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    return holder


def plain_text(docstring: str) -> str:
    """A docstring for the terminal, without the marks of code."""
    return docstring.replace("``", "").replace("::\n", ":\n")


def refuse_unknown(flag: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuses names that ``flag`` does not have, with the nearest ones.

    Raises:
      Misuse: a name in ``given`` is not in ``allowed``.
    """
    known = list(allowed)
    unknown = sorted(set(given) - set(known))
    if unknown:
        near = dict.fromkeys(filter(None, (nearest(name, known) for name in unknown)))
        hint = f". Did you mean {', '.join(near)}?" if near else ""
        raise Misuse(f"{flag}={', '.join(unknown)}; allowed: {', '.join(known)}{hint}")


def no_arguments(argv: list[str]) -> None:
    """Refuses arguments that are no flags.

    Raises:
      Misuse: there is one.
    """
    if len(argv) > 1:
        config = _value_of("config", flags.FLAGS)
        known = configs.flat(config.to_dict()) if isinstance(config, ConfigDict) else ()
        # As other libraries write the fields of a configuration.
        meant = [shlex.quote(f"--config.{one}") for one in argv[1:] if one.partition("=")[0] in known]
        hint = f" Did you mean {' '.join(meant)}?" if meant else ""
        raise Misuse(
            f"unknown arguments: {shlex.join(argv[1:])}.{hint} Flags begin with --, and a value with a blank "
            "is quoted: --workdir='my runs'. --help lists the flags"
        )


def parse(argv: list[str], known: flags.FlagValues = flags.FLAGS) -> list[str]:
    """The arguments that are no flags, after parsing the ``known`` flags; leaves after a wrong one."""
    try:
        rest = known(_with_paths(argv))
        config = _value_of("config", known)
        getattr(config, "seed", None)  # ml_collections keeps an OSError of its file until the first use
        if isinstance(config, ConfigDict):
            _check(config)
        return rest
    except _ERRORS as error:
        leave(explained(argv, error, _configuration(argv, known), known))


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


def explained(argv: list[str], error: Exception, config: ConfigDict | None, known: flags.FlagValues) -> str:
    """What is wrong with the command line ``argv``, in one line."""
    # absl wraps the error of a configuration file; the original message comes last.
    text = str(error).replace("\\n", " ").replace("\\'", "'").strip()
    if isinstance(error, KeyError):
        text = text.strip("\"'")
    if isinstance(error, _BROKEN):
        return f"the file of --config can't be run: {type(error).__name__}: {' '.join(text.split())}"
    if system := re.search(r"\[Errno (\d+)\] [^:]*: '(.*)'", text):
        return of_system(int(system[1]), system[2])
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown_flag(argv, error.flagname, config, known)
    if wrong := _NOT_CONVERTED.match(text):
        return f"--{wrong[1]}={wrong[2]}: it must be {_KINDS[known[wrong[1]].flag_type()]}"
    if missing := re.match(r"flag --(\w+)=None: .* must have a value", text):
        return f"--{missing[1]} is needed: {known[missing[1]].help}"
    if "has no attribute 'get_config'" in text:
        return "the file of --config has no get_config(arg), a function that returns the configuration"
    if "Overriding config is not allowed" in text:
        return (
            "--config takes no file here, since this command makes the configuration. Change fields: "
            "--config.FIELD=VALUE; --help lists them"
        )
    for field, value in overrides(argv) if config is not None else ():
        if said := wrong_path(config, field, value):
            return said
        if text.startswith(f"flag --config.{field}={value}:"):
            return f"--config.{field}={value}: {configs.wanted(config, field)}"
    return text.splitlines()[-1] if "Traceback" in text else " ".join(text.split())


def overrides(argv: list[str]) -> Iterator[tuple[str, str]]:
    """(field, value) of each ``--config.FIELD=VALUE``; the value may be the next argument."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if found := re.match(r"--?(?:no)?config\.([^=]+)(?:=(.*))?$", argument, re.DOTALL):
            yield found[1], following if found[2] is None else found[2]


def _configuration(argv: list[str], known: flags.FlagValues) -> ConfigDict | None:
    """The configuration that ``argv`` names, without its changes; None if there is none to be had."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if found := re.match(r"--?config(?:=(.*))?$", argument):
            path, _, arg = (following if found[1] is None else found[1]).partition(":")
            try:
                return configs.load_file(path, arg)
            except Exception:  # the error that is explained already
                return None
    config = _value_of("config", known)
    return config if isinstance(config, ConfigDict) else None


def _value_of(name: str, known: flags.FlagValues) -> Any:
    return known[name].value if name in known else None


def wrong_path(config: ConfigDict, field: str, value: str) -> str:
    """Why ``--config.FIELD=VALUE`` names no field; '' if it does."""
    node: Any = config
    name, bracket, _ = field.partition("[")
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, ConfigDict):
            above = ".".join(parts[:depth])
            return f"--config.{field}: {above} is one value, {node!r}, and has no parts"
        if part not in node:
            return f"--config.{field}: {unknown_field(config, name, value)}"
        node = node[part]
    if isinstance(node, ConfigDict):
        guess = configs.as_flag(f"{name}.name", value)
        # Another model has other fields, so its name alone would not do.
        named = f". Did you mean {guess}?" if value and name == "data" else ""
        return f"--config.{field}: {name} is a section with the fields {', '.join(sorted(node))}{named}"
    if bracket:
        return f"--config.{field}: give the whole value, as in {configs.as_flag(name, node)}"
    return ""


def _check(config: ConfigDict) -> None:
    """Raises ValueError for a field that nothing reads, or a value of a wrong type or that no data allow."""
    known = configs.flat(configs.default().to_dict())
    sections = {field.partition(".")[0] for field in known} - {"model"}
    for field in configs.flat(config.to_dict()):
        if field.partition(".")[0] in sections and field not in known:
            raise ValueError(f"the file of --config sets {field}: {unknown_field(config, field, '', known)}")
    configs.check_types(config)
    if "data" in config:
        check_data(config.data)


def _unknown_flag(argv: list[str], name: str, config: ConfigDict | None, known: flags.FlagValues) -> str:
    defined = known.flags_by_module_dict()
    own = [flag.name for module in (argv[0], __name__) for flag in defined.get(module, [])]
    own = [flag for flag in own if "." not in flag]
    bare = re.sub(r"^config[._-]", "", name, flags=re.IGNORECASE)
    near = nearest(name, own)
    if config is not None and (bare != name or not near):
        near = f"config.{field}" if (field := nearest_field(config, bare)) else near
    near = near or MEANT_FLAGS.get(plain(name), "")
    hint = f"Did you mean --{near}? " if near and near.partition(".")[0] in own else ""
    return (
        f"--{name}: there is no such flag. {hint}This command has: {', '.join(f'--{f}' for f in sorted(own))}"
    )


def leave(text: str) -> NoReturn:
    """Ends the process after a misuse."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)
