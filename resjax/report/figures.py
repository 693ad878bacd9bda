"""Figures as files (PNG, PDF) and as SVG for light and dark, wide and narrow screens."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from resjax.report import pointed
from resjax.report.compare import Table
from resjax.studies import style
from resjax.studies.pointing import Place, places
from resjax.workdir.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[], "Figure"]


def save(draw: Draw, directory: Path, name: str) -> list[Path]:
    """Writes ``name.png`` (200 dots an inch) and ``name.pdf``, on white."""
    # fontTools logs every font of a PDF at a level that absl prints.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    paths = [directory / f"{name}.png", directory / f"{name}.pdf"]
    with style.theme():
        figure = draw()
        with replacing(paths[0]) as file:
            figure.savefig(file, format="png", dpi=200, facecolor="white")
        with replacing(paths[1]) as file:
            figure.savefig(file, format="pdf", facecolor="white", metadata={"CreationDate": None})
    return paths


def picture(draw: Draw, alt: str, table: Table, labels: Mapping[str, Sequence[str]]) -> str:
    """An HTML <picture> with all four variants, of which the browser chooses one, and where its units are
    (``resjax.report.pointed``, which says what ``table`` and ``labels`` are)."""
    narrow, dark = "(max-width: 640px)", "(prefers-color-scheme: dark)"
    light, wide = _svg(draw, dark=False, narrow=False)
    light_narrow, slim = _svg(draw, dark=False, narrow=True)
    sources = [
        (f"{dark} and {narrow}", _svg(draw, dark=True, narrow=True)[0]),
        (dark, _svg(draw, dark=True, narrow=False)[0]),
        (narrow, light_narrow),
    ]
    inner = "".join(f'<source media="{media}" srcset="{data}">\n' for media, data in sources)
    return (
        f'<picture>\n{inner}<img src="{light}" alt="{escape(alt)}">\n</picture>'
        f"{pointed.script({'wide': wide, 'narrow': slim}, table, labels)}"
    )


def _svg(draw: Draw, *, dark: bool, narrow: bool) -> tuple[str, list[Place]]:
    """The figure as a data URL, and where its units are."""
    buffer = io.BytesIO()
    with style.theme(dark=dark, narrow=narrow):
        figure = draw()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        found = places(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}", found
