"""Norms of every layer over training, of many runs in one picture: depth × plain or residual, say.

The lines of ``resjax.studies.signals.norms_over_training`` show the first and the last layers of a few
runs. Here each run is a column and each kind of norm a row; within a map, training goes from left to right
and the network from its first layer, at the top, to its last. A row has one scale of colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from resjax.studies import style
from resjax.studies.marks import plain_log_ticks
from resjax.studies.signals.norms_over_training import NormsOverTraining, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_maps(results: NormsOverTraining | Mapping[str, NormsOverTraining]) -> Figure:
    """Logarithmic maps [kind of norm, run] of layer by training step; blank where a norm is 0 or unknown.

    On a phone runs are rows and kinds columns.
    """
    from matplotlib.colors import LogNorm

    named = {"": results} if isinstance(results, NormsOverTraining) else dict(results)
    kinds, narrow = panels_of(named), style.is_narrow()
    if narrow:
        fig, grid = style.axes_grid(len(named), len(kinds))
        fig.set_size_inches(style.NARROW[0], 1.0 * len(named) + 1)
        rows = [list(column) for column in zip(*grid, strict=True)]
    else:
        fig, rows = style.axes_grid(len(kinds), len(named), sharex="col")
        width = max(style.WIDE[0], 1.5 * len(named))
        fig.set_size_inches(width, 1.35 * len(kinds) + 0.5)
    for row, (kind, name) in zip(rows, kinds.items(), strict=True):
        maps = [_shown(getattr(r, kind)) for r in named.values()]
        every = np.concatenate([m[np.isfinite(m)] for m in maps])
        if not len(every):
            every = np.ones(1)
        scale = LogNorm(every.min(), max(every.max(), every.min() * 1.01))
        image = None
        for ax, (label, r), values in zip(row, named.items(), maps, strict=True):
            ax.grid(False)
            if values.shape[-1]:
                number = 1 + np.arange(values.shape[-1])
                image = ax.pcolormesh(
                    r.step, number, values.T, norm=scale, cmap="viridis", rasterized=True
                )
                ax.set_yticks([1, len(number)])
            ax.invert_yaxis()
            ax.tick_params(labelsize=7 if narrow else 8)
            if narrow:
                ax.set_xticks(r.step[-1:])
            else:
                ax.locator_params(axis="x", nbins=2)
            if row is rows[0] and narrow:
                ax.set_ylabel(label, fontsize=8)
            elif row is rows[0]:
                ax.set_title(label, fontsize=9)
        if not narrow:
            row[0].set_ylabel("unit" if kind == "activation" else "layer")
        if image is not None:
            side: dict[str, Any] = {"location": "top" if narrow else "right"}
            bar = fig.colorbar(image, ax=row, aspect=8 if narrow else 12, pad=0.01, **side)
            bar.set_label(name.removesuffix(" of a unit") if narrow else name, fontsize=9)
            bar.ax.tick_params(labelsize=6.5 if narrow else 8)
            if narrow:
                ends = [float(every.min()), float(every.max())]
                bar.set_ticks(ends, labels=[f"{end:.0e}" for end in ends])
                bar.minorticks_off()
            elif every.max() < 100 * every.min():
                plain_log_ticks(bar.ax.yaxis)
    fig.supxlabel("training step", fontsize=9)
    if narrow:
        fig.supylabel("layer or unit, from the first to the last", fontsize=8)
    return fig


def _shown(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
