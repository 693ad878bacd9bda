"""Legends, ticks and bands that several figures share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from resjax.studies import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def legend_by_colour_and_line(
    fig: Figure, runs: Iterable[str], lines: Mapping[str, str], *, markers: bool = False
) -> None:
    """One legend above the figure: a colour for each run, then a line style for each kind.

    Args:
      fig: a figure whose axes are drawn already.
      runs: labels; the i-th has ``style.color(i)``. An empty label is left out.
      lines: {name of the kind: matplotlib's line style}.
      markers: runs have markers, too.
    """
    from matplotlib.lines import Line2D

    def line(**look: Any) -> Line2D:
        return Line2D([], [], **look)

    entries = [
        (line(color=style.color(i), marker=style.marker(i) if markers else "", lw=2.2), label)
        for i, label in enumerate(runs)
        if label
    ]
    entries += [(line(color=style.ink(), ls=ls), name) for name, ls in lines.items()]
    columns = 2 if style.is_narrow() else 4
    handles, labels = zip(*entries, strict=True)
    fig.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9)


def explain_lines(ax: Axes, looks: Mapping[str, tuple[str, str]]) -> None:
    """A legend of line styles, in neutral colour."""
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=style.ink(), ms=3, lw=1.2, label=name, marker=marker, ls=line)
        for name, (marker, line) in looks.items()
    ]
    ax.legend(handles=handles, fontsize=8, loc="upper right")


def band_on_log(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> None:
    """An interval as a band on a logarithmic axis; one that reaches 0 or below is cut at the lower limit."""
    bottom = ax.get_ylim()[0]
    at_zero = low <= 0
    ax.fill_between(x, np.where(at_zero, bottom, low), high, color=color, alpha=0.15, lw=0)


def few_ticks(ax: Axes) -> None:
    """Whole numbers below the x axis, fewer on a phone."""
    style.integer_ticks(ax)
    if style.is_narrow():
        ax.locator_params(axis="x", nbins=5)


def plain_log_ticks(axis: Any) -> None:
    """Ticks at 1, 2, 5, 10 … on a logarithmic axis (``ax.xaxis``) that spans a decade or two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())
