"""Configurations: every field of a run with its default, and checks before any work.

A file in ``configs/`` defines ``get_config(arg="")``: it starts from ``default()``, sets model, data and
recipe, and returns the configuration. Any field can be changed on the command line, e.g.
``--config.train.batch_size=64``. Durations are strings with a unit: ``"64000 steps"`` or ``"20 epochs"``.
An installed package carries the files of ``configs/``, and every command finds them by name: ``find_file``.
"""

from resjax.config.by_name import files, find_file, load_file, smoke
from resjax.config.checks import CHOICES, LEAST, check
from resjax.config.defaults import default
from resjax.config.fields import FREE, affecting, differences, flat, steps_of, to_json, value_of
from resjax.config.kinds import as_flag, check_types, types_of, wanted
from resjax.config.stored import NotAllowed, load, remedy_of_no_config

__all__ = [
    "CHOICES",
    "FREE",
    "LEAST",
    "NotAllowed",
    "affecting",
    "as_flag",
    "check",
    "check_types",
    "default",
    "differences",
    "files",
    "find_file",
    "flat",
    "load",
    "load_file",
    "remedy_of_no_config",
    "smoke",
    "steps_of",
    "to_json",
    "types_of",
    "value_of",
    "wanted",
]
