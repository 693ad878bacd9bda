"""What an analysis returns: a frozen dataclass of numpy arrays whose axes have names.

A result holds numbers and the choices behind them, nothing else. Figures and texts are made from it
afterwards, so a figure can be redrawn, or compared with that of another run, without computing again.

The annotation of an array names its axes, and a comment says what it holds::

    @dataclasses.dataclass(frozen=True)
    class Deletions(Result):
        unit: tuple[str, ...]  # names of all units in order
        deleted: Annotated[np.ndarray, "deletion", "unit"]  # bool, True where a unit is deleted
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Annotated, Any, Self

import numpy as np


@dataclasses.dataclass(frozen=True)
class Result:
    """Base of results. ``choices`` records what the papers leave open, and what was chosen; ``initial`` is
    the same of the network at initialization, of the same class (``resjax.studies.initial``), or None."""

    choices: dict[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)
    initial: Any = dataclasses.field(default=None, kw_only=True)

    @classmethod
    def axes(cls) -> dict[str, tuple[str, ...]]:
        """{field: names of its axes}, of the fields that are arrays."""
        found = {}
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            if typing.get_origin(hint) is Annotated:
                found[name] = tuple(axis for axis in hint.__metadata__ if isinstance(axis, str))
        return found

    def to_json(self) -> dict[str, Any]:
        """Only dicts, lists, str, int, float, bool and None; numbers that are not finite become strings."""
        values = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        values["initial"] = self.initial and self.initial.to_json()
        return {"axes": {name: list(axes) for name, axes in self.axes().items()}, **values}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``to_json``.

        Raises:
          ValueError: a field without a default is missing, or a field is unknown.
        """
        fields, arrays = {f.name: f for f in dataclasses.fields(cls)}, cls.axes()
        needed = {n for n, f in fields.items() if f.default_factory is f.default is dataclasses.MISSING}
        given = set(data) - {"axes"}
        if needed - given or given - set(fields):
            raise ValueError(
                f"not a {cls.__name__}: missing {sorted(needed - given)}, unknown "
                f"{sorted(given - set(fields))}"
            )
        values = {name: _restore(data[name], name in arrays) for name in given - {"initial"}}
        initial = data.get("initial")
        return cls(**values, initial=None if initial is None else cls.from_json(initial))


@dataclasses.dataclass(frozen=True)
class Classified(Result):
    """Base of results about a classifier of ``num_classes`` classes."""

    num_classes: int = dataclasses.field(kw_only=True)

    @property
    def chance_error(self) -> float:
        """Error of random guessing among equally frequent classes."""
        return 1 - 1 / self.num_classes


@dataclasses.dataclass(frozen=True)
class Compared(Classified):
    """Base of results that compare changed networks with the intact one on ``num_examples`` examples."""

    intact_error: float = dataclasses.field(kw_only=True)  # share of wrong predictions, 0 … 1
    intact_loss: float = dataclasses.field(kw_only=True)
    num_examples: int = dataclasses.field(kw_only=True)


_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _restore(value: Any, is_array: bool) -> Any:
    if is_array and value is not None:
        return np.asarray(_numbers(value))
    return tuple(value) if isinstance(value, list) else _number(value)


def _numbers(value: Any) -> Any:
    return [_numbers(v) for v in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
