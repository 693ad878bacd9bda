"""Row 3 in kind: any layer deleted from a plain network leaves chance-level error (Veit et al. 2016, Fig. 3).

    python docs/results/plain_deletions.py WORKDIR [DATA] [--seeds=N] [--smoke]

*Protocol.* The plain network of 15 layers of ``configs/cifar10_veit_plain.py`` with 32 instead of 128
channels, without BatchNorm, and with it as a control; otherwise as ``by_seed.in_kind`` says. Each of the 13
layers that keep their shape is deleted in turn; 2,000 images that no network was trained on.

*Criterion, fixed before the training.* As in docs/results/claims.md: every deletion leaves 80 % error or more
(chance is 90 %), so the smallest of the 13 errors counts. An untrained network meets that, too. So the
intact network must have learned: 45 % error or less, half of chance; otherwise the row is undecided. The
control decides nothing.
"""

from __future__ import annotations

from pathlib import Path

import by_seed
import numpy as np
from by_seed import CHANCE, Criterion, Row

from resjax.analysis import lesion
from resjax.studies import style
from resjax.studies.run import Run

NETWORKS = {"plain": "plain15", "plain, BatchNorm": "plain15_bn"}
IMAGES = 2000
LEARNED = Criterion("error of the intact network ≤ 45 %", most=45)
DEAD = Criterion("each deletion leaves ≥ 80 % error", least=80)
DIVERGED: Row = {"error": CHANCE, "least": CHANCE, "median": CHANCE, "unit": [], "error_without": []}


def configs_of(data: str) -> by_seed.Configs:
    """seed → the configuration of each network."""
    return lambda seed: {name: by_seed.in_kind(label, seed, data) for name, label in NETWORKS.items()}


def measured(run: Run) -> Row:
    """The errors after each deletion that is possible."""
    found = lesion(run.network, run.variables, *run.examples(run.split, IMAGES), loss=run.loss)
    without = found.error[found.deletable]
    return {
        "error": found.intact_error,
        "least": float(without.min()),
        "median": float(np.median(without)),
        "unit": [u for u, can in zip(found.unit, found.deletable, strict=True) if can],
        "error_without": without.tolist(),
    }


def judged(rows: list[Row]) -> Row:
    """Row 3."""
    found = {}
    for name in NETWORKS:
        error, least = (100 * by_seed.column(rows, name, key) for key in ("error", "least"))
        found[name] = {
            "learned": by_seed.judge(LEARNED, error),
            "each deletion": by_seed.judge(DEAD, least),
            "median deletion": by_seed.estimate(100 * by_seed.column(rows, name, "median")),
        }
    own = found["plain"]
    learned = own["learned"]["verdict"] == "shown"
    return {"3": {"verdict": own["each deletion"]["verdict"] if learned else "undecided", **found}}


def plot(rows: list[Row]) -> style.Figure:
    """The error after each deletion: each seed thin, the mean thick."""
    fig, ((ax,),) = style.axes_grid(1, 1)
    for i, name in enumerate(NETWORKS):
        own = [r for r in rows if r["network"] == name and r["unit"]]
        for r in own:
            ax.plot(range(len(r["unit"])), 100 * np.array(r["error_without"]), lw=0.7, color=style.color(i))
        if own:
            mean = 100 * np.mean([r["error_without"] for r in own], axis=0)
            intact = 100 * np.mean([r["error"] for r in own])
            look = {"color": style.color(i), "marker": style.marker(i), "lw": 2.2}
            ax.plot(range(len(mean)), mean, label=f"{name} (intact: {intact:.0f} %)", **look)
            ax.set_xticks(range(len(mean)), own[0]["unit"], rotation=60, ha="right")
    style.draw_chance(ax, CHANCE)
    ax.axhline(DEAD.least, lw=1, ls="--", color=style.ink())
    ax.set(ylabel="error (%)", ylim=(0, 100))
    style.legend_above(fig, ax)
    return fig


def run(workdir: Path, options: by_seed.Options) -> Row:
    """Everything; see ``by_seed.run_all``."""
    return by_seed.run_all(
        "plain_deletions", configs_of(options.data), workdir, by_seed.measured_run(measured), judged, plot,
        options=options, diverged=DIVERGED,
    )  # fmt: skip


if __name__ == "__main__":
    by_seed.main(run, __doc__)
