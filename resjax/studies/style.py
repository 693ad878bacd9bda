"""How figures look: one palette, safe for colour-blind readers, on light and dark backgrounds.

Colours are those of Okabe & Ito (2008), chosen to stay distinct for every common kind of colour
blindness; runs also differ in marker, and moments of a run in line style.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

# matplotlib takes a second to import, and analyses without pictures do not need it. Annotations of studies
# name these types as ``style.Axes`` and ``style.Figure``.
if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
_ON_LIGHT = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
# On a dark background the lighter colours of the same palette come first.
_ON_DARK = (SKY, ORANGE, GREEN, PURPLE, YELLOW, VERMILION)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FILLS = ("full", "none", "left", "right", "top", "bottom")
LINES = ("-", "--", "-.", ":")

WIDE, NARROW = (7.6, 3.6), (4.2, 3.5)


@contextmanager
def theme(*, dark: bool = False, narrow: bool = False) -> Iterator[None]:
    """Figures made in this context are for a dark or light background, for a page or for a phone."""
    import matplotlib as mpl
    from cycler import cycler

    ink, faint = ("#e6e6e6", "#5c6470") if dark else ("#1f2328", "#b4bac2")
    settings: dict[str, Any] = {
        "figure.figsize": NARROW if narrow else WIDE,
        "figure.dpi": 100,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.facecolor": "none",
        "axes.edgecolor": faint,
        "axes.labelcolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=_ON_DARK if dark else _ON_LIGHT),
        "grid.color": faint,
        "grid.alpha": 0.35,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "font.size": 9.5,
        "axes.titlesize": 10,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "svg.fonttype": "path",
        "svg.hashsalt": "resjax",  # equal figures, equal files
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(settings):  # type: ignore[arg-type]
        yield


def axes(ax: Axes | None = None) -> tuple[Figure, Axes]:
    """The given axes and their figure, or a new figure outside pyplot."""
    if ax is not None:
        return ax.get_figure(root=True), ax  # type: ignore[return-value]
    fig, grid = axes_grid(1, 1)
    return fig, grid[0][0]


def axes_grid(rows: int, columns: int, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """A new figure with rows × columns axes, outside pyplot, so it need not be closed."""
    from matplotlib.figure import Figure

    fig = Figure(layout="constrained")
    grid = fig.subplots(rows, columns, squeeze=False, **options)
    return fig, [list(row) for row in grid]


def panels(
    count: int,
    *,
    columns: int | None = None,
    height: float = 0.8,
    wide: float = 1.0,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A new figure with panels side by side, or on a phone all of them one below the other.

    Args:
      count: number of panels.
      columns: on a page, the most panels side by side; None for all.
      height: the height of each row but the first, as a share of the figure's usual height.
      wide: on a page, all heights are multiplied by it.
      **options: of ``axes_grid``, such as ``sharey``.
    """
    columns = 1 if is_narrow() else min(columns or count, count)
    rows = -(-count // columns)
    if is_narrow():
        options.pop("width_ratios", None)
    fig, grid = axes_grid(rows, columns, **options)
    factor = (1 if is_narrow() else wide) * (1 + height * (rows - 1))
    fig.set_figheight(fig.get_figheight() * factor)
    axes = [ax for row in grid for ax in row]
    for ax in axes[count:]:
        ax.remove()
    return fig, axes[:count]


def mosaic(rows: list[list[str]]) -> tuple[Figure, dict[str, Axes]]:
    """A new figure with named panels; a name that is repeated in its row spans these columns."""
    from matplotlib.figure import Figure

    fig = Figure(layout="constrained")
    return fig, fig.subplot_mosaic(rows)  # type: ignore[arg-type]


def label_above(ax: Axes, x: float, text: str) -> None:
    """A small text above the axes at ``x``."""
    ax.annotate(
        text,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.5,
    )


def color(i: int) -> str:
    """The colour of run ``i`` in the current theme."""
    import matplotlib as mpl

    colors: list[str] = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    return colors[i % len(colors)]


def marker(i: int) -> str:
    """The marker of run ``i``."""
    return _MARKERS[i % len(_MARKERS)]


def fill(i: int) -> str:
    """How the markers of the i-th kind of one run are filled."""
    return _FILLS[i % len(_FILLS)]


def ink() -> str:
    """The colour of text in the current theme."""
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def integer_ticks(ax: Axes) -> None:
    """Only whole numbers below the x axis, as many as fit."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def count_axis(fig: Figure, ax: Axes, label: str) -> None:
    """The finished x axis of a curve over numbers of units or swaps, and the legend above it."""
    ax.set(xlabel=label, xlim=(-0.5, None))
    integer_ticks(ax)
    legend_above(fig, ax)


def draw_chance(ax: Axes, chance: float) -> None:
    """The chance error, as a dotted line with its name."""
    ax.axhline(100 * chance, lw=1, ls=":", color=ink())
    ax.annotate(
        "chance",
        (1, 100 * chance),
        xycoords=("axes fraction", "data"),
        ha="left",
        va="center",
        xytext=(3, 0),  # beside the axes, where no point can lie under it
        textcoords="offset points",
        fontsize=8.5,
    )


def is_narrow() -> bool:
    """Whether the current theme is for a phone."""
    import matplotlib as mpl

    return bool(mpl.rcParams["figure.figsize"][0] <= NARROW[0])


def legend_above(fig: Figure, ax: Axes, columns: int = 2) -> None:
    """One legend above the axes, where it covers no data."""
    handles, labels = ax.get_legend_handles_labels()
    columns = 1 if is_narrow() else columns
    fig.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9)
