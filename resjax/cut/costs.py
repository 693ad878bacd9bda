"""What a cut saves: parameters, multiply-adds, and the time of compiled programs, intact beside cut."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from resjax.data.files import read_json
from resjax.models.layer_table import layer_table, totals
from resjax.report.progress import Task
from resjax.studies.cutting.cost import Program, forward_pass, latency, median, training_step
from resjax.studies.run import Run
from resjax.studies.words import count, percent
from resjax.training.experiment import Experiment
from resjax.training.step import TrainState
from resjax.workdir import atomic
from resjax.workdir.provenance import provenance

FILE = "costs.json"
PROGRAMS = ("one", "batch", "step")  # forward passes of an image and of an evaluation batch, a training step
BUDGET, _ROUNDS = 15.0, 15
Costs = dict[str, dict[str, Any]]


def counted(run: Run, experiment: Experiment) -> Costs:
    """{what: {"intact": number, "cut": number}}, from shapes alone."""
    networks = {"intact": run.network, "cut": experiment.task.network}
    sums = {name: totals(layer_table(network, run.image_shape)) for name, network in networks.items()}
    return {
        "units": {name: network.num_units for name, network in networks.items()},
        "parameters": {name: one.parameters for name, one in sums.items()},
        "multiply-adds of an image": {name: one.multiply_adds for name, one in sums.items()},
    }


def timed(
    run: Run,
    experiment: Experiment,
    state: TrainState,
    task: Task,
    programs: Collection[str] = PROGRAMS,
    budget: float = BUDGET,
) -> Costs:
    """{program: {"intact": seconds of its turns, "cut": …}}.

    Inputs are random. The programs of a row take turns on one device; see ``resjax.studies.cutting.cost``.

    Args:
      run: that of the intact network.
      experiment, state: of the cut network.
      task: shows the progress.
      programs: some of ``PROGRAMS``.
      budget: seconds for the turns of each.
    """
    both = {"intact": (run.experiment, run.newest), "cut": (experiment, state)}
    rng, config = np.random.default_rng(0), experiment.config
    found: Costs = {}

    def measure(name: str, both: dict[str, Program]) -> None:
        with task(f"the time of {name}") as tell:
            turns = latency(both, rounds=_ROUNDS, budget=budget, progress=tell)
        found[name] = {which: seconds.tolist() for which, seconds in turns.items()}

    sizes = {"one": 1, "batch": config.eval.batch_size}
    for size in dict.fromkeys(sizes[program] for program in programs if program in sizes):
        x = rng.standard_normal((size, *run.image_shape), np.float32)
        passes = {
            which: forward_pass(own.task.network, its.variables, x) for which, (own, its) in both.items()
        }
        measure(f"a forward pass of {count(size, 'image')}", passes)
    if "step" not in programs:
        return found
    size = config.train.batch_size
    batch = {
        "image": rng.integers(0, 256, (size, *run.image_shape), np.uint8),
        "label": np.zeros(size, np.int32),
        "slot": np.arange(size, dtype=np.int32),
    }
    steps = {which: training_step(own.task, its, batch) for which, (own, its) in both.items()}
    measure(f"a training step of {count(size, 'image')}", steps)
    return found


def table(counts: Costs, seconds: Costs) -> Table:
    """Both networks side by side; times are medians, ratios have 95 % intervals over rounds."""
    made = Table("", show_edge=False, pad_edge=False)
    for head in ("intact", "cut", "ratio"):
        made.add_column(head, justify="right")
    for name, own in counts.items():
        ratio = f"{own['cut'] / own['intact']:.3f}" if own["intact"] else "–"  # layers may not be seen
        made.add_row(name, f"{own['intact']:,}", f"{own['cut']:,}", ratio)
    for name, own in seconds.items():
        intact, cut = (np.array(own[which]) for which in ("intact", "cut"))
        middle, low, high = median(cut / intact)
        times = (f"{1000 * float(np.median(values)):.3g} ms" for values in (intact, cut))
        made.add_row(f"time of {name}", *times, f"{middle:.3f} ({low:.3f} to {high:.3f})")
    return made


def write(workdir: Path, counts: Costs, seconds: Costs, errors: dict[str, float]) -> None:
    """Keeps them in the workdir of the cut network, with versions and machine.

    ``errors`` are {"intact": share of wrong predictions on the evaluation set, "cut": …}, or {}.
    """
    record = {"provenance": provenance(), "counts": counts, "errors": errors, "seconds": seconds}
    atomic.write(workdir / FILE, json.dumps(record, indent=1) + "\n")


def read(workdir: Path) -> dict[str, Any]:
    """What ``write`` kept."""
    return read_json(workdir / FILE, dict, "Cut the network again, into another folder")


def in_one_sentence(label: str, record: dict[str, Any]) -> str:
    """What a cut of the network ``label`` saves and costs, from what ``write`` kept."""
    before, after = (record["counts"]["units"][which] for which in ("intact", "cut"))
    said = f"Without {before - after} of its {before} units, {label}"
    told = []
    if record["errors"]:
        intact, cut = (percent(record["errors"][which]) for which in ("intact", "cut"))
        told.append(f"has {cut} test error instead of {intact}")
    for name, own in record["seconds"].items():
        middle, low, high = median(np.array(own["cut"]) / np.array(own["intact"]))
        told.append(f"{name} takes {middle:.2f} of the time ({low:.2f} to {high:.2f})")
    return f"{said} {' and '.join(told) or 'was not measured'}."
