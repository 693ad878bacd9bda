"""Plain against residual by depth: ``python docs/results/depth.py digits|fashion_mnist WORKDIR [DATA_DIR]``.

The same branches, parameters, initial weights and recipe with and without shortcuts, several seeds each.
A finished run is not repeated, and an interrupted one continues. After each run, depth_<data>.json and .png
beside this file are written anew with all finished runs. WORKDIR holds the runs; DATA_DIR is
``config.data.data_dir``.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import by_seed
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.studies import style
from resjax.studies.intervals import bootstrap
from resjax.studies.run import Run
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
KINDS = {"residual": "identity", "plain": "none"}
SEEDS = (0, 1, 2)


class Part(NamedTuple):
    """What differs from configs/digits.py: the data, the depths, and what the data ask for."""

    depths: tuple[int, ...]
    data: dict[str, Any]
    duration: str
    warmup: str


PARTS = {
    "digits": Part((8, 20, 32, 56), {}, "30 epochs", "3 epochs"),
    "fashion_mnist": Part(
        (8, 20, 32),
        # Half the resolution, 3,000 training images, 2,000 others for evaluation: affordable on two cores.
        {"name": "fashion_mnist", "image_size": 14, "train_examples": 3000, "holdout": 2000},
        "6 epochs",
        "1 epochs",
    ),
}


def config_of(part: Part, kind: str, depth: int, seed: int, data_dir: str) -> ConfigDict:
    """One run's configuration."""
    c = configs.load_file(HERE.parents[1] / "configs/digits.py")
    c.seed = seed
    c.model.depth, c.model.shortcut = depth, KINDS[kind]
    c.data.update({**part.data, "data_dir": data_dir})
    c.train.duration = c.eval.every = c.checkpoint.every = part.duration
    c.optimizer.warmup = part.warmup
    c.checkpoint.keep = 1
    return c


def measured(run: Run) -> dict[str, float]:
    """The errors of one run."""
    return {"train": by_seed.error_of(run, "train"), "test": by_seed.error_of(run, run.split)}


def plot(rows: list[dict[str, Any]], title: str) -> Any:
    """Training and test error by depth: means as lines, each seed as a point."""
    fig, ((left, right),) = style.axes_grid(1, 2, sharey=True)
    for ax, split in ((left, "train"), (right, "test")):
        for i, kind in enumerate(KINDS):
            own = [r for r in rows if r["kind"] == kind]
            depths = sorted({r["depth"] for r in own})
            x = [depths.index(r["depth"]) for r in own]
            y = np.array([100 * r[split] for r in own])
            means = [y[np.array(x) == k].mean() for k in range(len(depths))]
            look = {"color": style.color(i), "marker": style.marker(i)}
            ax.plot(range(len(depths)), means, label=kind, **look)
            ax.plot(x, y, ls="", alpha=0.5, ms=3.5, **look)
            ax.set_xticks(range(len(depths)), [str(d) for d in depths])
        shown = "training images" if split == "train" else "images not trained on"
        ax.set(xlabel="depth", title=f"{title}: {shown}")
    left.set_ylabel("error (%)")
    left.set_ylim(bottom=-0.03 * left.get_ylim()[1])
    style.legend_above(fig, left)
    return fig


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, interval over seeds, smallest and largest of each kind and depth."""
    found = []
    for kind, depth in dict.fromkeys((r["kind"], r["depth"]) for r in rows):
        own = [r for r in rows if (r["kind"], r["depth"]) == (kind, depth)]
        entry: dict[str, Any] = {"kind": kind, "depth": depth, "seeds": len(own)}
        for split in ("train", "test"):
            values = np.array([r[split] for r in own])
            ends = None
            if len(values) > 1:
                ends = [float(np.clip(v, 0, 1)) for v in bootstrap(values)]
            entry[split] = {
                "mean": float(values.mean()),
                "interval_95": ends,
                "range": [float(values.min()), float(values.max())],
            }
        found.append(entry)
    return found


def main(name: str, workdir: Path, data_dir: str) -> None:
    part = PARTS[name]
    rows: list[dict[str, Any]] = []
    runs = list(itertools.product(SEEDS, part.depths, KINDS))
    for number, (seed, depth, kind) in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {name}, {kind}, depth {depth}, seed {seed}", flush=True)
        config = config_of(part, kind, depth, seed, data_dir)
        folder = workdir / f"{name}-{kind}{depth}-seed{seed}"
        errors = by_seed.finish(config, folder, by_seed.measured_run(measured))
        print(f"  {errors}", flush=True)
        rows.append({"kind": kind, "depth": depth, "seed": seed, **errors})
        config.data.data_dir = ""
        record = {
            "made": {k: v for k, v in provenance().items() if k != "command"},
            "command": f"python docs/results/depth.py {name} WORKDIR [DATA_DIR]",
            "config": {**config.to_dict(), "seed": list(SEEDS), "kinds": KINDS},
            "finished": f"{number} of {len(runs)} runs",
            "summary": summary(rows),
            "runs": rows,
        }
        write(HERE / f"depth_{name}.json", json.dumps(record, indent=1) + "\n")
        if len({(r["kind"], r["depth"]) for r in rows}) == 2 * len(part.depths):
            with style.theme():
                figure = plot(rows, name.replace("_", "-"))
                figure.savefig(HERE / f"depth_{name}.png", dpi=150, facecolor="white")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in PARTS:
        raise SystemExit(f"{__doc__}\nallowed: {', '.join(PARTS)}")
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
