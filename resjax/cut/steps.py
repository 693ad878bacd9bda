"""From a run to the run without some of its units: choose, cut, mend, save, measure.

``python -m resjax.cut`` is this function with flags. In Python::

    from resjax.analysis import load_run
    from resjax.cut.steps import cut_run

    cut_run(load_run("runs/deep"), "runs/shorter", rise=1.0)
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from resjax.cut import costs
from resjax.cut.workdirs import cut_experiment, make_workdir
from resjax.models.layer_table import layer_table, totals
from resjax.network.cut import cut, cut_variables
from resjax.report.progress import Task, progress
from resjax.studies.batches import Inference
from resjax.studies.cutting.choose import Chosen, how_many, order
from resjax.studies.cutting.maps import fit
from resjax.studies.intervals import wilson
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.options import Checked, option
from resjax.studies.run import Run
from resjax.training.experiment import Experiment
from resjax.training.loaded import evaluate, measured, need_free
from resjax.workdir.paths import writable
from resjax.workdir.stopping import phase

# What each rule does, for the line that says why these units go.
_WHY = {
    "greedy": "each round cuts the unit whose deletion gives the lowest loss",
    "single": "by the loss when each alone is deleted, the lowest first",
    "similarity": "those that turn the state least, by the angular distance of blocks of neighbours",
    "random": "at random",
    "last": "the last of the network first",
}


@dataclasses.dataclass(frozen=True)
class CutOptions(Checked):
    """Numbers, which are options of the command."""

    examples: int = option(512, "maximum number of training images on which units are chosen")
    reference: int = option(2048, "maximum number of training images for maps and for BatchNorm's statistics")
    map_rank: int = option(8, "rank of --map=linear")
    batch_size: int = option(128, "images at a time; only re-estimated statistics depend on it")
    seed: int = option(0, "seed of --by=random", least=0)


def cut_run(
    run: Run,
    out: str | Path,
    *,
    by: str = "greedy",
    maps: tuple[str, int] | None = None,
    recalibrate: bool = True,
    evaluated: bool = True,
    programs: Collection[str] = costs.PROGRAMS,
    budget: float = costs.BUDGET,
    options: CutOptions | None = None,
    **criterion: Any,
) -> Experiment:
    """Makes the workdir ``out``, a run without some units of ``run``, and prints what went and what it costs.

    Args:
      run: any; it is not changed.
      out: a folder without a run, created if absent.
      by: the rule by which units go, one of ``resjax.studies.cutting.choose.BY``.
      maps: kind and rank of the maps in the place of units (``resjax.network.maps``), or None.
      recalibrate: whether BatchNorm's statistics are re-estimated, where there are some.
      evaluated: whether both errors are measured on the evaluation set.
      programs: whose times are measured, of ``costs.PROGRAMS``.
      budget: seconds for the turns of each program.
      options: numbers.
      criterion: exactly one of count, flops and rise (``how_many``), or ``units``, names.

    Returns:
      The experiment of the cut network.

    Raises:
      ValueError: ``out`` holds a run, or units that do not exist or can't be cut, before anything is written.
      Stopped: a signal; ``out`` has no run, or a whole one.
    """
    options = options or CutOptions()
    path = writable(out, "--out")
    need_free(out, "--out")
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    with progress(console) as task:
        if "units" in criterion:
            units, by = tuple(dict.fromkeys(criterion["units"])), "hand"
            said = f"{len(units)} units were named: {', '.join(units)}"
        else:
            chosen, count = choose(run, by, options, task, **criterion)
            units, said = chosen.units[:count], choice_told(chosen, count)
        experiment = cut_experiment(run, units, maps)
        recalibrated = recalibrate and bool(jax.tree.leaves(run.variables["batch_stats"]))
        variables = _mended(run, experiment, units, maps, recalibrated, options, task)
    state = make_workdir(
        run, experiment, variables, path, units=units, by=by, recalibrated=recalibrated, maps=maps
    )
    print(said, flush=True)
    if maps:
        rank = f" of rank {maps[1]}" if maps[0] == "linear" else ""
        print(f"{maps[0]} maps{rank} stand in the place of what was cut, fitted by least squares")
    print(f"BatchNorm's statistics were {'' if recalibrated else 'not '}re-estimated")
    errors = {}
    if evaluated:
        smaller = evaluate(experiment, state, path)
        with phase("the intact network was evaluated", f"the cut network and its error are saved in {path}"):
            whole = measured(run.experiment, run.newest)
        print(errors_told(run, whole, smaller), flush=True)
        errors = {name: sums["error"] / sums["count"] for name, sums in (("intact", whole), ("cut", smaller))}
    counts, seconds = costs.counted(run, experiment), {}
    if programs:
        with progress(console, f"{out} is whole, but has no {costs.FILE}") as task:
            seconds = costs.timed(run, experiment, state, task, programs, budget)
    costs.write(path, counts, seconds, errors)
    Console(highlight=False).print(costs.table(counts, seconds))
    return experiment


def choose(run: Run, by: str, options: CutOptions, task: Task, **criterion: Any) -> tuple[Chosen, int]:
    """The order of units by rule ``by``, and how many of them go by one criterion of ``how_many``."""
    network, shape = run.network, run.image_shape
    choose_on = run.examples("train", options.examples)
    count, seed = criterion.get("count"), options.seed
    with task(f"choice of units on {len(choose_on[1]):,} training images") as tell:
        how = Inference(loss=run.loss, metric=run.metric, batch_size=options.batch_size, progress=tell)
        chosen = order(network, run.variables, by, choose_on=choose_on, count=count, seed=seed, **how)

    @functools.cache
    def multiply_adds(k: int) -> int:
        return totals(layer_table(cut(network, chosen.units[:k], shape), shape)).multiply_adds

    return chosen, how_many(chosen, multiply_adds, **criterion)


def choice_told(chosen: Chosen, count: int) -> str:
    """What goes, why, and what it costs on the images on which it was chosen."""
    before, behind = (f"{100 * chosen.error[k]:.2f} %" for k in (0, count))
    return (
        f"{count} of the {chosen.pool} units that can be cut, {_WHY[chosen.by]}: "
        f"{', '.join(chosen.units[:count])}\n"
        f"chosen on {chosen.num_examples:,} training images, not augmented, not on the evaluation set. "
        f"The error on them is {before} intact and {behind} as cut, which is too low for new images"
    )


def errors_told(run: Run, whole: dict[str, float], smaller: dict[str, float]) -> str:
    """Both errors on the evaluation set, with 95 % intervals over its images."""
    said = []
    for name, sums in (("intact", whole), ("cut", smaller)):
        share = sums["error"] / sums["count"]
        low, high = (100 * float(end) for end in wilson(share, int(sums["count"])))
        said.append(f"{name} {100 * share:.2f} % ({low:.2f} to {high:.2f})")
    return f"error on the {int(whole['count']):,} {run.split} images: {', '.join(said)}"


def _mended(
    run: Run,
    experiment: Experiment,
    units: Sequence[str],
    maps: tuple[str, int] | None,
    recalibrated: bool,
    options: CutOptions,
    task: Task,
) -> dict[str, Any]:
    """The variables of the network of ``experiment``, that of ``run`` without ``units``: with maps fitted, if
    there are any, and BatchNorm's statistics re-estimated, if these are ``recalibrated``."""
    if maps or recalibrated:
        reference, _ = run.examples("train", options.reference, augmented=True)
    if maps:
        with task(f"maps on {len(reference):,} training images") as tell:
            how: Any = {"batch_size": options.batch_size, "progress": tell}
            variables = dict(fit(run.network, run.variables, units, reference, *maps, **how))
    else:
        variables = dict(cut_variables(run.network, run.variables, units, run.image_shape))
    if recalibrated:
        with task(f"BatchNorm's statistics on {len(reference):,} training images") as tell:
            network, size = experiment.task.network, options.batch_size
            variables = reestimate(network, variables, reference, batch_size=size, progress=tell)
    return variables
