"""What a figure tells the page's script: where units are, and which cells of the section's table are theirs.

No number is written twice: the script reads the cells of the table that the section shows anyway. Only the
values of maps, unit × unit, are in no table, so they are given here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resjax.report.compare import AT_INIT, Table
from resjax.studies.pointing import Place, Said
from resjax.studies.words import number

_PARTS = 10_000  # places are whole numbers of these parts of the picture's width or height


def script(forms: Mapping[str, Sequence[Place]], table: Table, labels: Mapping[str, Sequence[str]]) -> str:
    """The data of one figure as HTML; '' where it says nothing of units.

    Args:
      forms: {'wide' or 'narrow': places in that form of the figure}; both say the same.
      table: of the section.
      labels: {label in the figure: labels in the table, the first that has rows counts}.
    """
    first, *_ = forms.values()
    if not first:
        return ""
    data = {"said": [_said(place, table, labels) for place in first]}
    data |= {form: [_place(place) for place in places] for form, places in forms.items()}
    # A name may hold what ends a script.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="units">{text}</script>'


def _place(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {"frame": _parts(np.array(place.frame))}
    for name in ("x", "y"):
        ends = getattr(place, name)
        if ends is not None:
            found[name] = _parts(ends.ravel())
    return found


def _parts(shares: np.ndarray) -> list[int | None]:
    return [round(_PARTS * float(share)) if np.isfinite(share) else None for share in shares]


def _said(place: Place, table: Table, labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    said = place.said
    by = table.columns.index(said.by) if said.by else None
    own = next(i for i in range(len(table.columns)) if i not in (0, by))  # the column with the names
    shown = [
        i
        for i, column in enumerate(table.columns)
        if i not in (0, own, by) and (not said.columns or column.removesuffix(AT_INIT) in said.columns)
    ]
    found: dict[str, Any] = {
        "label": said.label,
        "names": said.names,
        "panel": place.panel,
        "rows": _rows(said, table, own, by, labels.get(said.label, [said.label])),
        "own": own,
        "columns": shown,
    }
    if by is not None:
        found["by"] = by
    if said.layers:
        found["layers"] = True
    if said.values is not None:
        found |= {"what": said.what, "values": [[number(v) for v in row] for row in said.values]}
    return found


def _rows(said: Said, table: Table, own: int, by: int | None, labels: Sequence[str]) -> list[list[int]]:
    """For each name, the numbers of its rows."""
    for label in labels:
        rows: dict[str, list[int]] = {}
        for i, row in enumerate(table.rows):
            if (not label or row[0] == label) and (not said.only or by is None or row[by] == said.only):
                rows.setdefault(row[own], []).append(i)
        found = [[*rows.get(name, ()), *rows.get(said.beside.get(name, ""), ())] for name in said.names]
        if any(found):
            return found
    return [[] for _ in said.names]
