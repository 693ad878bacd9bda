"""What all commands share: flags, the start, and errors in one line."""

from resjax.command.hints import allowing, done, training_on
from resjax.command.parsing import (
    CONFIG_HELP,
    Misuse,
    chosen,
    define_allow_code,
    define_config,
    define_options,
    no_arguments,
    plain_text,
    refuse_unknown,
)
from resjax.command.start import in_one_line, run

__all__ = [
    "CONFIG_HELP",
    "Misuse",
    "allowing",
    "chosen",
    "define_allow_code",
    "define_config",
    "define_options",
    "done",
    "in_one_line",
    "no_arguments",
    "plain_text",
    "refuse_unknown",
    "run",
    "training_on",
]
