"""What the scripts share that train several networks with several seeds: a module, not a command.

The unit of every number is a seed. It draws the training images, the initial weights and the order of the
batches, and networks with the same seed share all three as far as their shapes agree. So two networks are
compared seed by seed, with Student's t interval of the differences or ratios.

Each script fixes its criteria as ``Criterion``: the numbers of its row in docs/results/claims.json, scaled to
the size of the smaller network where they are points of error. They are judged by the whole interval
(``resjax.studies.judged``).
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.analysis import load_run
from resjax.cpu.compilation import compile_quickly, keep_compiled
from resjax.studies import style
from resjax.studies.intervals import bootstrap
from resjax.studies.judged import MET, MISSED, UNDECIDED, all_of, judged
from resjax.studies.run import Run
from resjax.train import train_and_evaluate
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance
from resjax.workdir.stopping import ends_process
from resjax.workdir.writers import read_records

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEEDS = 5
CHANCE = 0.9
VERDICTS = {MET: "shown", MISSED: "contradicted", UNDECIDED: "undecided"}  # as claims.json has them
Row = dict[str, Any]
ByNetwork = dict[str, ConfigDict]
Configs = Callable[[int], ByNetwork]
"""Seed → the configuration of each network."""


class Criterion(NamedTuple):
    """Allowed values of a mean over seeds, and what they are, in words."""

    text: str
    least: float = -math.inf
    most: float = math.inf


class Options(NamedTuple):
    """How a script runs."""

    data: str = ""  # see ``in_kind``
    seeds: int = SEEDS  # 0 … seeds − 1
    smoke: bool = False  # four steps each, to see that it runs
    where: Path = HERE  # folder of the results


def full_size(label: str) -> tuple[str, dict[str, Any]]:
    """A network of launch/reproduce.py: its file under configs/, and the fields that differ."""
    runs = runpy.run_path(str(ROOT / "launch/reproduce.py"))["RUNS"]
    net = next(nets[label] for nets in runs.values() if label in nets)
    return net.config, net.changes


def in_kind(
    label: str, seed: int, data: str, *, epochs: int = 30, changes: Mapping[str, Any] = MappingProxyType({})
) -> ConfigDict:
    """A network of launch/reproduce.py, made small enough for one core: depth 20, 8 to 32 channels.

    Fashion-MNIST at 8×8, 1,024 training images, no augmentation; evaluated on 5,000 other training images,
    so the test images are not used. The rate drops at one half and three quarters of the training, as at full
    size, after a warm-up of one epoch.

    Args:
      label: its name there.
      seed: of images, weights and batches.
      data: a folder with the prepared Fashion-MNIST ('' for the default one), or an .npz file of it.
      epochs: length of the training.
      changes: further fields, {"section.field": value}.
    """
    file, own = full_size(label)
    c = configs.load_file(ROOT / f"configs/{file}.py")
    small: dict[str, Any] = {"model.width": 32}
    if "widths" in c.model:
        small = {"model.depth": 20, "model.widths": (8, 16, 32)}
    for field, value in (own | small | dict(changes)).items():
        section, name = field.split(".")
        c[section][name] = value
    c.seed = c.data.split_seed = seed
    c.data.update({"name": "fashion_mnist", "image_size": 8, "pad": 0, "flip": False})
    # Mean and standard deviation of all 60,000 images at 8×8: with those of its own images, constants of
    # its programs, every seed would be compiled anew.
    c.data.standardize, c.data.mean, c.data.std = "channel", (0.290,), (0.293,)
    c.data.train_examples, c.data.holdout = 1024, 5000
    c.data["name" if data.endswith(".npz") else "data_dir"] = data or c.data.data_dir
    c.train.batch_size = 32
    c.train.duration = c.eval.every = c.checkpoint.every = f"{epochs} epochs"
    c.optimizer.boundaries = (f"{epochs / 2:g} epochs", f"{epochs * 3 / 4:g} epochs")
    c.optimizer.warmup, c.optimizer.warmup_shape = "1 epochs", "linear"
    c.log.every, c.checkpoint.keep = "1 epochs", 1
    return c


def shortened(config: ConfigDict) -> ConfigDict:
    """The form of a configuration that only shows that it runs: four steps, few images, few units."""
    if "widths" in config.model:
        config.model.depth, config.model.units_active = 8, min(config.model.units_active, 1)
    config.data.train_examples, config.data.holdout = 64, 40
    config.train.duration = config.eval.every = config.checkpoint.every = "4 steps"
    config.log.every, config.optimizer.boundaries = "2 steps", ("1 steps", "3 steps")
    return config


def finish(
    config: ConfigDict, workdir: Path, measure: Callable[[Path], Row], diverged: Row | None = None
) -> Row:
    """The numbers of one run. A finished run is not repeated, and an interrupted one continues.

    Args:
      config: of the run; another one than that of an earlier run in ``workdir`` is refused.
      workdir: the run's folder, which also keeps the numbers.
      measure: workdir → JSON-ready numbers.
      diverged: the numbers of a run whose training diverges; None to raise ``FloatingPointError``.
    """
    kept = workdir / "measured.json"
    if not kept.is_file():
        try:
            train_and_evaluate(config, workdir)
        except FloatingPointError as error:
            if diverged is None:
                raise
            found = {**diverged, "diverged": str(error)}
        else:
            found = measure(workdir)
        write(kept, json.dumps(found))
    return json.loads(kept.read_text())


DIVERGED: Row = {"train_error": 1.0, "loss": float("inf"), "error": 1.0}
"""The ``errors`` of a run whose training diverged."""


def errors(workdir: Path) -> Row:
    """From a run's log: error of the last epoch's training batches, loss and error of the last evaluation."""
    records = read_records(workdir)
    last = next(r for r in reversed(records) if "holdout_loss" in r or "test_loss" in r)
    split = "holdout" if "holdout_loss" in last else "test"
    trained = next(r for r in reversed(records) if "loss" in r)
    return {"train_error": trained["error"], **{k: last[f"{split}_{k}"] for k in ("loss", "error")}}


def error_of(run: Run, split: str) -> float:
    """Share of wrong predictions in inference mode, over all images of a split."""
    images, labels = run.examples(split, 100_000)
    predict = jax.jit(lambda x: run.network.apply(run.variables, x).logits.argmax(-1))
    wrong = [np.sum(predict(images[i : i + 500]) != labels[i : i + 500]) for i in range(0, len(labels), 500)]
    return float(sum(wrong) / len(labels))


def measured_run(measure: Callable[[Run], Row]) -> Callable[[Path], Row]:
    """A measurement of a run as one of its workdir."""
    return lambda workdir: measure(load_run(workdir))


def estimate(values: Sequence[float] | np.ndarray) -> Row:
    """Mean over seeds, Student's t interval (None with one seed), and each seed."""
    values = np.asarray(values, float)
    ends = [float(v) for v in bootstrap(values)] if len(values) > 1 else None
    return {"mean": float(values.mean()), "interval_95": ends, "seeds": len(values), "each": values.tolist()}


def judge(criterion: Criterion, values: Sequence[float] | np.ndarray) -> Row:
    """What seeds say to a criterion; without an interval, undecided."""
    found = estimate(values)
    low, high = found["interval_95"] or (math.nan, math.nan)
    said = judged(low, high, least=criterion.least, most=criterion.most)
    return {"criterion": criterion.text, **found, "verdict": VERDICTS[said]}


def verdict_of(criteria: Mapping[str, Row]) -> str:
    """The verdict of a row that asks for all of its criteria."""
    words = {word: said for said, word in VERDICTS.items()}
    return VERDICTS[all_of(words[one["verdict"]] for one in criteria.values())]


def column(rows: Sequence[Row], network: str, name: str) -> np.ndarray:
    """One number of a network, by seed; the seeds have the same order in every network."""
    return np.array([r[name] for r in rows if r["network"] == network], float)


def draw_errors(rows: Sequence[Row], paper: Sequence[str] = ()) -> style.Figure:
    """Training and other errors of every network: seeds as points, the mean as a bar, its interval as a line.

    Args:
      rows: of all networks and seeds.
      paper: the paper's number of each network, shown to the right.
    """
    fig, (axes,) = style.axes_grid(1, 2, sharey=True)
    networks = list(dict.fromkeys(r["network"] for r in rows))
    for ax, name in zip(axes, ("train_error", "error"), strict=True):
        for y, network in enumerate(networks):
            found = estimate(100 * column(rows, network, name))
            points = {"ls": "", "marker": "o", "ms": 3.5, "alpha": 0.6, "color": style.color(0)}
            ax.plot(found["each"], [y] * found["seeds"], **points)
            ax.plot([found["mean"]], [y], ls="", marker="|", ms=12, mew=2, color=style.color(1))
            if found["interval_95"]:
                ends = np.clip(found["interval_95"], 0, 100)  # t intervals of small errors go below 0
                ax.plot(ends, [y, y], lw=1.2, color=style.color(1))
    axes[0].set(xlabel="error (%)", title="training batches of the last epoch")
    axes[1].set(xlabel="error (%)", title="images not trained on")
    axes[0].set_yticks(range(len(networks)), [n.replace("_", " ") for n in networks])
    axes[0].invert_yaxis()
    at: Row = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 8.5}
    for y, error in enumerate(paper):
        axes[1].annotate(error, (1, y), xytext=(4, 0), va="center", **at)
    if paper:
        axes[1].annotate("paper:", (1, -0.7), xytext=(4, 0), va="center", **at)
    return fig


def training_errors(rows: Sequence[Row]) -> Row:
    """The error of each network in the training batches of the last epoch, in percent; decides nothing."""
    networks = dict.fromkeys(r["network"] for r in rows)
    return {name: estimate(100 * column(rows, name, "train_error")) for name in networks}


def run_all(
    script: str,
    configs_of: Configs,
    workdir: Path,
    measure: Callable[[Path], Row],
    judge_rows: Callable[[list[Row]], Row],
    plot: Callable[[list[Row]], style.Figure],
    *,
    options: Options,
    diverged: Row | None = None,
) -> Row:
    """Trains and measures every network with every seed; writes SCRIPT.json and .png after each seed.

    All networks of the first seed come before the next seed, so that what is there can always be compared.

    Args:
      script: the script's name without .py, that of its results.
      configs_of: seed → {network: configuration}.
      workdir: for the runs, WORKDIR/NETWORK-seedN. Scripts that give a network the same name share its runs.
      measure: workdir of a run → its numbers.
      judge_rows: rows → verdicts.
      plot: rows → figure.
      options: see ``Options``.
      diverged: see ``finish``.

    Returns:
      What was written last.
    """
    seeds = range(options.seeds)
    rows: list[Row] = []
    record: Row = {}
    for seed in seeds:
        chosen = configs_of(seed)
        for network, config in chosen.items():
            config = shortened(config) if options.smoke else config
            found = finish(config, workdir / f"{network}-seed{seed}", measure, diverged)
            rows.append({"network": network, "seed": seed, **found})
            print(f"{network}, seed {seed}: {errors_in_words(found)}", flush=True)
        first = next(iter(chosen.values()))
        record = {
            "made": {k: v for k, v in provenance().items() if k != "command"},
            "command": f"python docs/results/{script}.py WORKDIR [DATA]",
            "data": "Fashion-MNIST at 8×8; each seed draws its own training and evaluation images",
            "config": recorded(first, list(seeds)),
            "differences": {network: configs.differences(first, c) for network, c in chosen.items()},
            "finished": f"{len(rows)} of {len(seeds) * len(chosen)} runs",
            "judged": judge_rows(rows),
            "runs": rows,
        }
        write(options.where / f"{script}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        with style.theme():
            plot(rows).savefig(options.where / f"{script}.png", dpi=150, facecolor="white")
    return record


def recorded(config: ConfigDict, seeds: list[int]) -> Row:
    """A configuration as plain numbers, with all seeds and without folders of this machine."""
    found = config.to_dict()
    found["data"] |= {"name": "fashion_mnist", "data_dir": "", "split_seed": seeds}
    return found | {"seed": seeds}


def errors_in_words(found: Row) -> str:
    """The errors of one run, for the terminal."""
    return ", ".join(
        f"{name.replace('_', ' ')} {100 * found[name]:.1f} %"
        for name in ("train_error", "error")
        if name in found
    )


def main(run: Callable[[Path, Options], Row], about: str | None) -> None:
    """The command of a script: WORKDIR [DATA] [--seeds=N] [--smoke]. Compiled programs are kept on disk."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=form)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("data", nargs="?", default="")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    compile_quickly()
    keep_compiled()
    where = given.workdir if given.smoke else HERE
    with ends_process():
        record = run(given.workdir, Options(given.data, given.seeds, given.smoke, where))
    print(json.dumps(record["judged"], indent=1, ensure_ascii=False))
