"""What an analysis returns: a frozen dataclass of numpy arrays whose axes have names.

A result holds numbers and the choices behind them, nothing else; pictures and words are made from it
afterwards, so that a figure can be redrawn, or compared with that of another run, without computing again.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from resjax.studies import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result:
    """Base of results. A subclass is a frozen dataclass and names the axes of its arrays in ``AXES``."""

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {}

    def to_json(self) -> dict[str, Any]:
        """Only dicts, lists, str, int, float, bool and None; numbers that are not finite become strings."""
        values = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            values[field.name] = _plain(getattr(self, field.name))
        return {"axes": {name: list(axes) for name, axes in self.AXES.items()}, **values}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``to_json``.

        Raises:
          ValueError: a field is missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        given = set(data) - {"axes"}
        if given != names:
            raise ValueError(
                f"not a {cls.__name__}: missing {sorted(names - given)}, unknown {sorted(given - names)}"
            )
        return cls(**{name: cls._restore(name, data[name]) for name in names})

    @classmethod
    def _restore(cls, name: str, value: Any) -> Any:
        if name in cls.AXES and value is not None:
            return np.asarray(_numbers(value))
        return tuple(value) if isinstance(value, list) else _number(value)


class Classified(Result):
    """Base of results about a classifier of ``num_classes`` classes."""

    num_classes: int

    @property
    def chance_error(self) -> float:
        """Error of a guess among classes that are equally frequent."""
        return 1 - 1 / self.num_classes


def plot(results: Result | Mapping[str, Result]) -> Figure:
    """The picture of a result, or of several of one kind by label; on white, in the style of the report.

    It is drawn by ``plot`` of the module that the result comes from, which may take more arguments.

    Raises:
      ValueError: no result, or of a kind that has no picture.
    """
    some = list(results.values()) if isinstance(results, Mapping) else [results]
    module = sys.modules[type(some[0]).__module__] if some else None
    if module is None or not hasattr(module, "plot"):
        kind = type(some[0]).__name__ if some else "nothing"
        raise ValueError(f"{kind} has no picture of its own; see docs/analyses for what has")
    with style.theme():
        figure: Figure = module.plot(results)
        figure.set_facecolor("white")
        figure.draw_without_rendering()  # ticks are made when they are drawn, in the style of that moment
    return figure


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


def _numbers(value: Any) -> Any:
    return [_numbers(v) for v in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
