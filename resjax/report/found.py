"""What was found in a given network: its units as a table and as a picture, the first section of a report."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from resjax.discovery import Found, FoundUnit
from resjax.report.compare import Table
from resjax.studies import pointing, style
from resjax.studies.words import capital, count, join

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORTCUTS = {
    "identity": "the state itself",
    "linear": "without parameters, such as padding",
    "affine": "with parameters, such as a projection",
    "nonlinear": "more than that",
}
"""{kind of shortcut: what it is}, from the least to the most."""


def headline(found: Found) -> str:
    """'16 residual units: 12 with identity and 4 with affine shortcuts.'."""
    kinds = [unit.shortcut for unit in found.units]
    told = [f"{kinds.count(kind)} with {kind}" for kind in SHORTCUTS if kind in kinds]
    last = "shortcut" if len(kinds) == 1 else "shortcuts"
    return f"{count(len(kinds), 'residual unit')}: {join(told)} {last}."


def points(found: Found) -> list[str]:
    """Where the parameters are, and what is unusual."""
    own, there = sum(unit.parameters for unit in found.units), {unit.shortcut for unit in found.units}
    kinds = [f"{kind} ({what})" for kind, what in SHORTCUTS.items() if kind in there]
    told = [
        f"The network has {found.num_parameters:,} parameters, {own:,} of them in the branches of units.",
        f"Shortcuts: {join(kinds)}.",
        *(f"{capital(remark)}." for remark in found.remarks),
    ]
    if bypassed := [unit.name for unit in found.units if unit.bypassed]:
        told.append(
            f"Other connections bypass {join(bypassed)}. So units can be deleted, but there are no paths, "
            "prefixes or orders of units."
        )
    return told


def table(found: Found) -> Table:
    """One row for each unit, in order."""
    names, *rows = found.table()
    return Table(tuple(names), [tuple(row) for row in rows])


def to_json(found: Found) -> dict[str, Any]:
    """The units, for found.json."""
    return {
        "units": [dataclasses.asdict(unit) for unit in found.units],
        "remarks": list(found.remarks),
        "parameters": found.num_parameters,
    }


def plot(found: Found) -> Figure:
    """The chain of units: a bar for each, as high as its share of all parameters, in the colour of its
    shortcut, and hatched where it is bypassed; a line where the state changes its shape, which stands above.
    """
    fig, ax = style.axes()
    units, total = found.units, max(found.num_parameters, 1)
    for i, kind in enumerate(SHORTCUTS):
        for bypassed in (False, True):
            own = [k for k, u in enumerate(units) if (u.shortcut, u.bypassed) == (kind, bypassed)]
            if own:
                ax.bar(
                    own,
                    [100 * units[k].parameters / total for k in own],
                    0.7,
                    color=style.color(i),
                    hatch="////" if bypassed else None,
                    label=f"{kind} shortcut{', bypassed' * bypassed}",
                )
    starts = [k for k, u in enumerate(units) if k == 0 or u.shape != units[k - 1].shape]
    for start, end in zip(starts, [*starts[1:], len(units)], strict=True):
        if start:
            ax.axvline(start - 0.5, lw=0.8, ls=":", color=style.ink())
        if len(starts) <= _MOST_SHAPES:
            style.label_above(ax, (start + end - 1) / 2, _shape(units[start]))
    pointing.along(ax, "", [unit.name for unit in units], np.arange(len(units)))
    ax.set(xlabel="unit", ylabel="parameters (% of all)", xlim=(-0.7, len(units) - 0.3))
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig


_MOST_SHAPES = 5  # more would not stand beside each other


def _shape(unit: FoundUnit) -> str:
    """The shape of a unit's output, such as '56×56×256'."""
    return "×".join(map(str, unit.shape))
