"""Pretrained CIFAR-10 networks without some of their units: ``python docs/results/cut_pretrained.py ROOT
LABEL=WORKDIR:COUNT,COUNT…  [LABEL=… …]``.

WORKDIR is what ``python -m resjax.pretrained FILE --workdir=WORKDIR`` made, COUNT how many units go. The
order is greedy, by the loss on 512 training images. Each network is measured on the 10,000 test images as it
was cut, with BatchNorm's statistics re-estimated, with linear maps of rank 8, and after ``--epochs`` of
training on from the re-estimated one, with each of ``--seeds`` orders of batches. The workdirs of these
trainings are under ROOT; what is there is not repeated. Writes cut_pretrained.json, with versions and
machine.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resjax.cut.workdirs import cut_experiment, make_workdir
from resjax.models.layer_table import layer_table, totals
from resjax.network.cut import cut_variables
from resjax.studies.cutting.choose import order
from resjax.studies.cutting.cost import forward_pass, latency, median
from resjax.studies.cutting.maps import fit
from resjax.studies.intervals import bootstrap, wilson
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.run import Run, load_run
from resjax.training.experiment import Experiment, make_experiment
from resjax.training.loaded import measured
from resjax.workdir import atomic
from resjax.workdir.provenance import provenance

FILE = Path(__file__).resolve().with_name("cut_pretrained.json")
CHOOSE_ON, REFERENCE, RANK, BATCH = 512, 2048, 8, 128
WAYS = "as_cut", "re_estimated", "maps", "maps_re_estimated"
Row = dict[str, Any]


def error_of(run: Run, experiment: Experiment, variables: Any) -> Row:
    """Error on the evaluation set in %, with Wilson's 95 % interval over its images."""
    state = run.newest.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    return told(measured(experiment, state))


def told(sums: dict[str, float]) -> Row:
    count = int(sums["count"])
    share = sums["error"] / count
    ends = [round(100 * float(end), 2) for end in wilson(share, count)]
    return {"error_percent": round(100 * share, 2), "interval_95_percent": ends, "images": count}


def time_of(run: Run, experiment: Experiment, variables: Any) -> Row:
    """The forward pass of a batch, as a share of that of the intact network; both take turns."""
    x = np.random.default_rng(0).standard_normal((BATCH, *run.image_shape), np.float32)
    passes = {
        "intact": forward_pass(run.network, run.variables, x),
        "cut": forward_pass(experiment.task.network, variables, x),
    }
    turns = latency(passes, rounds=15, budget=20.0)
    middle, low, high = (round(float(v), 3) for v in median(turns["cut"] / turns["intact"]))
    return {"share": middle, "interval_95": [low, high], "batch": BATCH}


def trained_on(run: Run, units: list[str], variables: Any, where: Path, epochs: int, seed: int) -> Row:
    """The error after training on, in a workdir of its own."""
    path = where / f"seed{seed}"
    experiment = cut_experiment(run, units)
    experiment.config.seed, experiment.config.train.duration = seed, f"{epochs} epochs"
    experiment.config.eval.every = f"{epochs} epochs"
    experiment = make_experiment(experiment.config, run.experiment.dataset)
    if not (path / "config.json").exists():
        make_workdir(run, experiment, variables, path, units=units, by="greedy", recalibrated=True)
    command = [sys.executable, "-m", "resjax.train", f"--config={path}/config.py", f"--workdir={path}"]
    subprocess.run(command, check=True)
    last = [record for record in load_run(path).records if "test_error" in record][-1]
    return {"seed": seed, "error_percent": round(100 * last["test_error"], 2), "steps": last["step"] - 1}


def rows_of(
    label: str, workdir: str, counts: list[int], root: Path, epochs: int, seeds: int, kept: Row
) -> None:
    """Adds the rows of one network to ``kept``, which is saved after each measurement."""
    run = load_run(workdir)
    own = kept["networks"].setdefault(label, {"imported": run.starts[0].get("imported"), "rows": {}})
    if "order" not in own:
        own["intact"] = told(measured(run.experiment, run.newest))
        images = run.examples("train", CHOOSE_ON)
        chosen = order(run.network, run.variables, "greedy", choose_on=images, count=max(counts))
        own |= {"units": run.network.num_units, "order": list(chosen.units), "chosen_on": chosen.num_examples}
        save(kept)
    reference, _ = run.examples("train", REFERENCE, augmented=True)
    whole = totals(layer_table(run.network, run.image_shape))
    ready: dict[int, Any] = {}
    for count in counts:
        row, units = own["rows"].setdefault(str(count), {}), own["order"][:count]
        experiment = cut_experiment(run, units)
        network = experiment.task.network
        variables = cut_variables(run.network, run.variables, units, run.image_shape)
        ready[count] = reestimate(network, variables, reference, batch_size=BATCH)
        if "time" not in row:
            costs = totals(layer_table(network, run.image_shape))
            row["multiply_adds"] = round(costs.multiply_adds / whole.multiply_adds, 3)
            row["parameters"] = round(costs.parameters / whole.parameters, 3)
            row["as_cut"] = error_of(run, experiment, variables)
            row["re_estimated"] = error_of(run, experiment, ready[count])
            row["time"] = time_of(run, experiment, ready[count])
        if "maps" not in row:
            mapped = cut_experiment(run, units, ("linear", RANK))
            fitted = fit(run.network, run.variables, units, reference, "linear", RANK)
            row["maps"] = error_of(run, mapped, fitted)
            fitted = reestimate(mapped.task.network, fitted, reference, batch_size=BATCH)
            row["maps_re_estimated"] = error_of(run, mapped, fitted)
        save(kept)
        print(label, count, json.dumps(row), flush=True)
    for seed in range(seeds):
        for count in counts:
            row, units = own["rows"][str(count)], own["order"][:count]
            done = row.setdefault("trained_on", [])
            if all(one["seed"] != seed for one in done):
                where = root / f"{label}-{count}"
                done.append(trained_on(run, units, ready[count], where, epochs, seed))
                save(kept)
                print(label, count, json.dumps(done[-1]), flush=True)


def table(kept: Row) -> str:
    """Errors in %, in Markdown."""
    lines = [
        "| network | units gone | multiply-adds | time | as cut | BatchNorm re-estimated | linear maps | "
        "both | trained on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, own in kept["networks"].items():
        lines.append(
            f"| {label} | 0 of {own['units']} | 1 | 1 | {own['intact']['error_percent']:.2f} | | | | |"
        )
        for count, row in own["rows"].items():
            errors = [row[way]["error_percent"] for way in WAYS]
            seeds = np.array([one["error_percent"] for one in row["trained_on"]])
            low, high = bootstrap(seeds)
            low_time, high_time = row["time"]["interval_95"]
            cells = [
                label,
                f"{count} of {own['units']}",
                f"{row['multiply_adds']:.3f}",
                f"{row['time']['share']:.2f} ({low_time:.2f} to {high_time:.2f})",
                *(f"{error:.2f}" for error in errors),
                f"{seeds.mean():.2f} ({low:.2f} to {high:.2f})",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def save(kept: Row) -> None:
    atomic.write(FILE, json.dumps(kept, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("networks", nargs="+", metavar="LABEL=WORKDIR:COUNT,COUNT…")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    kept = json.loads(FILE.read_text()) if FILE.exists() else {"networks": {}}
    kept |= {"epochs": given.epochs, "made": provenance()}
    for text in given.networks:
        label, rest = text.split("=", 1)
        workdir, counts = rest.rsplit(":", 1)
        numbers = [int(count) for count in counts.split(",")]
        rows_of(label, workdir, numbers, given.root, given.epochs, given.seeds, kept)
    print(table(kept))


if __name__ == "__main__":
    main()
