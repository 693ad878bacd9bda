"""Which places of a figure belong to which units, so that the report can answer the pointer.

A study says it where it draws, in one line for each network::

    pointing.along(ax, label, result.unit, 1 + np.arange(len(result.unit)))

The names are those of the study's table, which holds the numbers. After the figure is saved, ``places`` gives
the part of the picture that belongs to each name, as matplotlib drew it. A figure that says nothing takes no
part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REACH = 6.0  # points (1/72 inch) around a single point that belong to it


@dataclasses.dataclass(frozen=True)
class Said:
    """Names along one axis of a figure's panel, or of points in it."""

    label: str  # of the network
    names: tuple[str, ...]  # in the study's table
    x: np.ndarray | None  # float [name], in data coordinates; None: they lie along y alone
    y: np.ndarray | None  # the same for y
    columns: tuple[str, ...] = ()  # of the table, that the panel shows; () for all
    by: str = ""  # the column that tells several rows of one name apart
    only: str = ""  # the cell of ``by`` whose rows the panel shows; '' for all
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {name: another one with rows}
    layers: bool = False  # whether names are of layers, each in some unit
    what: str = ""  # of ``values``
    values: np.ndarray | None = None  # float [y, x] of a map whose axes both have these names


_SAID: WeakKeyDictionary[Axes, list[Said]] = WeakKeyDictionary()


def along(ax: Axes, label: str, names: Sequence[str], at: np.ndarray | Sequence[float], **more: Any) -> None:
    """The x axis has ``names`` of the network ``label`` at the positions ``at``; ``more`` is of ``Said``."""
    _say(ax, Said(label, tuple(names), np.asarray(at, float), None, **more))


def points(ax: Axes, label: str, names: Sequence[str], x: np.ndarray, y: np.ndarray, **more: Any) -> None:
    """Each of ``names`` is one point; one that is not finite isn't drawn, and belongs to no place."""
    _say(ax, Said(label, tuple(names), np.asarray(x, float), np.asarray(y, float), **more))


def cells(
    ax: Axes, label: str, names: Sequence[str], at: np.ndarray, values: np.ndarray, what: str, **more: Any
) -> None:
    """Rows and columns of a map both have ``names``; ``values`` [y, x] are what it shows, named ``what``."""
    _say(ax, Said(label, tuple(names), at, None, what=what, values=np.asarray(values, float), **more))
    _say(ax, Said(label, tuple(names), None, at, **more))


def _say(ax: Axes, said: Said) -> None:
    _SAID.setdefault(ax, []).append(said)


def average(ax: Axes, others: Mapping[str, Sequence[Axes]]) -> None:
    """Values of maps become their means over seeds, as the map itself; {label: axes of its other seeds}."""
    for k, said in enumerate(_SAID.get(ax, [])):
        same = [_SAID[other][k].values for other in others.get(said.label, ())]
        if said.values is not None and all(
            own is not None and own.shape == said.values.shape for own in same
        ):
            mean = np.mean([said.values, *same], axis=0)  # type: ignore[arg-type]
            _SAID[ax][k] = dataclasses.replace(said, values=mean)


class Place(NamedTuple):
    """Where names are in a picture, as shares of its width and height, from its upper left corner."""

    said: Said
    panel: int  # the number of the axes
    frame: tuple[float, float, float, float]  # left, top, right, bottom of the axes
    x: np.ndarray | None  # [name, end], left and right; NaN where a name is not shown; None: the whole frame
    y: np.ndarray | None  # [name, end], top and bottom


def places(figure: Figure) -> list[Place]:
    """All places of a figure that has been drawn or saved."""
    found = []
    x: np.ndarray | None
    y: np.ndarray | None
    for panel, ax in enumerate(figure.axes):
        for said in _SAID.get(ax, ()):
            if said.x is not None and said.y is not None:
                x, y = _around(ax, said.x, said.y)
            else:
                x = None if said.x is None else _between(ax, said.x, 0)
                y = None if said.y is None else _between(ax, said.y, 1)
            (left, bottom), (right, top) = figure.transFigure.inverted().transform(ax.bbox.get_points())
            ends = (x, None if y is None else 1 - y[:, ::-1])
            found.append(Place(said, panel, (left, 1 - top, right, 1 - bottom), *ends))
    return found


def _pixels(ax: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(ax.transData.transform(np.column_stack([x, y])))


def _share(ax: Axes, pixels: np.ndarray, axis: int) -> np.ndarray:
    """[…, end] in pixels, cut at the axes' frame, as a share of the figure; NaN where nothing is left."""
    low, high = ax.bbox.intervalx if axis == 0 else ax.bbox.intervaly
    cut = np.clip(pixels, low, high)
    cut[~(cut[:, 1] > cut[:, 0])] = np.nan
    whole = ax.get_figure(root=True).bbox  # type: ignore[union-attr]
    return cut / (whole.width if axis == 0 else whole.height)


def _between(ax: Axes, at: np.ndarray, axis: int) -> np.ndarray:
    """[name, end]: each position with what lies nearer to it than to its neighbors."""
    fixed = np.full(len(at), (ax.get_ylim if axis == 0 else ax.get_xlim)()[0])
    pixels = _pixels(ax, *((at, fixed) if axis == 0 else (fixed, at)))[:, axis]
    known = np.unique(pixels[np.isfinite(pixels)])
    if len(known) > 1:
        middle = (known[1:] + known[:-1]) / 2
        edges = np.r_[2 * known[0] - middle[0], middle, 2 * known[-1] - middle[-1]]
    else:
        edges = np.r_[-np.inf, np.inf][: 2 * len(known)]
    ends = np.full((len(at), 2), np.nan)
    for i, pixel in enumerate(pixels):
        if np.isfinite(pixel):
            k = int(np.searchsorted(known, pixel))
            ends[i] = edges[k], edges[k + 1]
    return _share(ax, ends, axis)


def _around(ax: Axes, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[name, end] of x and of y: ``REACH`` around each point."""
    pixels = _pixels(ax, x, y)
    pixels[~np.isfinite(pixels).all(1)] = np.nan
    reach = REACH / 72 * ax.get_figure(root=True).dpi  # type: ignore[union-attr]
    near = pixels[:, :, None] + np.array([-reach, reach])
    return _share(ax, near[:, 0], 0), _share(ax, near[:, 1], 1)
