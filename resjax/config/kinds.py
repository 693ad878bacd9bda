"""The type of every field, and what a value of a wrong one is told."""

import shlex
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict

from resjax import models
from resjax.config.defaults import default
from resjax.config.fields import flat, value_of

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
PLURALS = {bool: "True and False", int: "whole numbers", float: "numbers", str: "texts"}
# Tuples that are empty by default, so that their defaults do not show what they hold.
TUPLES = {"data.mean": tuple[float, ...], "data.std": tuple[float, ...]}


def types_of(config: ConfigDict) -> dict[str, Any]:
    """The known types of fields: ``{"train.batch_size": int, "data.mean": tuple[float, …]}``.

    Those of ``config.model`` are the annotations of its builder.
    """
    found = {}
    for field, value in flat(default().to_dict()).items():
        if not field.startswith("model."):
            several = isinstance(value, tuple) and value
            found[field] = tuple.__class_getitem__((type(value[0]), ...)) if several else type(value)
    model = models.types_of(config.model.name) if "model" in config else {}
    return found | TUPLES | {f"model.{field}": kind for field, kind in model.items()}


def check_types(config: ConfigDict) -> None:
    """Raises ValueError for a value of another type than its field's; absent sections are not missed.

    ``resjax.data`` checks its section itself.
    """
    kinds = {field: kind for field, kind in types_of(config).items() if not field.startswith("data.")}
    for field, value in flat(config.to_dict()).items():
        if field in kinds and not _fits(value, kinds[field]):
            raise ValueError(f"{field}={value!r}; {_needs(kinds[field])}")


def wanted(config: ConfigDict, field: str) -> str:
    """What a value of ``field`` must be, and a flag with one that is allowed: for a value that is not."""
    value = value_of(config, field)
    kind = types_of(config).get(field, type(value))
    return f"{_needs(kind)}, as in {as_flag(field, value)}"


def as_flag(field: str, value: Any) -> str:
    """``--config.FIELD=VALUE``, quoted for a shell."""
    text = str(value).replace("'", '"') if isinstance(value, tuple) else str(value)
    return shlex.quote(f"--config.{field}={text}")


def _needs(kind: Any) -> str:
    if get_origin(kind) is tuple:
        each = get_args(kind)[0]
        return f"it must be a tuple of {PLURALS.get(each, each)}"
    return f"it must be {KINDS.get(kind, kind)}"


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; True for types that are neither of ``KINDS`` nor tuples of them."""
    if get_origin(kind) is tuple:
        each = get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_fits(one, each) for one in value)
    if kind not in KINDS:
        return True
    return isinstance(value, (int, float) if kind is float else kind) and (
        kind is bool or not isinstance(value, bool)
    )
