"""What a study shows, as text: finding, summary, table, and the data of everything drawn in its figure.

Text, so that a change of a threshold, a unit or a column is a readable diff. Numbers of figures have five
digits; pixels, colours and places of legends do not matter here.
"""

import numpy as np
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.patches import Rectangle

from resjax.report import compare, overlay
from resjax.studies import style

MOST = 200  # numbers of one line; hand-made results are small


def shown(study, results):
    """Everything that ``study`` says of ``results``, {label: result or ``Seeds``}."""
    finding, table = compare.finding(study, results), compare.table(study, results)
    lines = [f"finding: {finding.headline}", *(f"  - {point}" for point in finding.points)]
    lines.append("summary:")
    for label, columns in compare.summary(study, results).items():
        lines += [f"  {label}: {column} = {text}" for column, text in columns.items()]
    lines += ["table:", *(f"  {' | '.join(row)}" for row in (table.columns, *table.rows))]
    with style.theme():
        figure = overlay.draw(study, results)
    lines.append("figure:")
    for number, ax in enumerate(figure.axes, 1):
        if ax.get_label() == "<colorbar>":
            lines.append(f"  axes {number}: colours from {_numbers(ax.get_ylim())}")
            continue
        lines += [f"  axes {number}: {_axes(ax)}", *(f"    {text}" for text in _drawn(ax))]
    for legend in figure.legends:
        lines.append(f"  legend: {', '.join(text.get_text() for text in legend.get_texts())}")
    return "\n".join(lines) + "\n"


def _axes(ax):
    scales = f"x {ax.get_xscale()}, y {ax.get_yscale()}"
    return f"{ax.get_title()!r}; {ax.get_xlabel()!r} × {ax.get_ylabel()!r}; {scales}"


def _drawn(ax):
    for line in ax.lines:
        label = line.get_label()
        name = "" if label.startswith("_") else f" {label!r}"
        look = f"{line.get_linestyle()}{line.get_marker() if line.get_marker() != 'None' else ''}"
        yield f"line{name} {look}: x {_numbers(line.get_xdata())}; y {_numbers(line.get_ydata())}"
    for drawn in ax.collections:
        name = type(drawn).__name__
        if isinstance(drawn, PathCollection):
            yield f"{name}: {_numbers(drawn.get_offsets())}"
        elif isinstance(drawn, LineCollection):
            # One with a number that is missing has no points.
            segments = [np.reshape(segment, (-1, 2)) for segment in drawn.get_segments()]
            yield f"{name}: {_numbers(np.concatenate(segments) if segments else [])}"
        elif isinstance(drawn, PolyCollection):
            paths = [path.vertices for path in drawn.get_paths()]
            yield f"{name}: {_numbers(np.concatenate(paths) if paths else [])}"
        else:  # a mesh
            ends = drawn.get_coordinates()[[0, -1], [0, -1]]  # of its first and of its last corner
            yield f"{name} from {_numbers(ends[0])} to {_numbers(ends[1])}: {_numbers(drawn.get_array())}"
    for patch in ax.patches:
        if isinstance(patch, Rectangle):
            yield f"bar: {_numbers([*patch.get_xy(), patch.get_width(), patch.get_height()])}"
    for image in ax.images:
        extent, (rows, columns) = image.get_extent(), image.get_array().shape[:2]
        usual = [-0.5, columns - 0.5, rows - 0.5, -0.5]
        place = "" if list(extent) == usual else f" at {_numbers(extent)}"
        yield f"image{place}: {_numbers(image.get_array())}"
    if texts := [text.get_text() for text in ax.texts if text.get_text()]:
        yield f"texts: {', '.join(texts)}"
    if (legend := ax.get_legend()) is not None:
        yield f"legend: {', '.join(text.get_text() for text in legend.get_texts())}"


def _numbers(values):
    flat = np.ma.filled(np.ma.asarray(values, float), np.nan).ravel()
    more = f" … {len(flat)} numbers, sum {np.nansum(flat):.5g}" if len(flat) > MOST else ""
    return " ".join(f"{value:.5g}" for value in flat[:MOST] + 0.0) + more  # + 0.0: no minus zero
