"""The figure of a study where results of several seeds form a group.

A study draws one result for each network. So it draws the first seed of every group, and then, for each
further seed, the same figure with that one result exchanged. The lines that differ between these figures are
those that depend on the seed: each is drawn thin, once for each seed, in the colour of its group. A thick
line is their mean, point by point (on a logarithmic axis, the geometric mean). In axes without bands of the
study's own, a band is the 95 % interval of that mean over seeds, where all seeds have the same x. Bars and
maps show the mean. A study needs no code for this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resjax.report.seeds import Pooled, by_run, first_of, have_seeds, runs_in
from resjax.report.texts import mean_and_interval, merge
from resjax.studies import pointing
from resjax.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

THIN = {"linewidth": 0.7, "alpha": 0.45}
SMALL = 0.55  # times the study's own markers: one seed
THICK = 1.3  # times the study's own line: the mean
BAND = 0.13  # alpha


def draw(study: Study, results: Pooled) -> Figure:
    """The figure of ``study`` for ``results``, {label: result or ``Seeds``}, in the current theme."""
    if not have_seeds(results):
        return study.plot(results)
    first = first_of(results)
    figure = study.plot(first)
    others = {
        label: [study.plot({**first, label: one}) for one in list(by_run(label, result).values())[1:]]
        for label, result in results.items()
    }
    every = [other for own in others.values() for other in own]
    if any(_layout(other) != _layout(figure) for other in every):  # nothing says which lines correspond
        return study.plot(runs_in(results))
    for number, ax in enumerate(figure.axes):
        _overlay(ax, {label: [other.axes[number] for other in own] for label, own in others.items()})
    _overlay_texts(figure.legends, [other.legends for other in every], lambda legend: legend.get_texts())
    return figure


def _layout(figure: Figure) -> list[list[int]]:
    """The number of artists of each kind in each of the axes."""
    return [[len(artists) for artists in _parts(ax).values()] for ax in figure.axes]


def _overlay(ax: Axes, others: Mapping[str, Sequence[Axes]]) -> None:
    """Adds to ``ax`` what the axes of other seeds hold, {label of the group: its axes in other figures}."""
    every = [other for own in others.values() for other in own]
    here, found = _parts(ax), []  # before anything is added
    for own in filter(None, others.values()):
        seeds = [here, *map(_parts, own)]
        for kind in _ADD:
            same = zip(*(parts[kind] for parts in seeds), strict=True)
            found += [(kind, artists) for artists in same if _depends_on_seed(kind, artists)]
    # What depends on the seeds of several groups, such as a scale that they share, stays as it is.
    owners = Counter(id(artists[0]) for _, artists in found)
    for kind, artists in found:
        if owners[id(artists[0])] == 1:
            if kind == "line" and not here["band"]:
                _add_interval(ax, artists)
            _ADD[kind](ax, artists)
    _overlay_texts([ax], [[other] for other in every], _texts)
    pointing.average(ax, others)
    for name in "xy":
        if not getattr(ax, f"get_autoscale{name}_on")():
            ends = np.array([getattr(one, f"get_{name}lim")() for one in (ax, *every)])
            falling = ends[0, 0] > ends[0, 1]
            low, high = ends.min(), ends.max()
            getattr(ax, f"set_{name}lim")(*((high, low) if falling else (low, high)))
    ax.autoscale_view()


def _parts(ax: Axes) -> dict[str, list[Any]]:
    """The artists of the axes by kind, without error bars: they are intervals within a seed."""
    from matplotlib.collections import PathCollection, PolyCollection, QuadMesh
    from matplotlib.container import ErrorbarContainer
    from matplotlib.patches import Rectangle

    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    hidden = [part for _, caps, columns in (bar.lines for bar in bars) for part in (*caps, *columns)]
    return {
        "line": [line for line in ax.lines if line not in hidden],
        "band": [c for c in ax.collections if isinstance(c, PolyCollection)],
        "cloud": [c for c in ax.collections if isinstance(c, PathCollection)],
        "map": [*ax.images, *(c for c in ax.collections if isinstance(c, QuadMesh))],
        "bar": [p for p in ax.patches if isinstance(p, Rectangle)],
        "error bar": hidden,
    }


def _data(kind: str, artist: Any) -> list[np.ndarray]:
    if hasattr(artist, "get_segments"):  # the columns of error bars
        return [np.asarray(segment) for segment in artist.get_segments()]
    if kind in ("line", "error bar"):
        return [np.asarray(values, float) for values in artist.get_data(orig=False)]
    if kind == "band":
        return [path.vertices for path in artist.get_paths()]
    if kind == "cloud":
        return [np.asarray(artist.get_offsets())]
    if kind == "map":
        return [np.ma.filled(np.ma.asarray(artist.get_array(), float), np.nan)]
    return [np.array([*artist.get_xy(), artist.get_width(), artist.get_height()], float)]


def _depends_on_seed(kind: str, same: Sequence[Any]) -> bool:
    first, *rest = (_data(kind, artist) for artist in same)
    return any(
        len(own) != len(first)
        or any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(own, first, strict=True))
        for own in rest
    )


def _add_lines(ax: Axes, lines: Sequence[Line2D]) -> None:
    """Thin lines of all seeds; the first line becomes their mean, point by point, where all have equally many
    points."""
    mean = lines[0]
    xs, ys = zip(*(_data("line", line) for line in lines), strict=True)
    for x, y in zip(xs, ys, strict=True):
        _add_thin(ax, mean, x, y)
    if len({len(x) for x in xs}) > 1:
        mean.set(linestyle="", marker="")  # the thin lines have taken its place; the legend keeps its look
        return
    mean.set_data(_mean(xs, ax.get_xscale()), _mean(ys, ax.get_yscale()))
    mean.set(linewidth=THICK * mean.get_linewidth(), zorder=mean.get_zorder() + 0.2)


def _add_thin(ax: Axes, like: Line2D, x: np.ndarray, y: np.ndarray) -> None:
    from matplotlib.lines import Line2D

    line = Line2D(x, y, color=like.get_color(), linestyle=like.get_linestyle())
    line.set(**THIN)
    if not _joined(like):
        edge = 0 if like.get_marker() in Line2D.filled_markers else THIN["linewidth"]
        size = SMALL * like.get_markersize()
        line.set(marker=like.get_marker(), markersize=size, markeredgewidth=edge)
    line.set(transform=like.get_transform(), label="_seed", zorder=like.get_zorder())
    ax.add_line(line)


def _joined(line: Line2D) -> bool:
    return line.get_linestyle() not in ("None", "", " ")


def _add_interval(ax: Axes, lines: Sequence[Line2D]) -> None:
    """The interval of the mean over seeds, as a band. It does not widen the axes: that of three seeds may
    reach far beyond them."""
    from matplotlib.collections import PolyCollection

    line = lines[0]
    xs, ys = zip(*(_data("line", one) for one in lines), strict=True)
    if not _all_equal(xs) or len(xs[0]) < 3 or not _joined(line):
        return
    x, (_, low, high) = xs[0], mean_and_interval(np.stack(ys), log=ax.get_yscale() == "log")
    known = np.isfinite(low) & np.isfinite(high)
    for part in np.split(np.arange(len(x)), np.flatnonzero(~known)):
        if len(inside := part[known[part]]) > 1:
            there = np.r_[inside, inside[::-1]]
            corners = np.stack([x[there], np.r_[low[inside], high[inside[::-1]]]], axis=1)
            shape = PolyCollection([corners], facecolor=line.get_color(), linewidth=0, alpha=BAND)
            shape.set_zorder(line.get_zorder() - 0.1)
            ax.add_collection(shape, autolim=False)


def _add_bands(ax: Axes, bands: Sequence[Any]) -> None:
    """The band of every seed, each as pale as makes all of them together look like one."""
    from matplotlib.collections import PolyCollection

    alpha = (bands[0].get_alpha() or 1) / len(bands)
    for band in bands[1:]:
        paths = [path.vertices for path in band.get_paths()]
        look = {"facecolor": bands[0].get_facecolor(), "linewidth": 0, "zorder": bands[0].get_zorder()}
        more = PolyCollection(paths, **look)
        more.set(alpha=alpha, transform=bands[0].get_transform())
        ax.add_collection(more)
    bands[0].set_alpha(alpha)


def _add_clouds(ax: Axes, clouds: Sequence[Any]) -> None:
    sizes = SMALL**2 * clouds[0].get_sizes()
    look: dict[str, Any] = {"s": sizes, "alpha": THIN["alpha"], "linewidths": 0, "label": "_seed"}
    for cloud in clouds[1:]:
        ax.scatter(*cloud.get_offsets().T, color=clouds[0].get_facecolor(), **look)
    clouds[0].set(sizes=sizes, alpha=THIN["alpha"])


def _add_maps(ax: Axes, maps: Sequence[Any]) -> None:
    """The mean over seeds, where the maps have the same shape; else the first seed's map stays."""
    values = [_data("map", one)[0] for one in maps]
    if len({own.shape for own in values}) == 1:
        maps[0].set_array(np.ma.masked_invalid(np.mean(values, 0)))


def _add_bars(ax: Axes, bars: Sequence[Any]) -> None:
    """The mean of place and size."""
    x, y, width, height = np.mean([_data("bar", bar)[0] for bar in bars], 0)
    bars[0].set(xy=(x, y), width=width, height=height)


def _hide(ax: Axes, same: Sequence[Any]) -> None:
    same[0].set_visible(False)


_ADD: dict[str, Callable[[Axes, Sequence[Any]], None]] = {
    "line": _add_lines,
    "band": _add_bands,
    "cloud": _add_clouds,
    "map": _add_maps,
    "bar": _add_bars,
    "error bar": _hide,
}


def _mean(values: Sequence[np.ndarray], scale: str) -> np.ndarray:
    if _all_equal(values):
        return values[0]
    return mean_and_interval(np.stack(values), log=scale == "log")[0]


def _all_equal(values: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(one, values[0], equal_nan=True) for one in values)


def _texts(ax: Axes) -> list[Any]:
    legend = ax.get_legend()
    return [ax.title, *ax.texts, *(legend.get_texts() if legend else [])]


def _overlay_texts(
    holders: Sequence[Any], others: Sequence[Sequence[Any]], texts: Callable[[Any], Sequence[Any]]
) -> None:
    """Texts whose numbers differ between seeds get the range of each number; other texts stay."""
    for number, holder in enumerate(holders):
        every = [texts(own[number]) for own in others if len(own) == len(holders)]
        for same in zip(texts(holder), *every, strict=False):
            merged = merge([text.get_text() for text in same])
            if len(merged) == 1 and merged[0][0] != same[0].get_text():
                same[0].set_text(merged[0][0])
