"""Effects of dropped units, BatchNorm and shortcuts on lesions and paths, on digits.

    python docs/results/digits_controls.py WORKDIR [SEEDS]

Trains seven networks by configs/digits.py and what ``CONTROLS`` lists beside it, for the seeds 0 … SEEDS − 1
(default 1), deletes each unit, and measures the exact gradient by path length on 256 training images. A
finished run is not repeated, and an interrupted one continues. digits_controls.json beside this file is
written anew after each run. The workdirs are runs like any other: compare them with
``python -m resjax.analyze``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import by_seed
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import models
from resjax.analysis import lesion, path_spectrum
from resjax.studies.run import Run
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
DEPTH = 20  # 9 units
CONTROLS: dict[str, dict[str, Any]] = {
    "full": {},
    # Huang et al. 2016: survival falls linearly to 0.5; branches are scaled at test.
    "stochastic": {"model.unit_dropout": "linear", "model.unit_survival": 0.5},
    # Veit et al. 2016, §5, in proportion: 23 of 54 units are 4 of 9.
    "effective": {"model.unit_dropout": "subset", "model.units_active": 4},
    "plain": {"model.shortcut": "none"},
    # Without BatchNorm a tenth of the rate, as in configs/cifar10_veit_plain.py.
    "plain_no_norm": {
        "model.shortcut": "none",
        "model.norm": False,
        "optimizer.learning_rate": 0.005,
    },
    # Veit's plain network of 15 layers, with 64 channels instead of 128: affordable on two cores.
    "veit15": {"model": "veit_plain", "model.width": 64, "optimizer.learning_rate": 0.005},
    "veit15_norm": {"model": "veit_plain", "model.width": 64, "model.norm": True},
}


def config_of(name: str, seed: int) -> ConfigDict:
    """One run's configuration."""
    c = configs.load_file(HERE.parents[1] / "configs/digits.py")
    c.seed = seed
    c.model.depth = DEPTH
    c.eval.every = c.checkpoint.every = c.train.duration
    c.checkpoint.keep = 1
    for field, value in CONTROLS[name].items():
        if field == "model":
            c.model = models.defaults(value)
            continue
        section, key = field.split(".")
        c[section][key] = value
    return c


def measured(run: Run) -> dict[str, Any]:
    """Deletions and paths of one run, as plain numbers."""
    images, labels = run.examples(run.split, 10_000)
    deleted = lesion(run.network, run.variables, images, labels, loss=run.loss)
    rise = (deleted.error - deleted.intact_error)[deleted.deletable]
    found = {
        "units": run.network.num_units,
        "error": deleted.intact_error,
        "deletable": int(deleted.deletable.sum()),
        "unit": list(deleted.unit),
        "error_without": [float(e) if np.isfinite(e) else None for e in deleted.error],
        "median_rise": float(np.median(rise)),
        "worst_rise": float(rise.max()),
        "may_go": int(np.sum(rise <= 0.01 + 1e-9)),
    }
    if run.residual:
        train = run.examples("train", 256)
        paths = path_spectrum(run.network, run.variables, *train, loss=run.loss, batch_size=64)
        found["paths"] = {
            "range_95": [int(v) for v in paths.effective[0]],
            "mean_length": float(paths.mean_length[0]),
        }
    return found


def main(workdir: Path, seeds: int) -> None:
    rows: list[dict[str, Any]] = []
    runs = [(seed, name) for seed in range(seeds) for name in CONTROLS]
    for number, (seed, name) in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {name}, seed {seed}", flush=True)
        folder = workdir / f"seed{seed}" / name
        found = by_seed.finish(config_of(name, seed), folder, by_seed.measured_run(measured))
        print(f"  {found}", flush=True)
        rows.append({"name": name, "seed": seed, **found})
        record = {
            "made": {k: v for k, v in provenance().items() if k != "command"},
            "command": f"python docs/results/digits_controls.py WORKDIR {seeds}",
            "config": {**config_of("full", 0).to_dict(), "seed": list(range(seeds))},
            "controls": CONTROLS,
            "finished": f"{number} of {len(runs)} runs",
            "runs": rows,
        }
        write(HERE / "digits_controls.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
