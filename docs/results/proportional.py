"""Is the error proportional to the number of deleted units? ``python docs/results/proportional.py``.

Reads random deletions that were measured before, and fits what ``resjax.studies.lesions.proportion`` tells:
the line of mean errors, the sum of single rises, and both without the worst units. Nothing is trained and no
network is run. ResNet-110's checkpoint is gone, and only 30 of its 54 units were deleted alone on the 500
images of its random sets; its single rises are those of 10,000 test images (``veit110_short/lesion.json``).
Writes proportional.json and proportional.png beside this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from resjax.studies import style
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.lesion import Lesion
from resjax.studies.lesions.proportion import (
    Line,
    additive,
    line_of,
    single_rises,
    sum_of_rises,
    worst_units,
)
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
# {label: file of random deletions, the network in it, file of single deletions of other images}
NETWORKS = {
    "ResNet-110, CIFAR-10": ("veit110_short/deletions.json", "veit110", "veit110_short/lesion.json"),
    "ResNet-56, CIFAR-10": ("proportional/resnet56.json", "resnet56", None),
    "ResNet-20, CIFAR-10": ("proportional/resnet20.json", "resnet20", None),
    "ResNet-56, digits": ("proportional/residual.json", "residual", None),
}
TOLD = (5, 7, 10)  # deleted units


def of_line(line: Line) -> dict[str, Any]:
    """The line for the record."""
    reach = {"R² of 0.95 or more up to": line.range}
    if not line.up_to:
        return {"fitted up to": None, **reach}
    return {
        "fitted up to": line.up_to,
        "slope": line.slope,
        "slope_interval_95": line.slope_interval,
        "R²": line.r2,
        "R²_interval_95": line.r2_interval,
        **reach,
    }


def read(file: str, network: str, singles: str | None) -> tuple[Deletions, dict[str, np.ndarray]]:
    """Random deletions, and the rises of error and KL by single ones."""
    result = Deletions.from_json(json.loads((HERE / file).read_text("utf-8"))["runs"][network]["result"])
    if singles is None:
        rises = {what: single_rises(result, what) for what in ("error", "kl")}
        return result, {what: rise for what, rise in rises.items() if rise is not None}
    lesion = Lesion.from_json(json.loads((HERE / singles).read_text("utf-8"))["runs"][network]["result"])
    return result, {"error": lesion.error - lesion.intact_error, "kl": lesion.kl}


def described(result: Deletions, rises: dict[str, np.ndarray]) -> dict[str, Any]:
    """Everything that is fitted to one network."""
    worst = worst_units(result, rises["error"])
    hit = np.asarray(result.deleted[:, worst].any(1))
    record: dict[str, Any] = {
        "units": len(result.unit),
        "images": result.num_examples,
        "sets": len(result.number),
        "intact_error": result.intact_error,
        "worst units": {result.unit[u]: float(rises["error"][u]) for u in worst},
    }
    for what in ("error", "kl"):
        sums = additive(result, rises[what], what)
        values, predicted = getattr(result, what), sum_of_rises(result, rises[what], what)
        record[what] = {
            "mean": {int(k): float(v) for k, v in zip(*line_of(result, what)[:2], strict=True)},
            "line": of_line(line_of(result, what)),
            "line without the worst": of_line(line_of(result, what, ~hit)),
            "mean single rise": float(np.nanmean(rises[what])),
            "rank correlation of the sum of rises": [sums.rank, *sums.rank_interval],
            "rank correlation of the number": [sums.number_rank, *sums.number_interval],
            "by number": {
                k: {
                    "mean": float(values[at].mean()),
                    "sum of rises": float(predicted[at].mean()),
                    "median without the worst": side(values[at & ~hit]),
                    "median with one of them": side(values[at & hit]),
                }
                for k in TOLD
                if (at := result.number == k).any()
            },
        }
    return record


def side(values: np.ndarray) -> list[float | int | None]:
    """The median and the number of sets."""
    return [float(np.median(values)) if len(values) else None, len(values)]


def draw(found: dict[str, tuple[Deletions, dict[str, np.ndarray]]]) -> style.Figure:
    """Mean errors with their lines, the sum of single rises, and means without the worst units (hollow)."""
    fig, panels = style.panels(len(found), columns=2, height=1.0, wide=1.0)
    for i, (ax, (label, (result, rises))) in enumerate(zip(panels, found.items(), strict=True)):
        hit = np.asarray(result.deleted[:, worst_units(result, rises["error"])].any(1))
        color, mark = style.color(i), style.marker(i)
        everything = np.ones(len(hit), bool)
        for rows, face, name in ((everything, color, "mean"), (~hit, "none", "without the worst")):
            line = line_of(result, rows=rows)
            bars = 100 * np.nan_to_num(np.stack([line.mean - line.low, line.high - line.mean]).clip(0))
            ax.errorbar(line.amount, 100 * line.mean, bars, fmt=mark, color=color, mfc=face, label=name)
            if line.up_to and rows is everything:
                ends = np.array([0, line.up_to])
                ax.plot(ends, 100 * (line.mean[0] + line.slope * ends), "-", color=color, label="line")
        predicted = sum_of_rises(result, rises["error"])
        k = np.unique(result.number)
        sums = np.array([result.intact_error, *(predicted[result.number == n].mean() for n in k)])
        ax.plot(np.append(0, k), 100 * sums, ":", color=style.ink(), label="sum of single rises")
        ax.set(title=label, ylim=(-3, 104), xlabel="deleted units", ylabel="error (%)")
        style.integer_ticks(ax)
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper left", ncols=2 if style.is_narrow() else 4, fontsize=9)
    return fig


def main() -> None:
    found = {label: read(*where) for label, where in NETWORKS.items()}
    networks = {label: described(*own) for label, own in found.items()}
    record = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": "python docs/results/proportional.py",
        "measured": {label: where[0] for label, where in NETWORKS.items()},
        "networks": networks,
    }
    write(HERE / "proportional.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    for label, own in networks.items():
        print(label, json.dumps({k: v for k, v in own["error"].items() if k != "mean"}, ensure_ascii=False))
    with style.theme():
        fig = draw(found)
        fig.set_facecolor("white")
        fig.savefig(HERE / "proportional.png", dpi=130)


if __name__ == "__main__":
    main()
