"""Figures as files (PNG, PDF) and as SVG for light and dark, wide and narrow screens."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from resjax.studies import style
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


def picture(draw: Draw, alt: str) -> str:
    """An HTML <picture> with all four variants, of which the browser chooses one."""
    narrow, dark = "(max-width: 640px)", "(prefers-color-scheme: dark)"
    sources = [
        (f"{dark} and {narrow}", _svg(draw, dark=True, narrow=True)),
        (dark, _svg(draw, dark=True, narrow=False)),
        (narrow, _svg(draw, dark=False, narrow=True)),
    ]
    inner = "".join(f'<source media="{media}" srcset="{data}">\n' for media, data in sources)
    return (
        f"<picture>\n{inner}"
        f'<img src="{_svg(draw, dark=False, narrow=False)}" alt="{escape(alt)}">\n</picture>'
    )


def _svg(draw: Draw, *, dark: bool, narrow: bool) -> str:
    buffer = io.BytesIO()
    with style.theme(dark=dark, narrow=narrow):
        draw().savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
