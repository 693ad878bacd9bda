"""What all commands share: flags, the start, and errors in one line."""

from resjax.command.parsing import (
    CONFIG_HELP,
    Misuse,
    chosen,
    define_config,
    define_options,
    no_arguments,
    plain_text,
    refuse_unknown,
)
from resjax.command.start import ends_process, run

__all__ = [
    "CONFIG_HELP", "Misuse", "chosen", "define_config", "define_options", "ends_process",
    "no_arguments", "plain_text", "refuse_unknown", "run",
]  # fmt: skip
