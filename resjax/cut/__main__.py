"""Cut units out of the network of a run: ``python -m resjax.cut --workdir=A --out=B --rise=1``.

B becomes a run whose network is that of A without some of its units.

How many units go is said by one of --count=N, --flops=0.7 (the fewest that leave at most this share of the
multiply-adds) and --rise=1 (as many as raise the error by at most one point), or --units=… names them::

    python -m resjax.cut --workdir=runs/deep --out=runs/shorter --rise=1

--by says which ones: greedy (in each round the one whose deletion gives the lowest loss), single (by the loss
when each alone is deleted), similarity (those that turn the state least, blocks of neighbours taken
together), random, or last. Choices are made on training images; no image of the evaluation set is used.

The network in B is smaller: the variables of the units are gone. BatchNorm's statistics are re-estimated on
training images. With --map=affine or --map=linear, a map stands in the place of what was cut, fitted by least
squares. The times of both networks are measured, and kept in B/costs.json. B is a run like any other::

    python -m resjax.analyze --workdir=B
    python -m resjax.train --config=B/config.py --workdir=B
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from rich.console import Console

from resjax import command
from resjax import config as configs
from resjax.cut import costs
from resjax.cut.workdirs import cut_experiment, make_workdir, told
from resjax.models.layer_table import layer_table, totals
from resjax.network.cut import cut, cut_variables
from resjax.network.maps import KINDS
from resjax.report.progress import Task, progress
from resjax.studies.batches import Inference
from resjax.studies.cutting.choose import BY, Chosen, how_many, order
from resjax.studies.cutting.maps import fit
from resjax.studies.intervals import wilson
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.options import Checked, option
from resjax.studies.run import Run, load_run
from resjax.training.cores import share_cores_to_analyse
from resjax.training.experiment import Experiment
from resjax.training.loaded import evaluate, measured, need_free
from resjax.workdir.paths import local, writable
from resjax.workdir.stopping import phase

# What each rule does, for the line that says why these units go.
_WHY = {
    "greedy": "each round cuts the unit whose deletion gives the lowest loss",
    "single": "by the loss when each alone is deleted, the lowest first",
    "similarity": "those that turn the state least, by the angular distance of blocks of neighbours",
    "random": "at random",
    "last": "the last of the network first",
}
_HOW_MANY = ("units", "count", "flops", "rise")


@dataclasses.dataclass(frozen=True)
class CutOptions(Checked):
    """Options of the command that are numbers."""

    examples: int = option(512, "maximum number of training images on which units are chosen")
    reference: int = option(2048, "maximum number of training images for maps and for BatchNorm's statistics")
    map_rank: int = option(8, "rank of --map=linear")
    batch_size: int = option(128, "images at a time; only re-estimated statistics depend on it")
    seed: int = option(0, "seed of --by=random", least=0)


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


def _criterion() -> dict[str, Any]:
    """The one flag that says how many units go, {its name: its value}.

    Raises:
      Misuse: there is none, or more than one.
    """
    given = {name: flags.FLAGS[name].value for name in _HOW_MANY}
    criterion = {name: value for name, value in given.items() if value is not None}
    if len(criterion) != 1:
        named = " and ".join(f"--{name}" for name in criterion) or "none of them"
        raise command.Misuse(
            f"say how many units go by one of --units=NAMES, --count=N, --flops=SHARE and --rise=POINTS; "
            f"got {named}"
        )
    if criterion.get("units") == []:
        raise command.Misuse("--units names no unit; give names such as stage2/unit3,stage2/unit4")
    return criterion


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


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    workdir, out, criterion = _WORKDIR.value or "", _OUT.value or "", _criterion()
    command.refuse_unknown("--by", [_BY.value], BY)
    command.refuse_unknown("--map", [_MAP.value], ("none", *KINDS))
    options = command.chosen(CutOptions, _OPTIONS)
    maps = None if _MAP.value == "none" else (_MAP.value, options.map_rank)
    path = writable(out, "--out")
    need_free(out, "--out")
    allow_code = _ALLOW_CODE.value or []
    share_cores_to_analyse(configs.load(local(workdir, reads=True), allow_code))
    run = load_run(workdir, allow_code=allow_code)
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    with progress(console) as task:
        if "units" in criterion:
            units, by = tuple(dict.fromkeys(criterion["units"])), "hand"
            said = f"{len(units)} units were named: {', '.join(units)}"
        else:
            chosen, count = choose(run, _BY.value, options, task, **criterion)
            units, by, said = chosen.units[:count], chosen.by, choice_told(chosen, count)
        experiment = cut_experiment(run, units, maps)
        recalibrated = _RECALIBRATE.value and bool(jax.tree.leaves(run.variables["batch_stats"]))
        variables = _mended(run, experiment, units, maps, recalibrated, options, task)
    state = make_workdir(
        run, experiment, variables, path, units=units, by=by, recalibrated=recalibrated, maps=maps
    )
    print(said, flush=True)
    if maps:
        rank = f" of rank {maps[1]}" if maps[0] == "linear" else ""
        print(f"{maps[0]} maps{rank} stand in the place of what was cut, fitted by least squares")
    print(f"BatchNorm's statistics were {'' if recalibrated else 'not '}re-estimated")
    if _EVALUATE.value:
        smaller = evaluate(experiment, state, path)
        with phase("the intact network was evaluated", f"the cut network and its error are saved in {path}"):
            whole = measured(run.experiment, run.newest)
        print(errors_told(run, whole, smaller), flush=True)
    counts, seconds = costs.counted(run, experiment), {}
    if _LATENCY.value:
        with progress(console, f"{out} is whole, but has no {costs.FILE}") as task:
            seconds = costs.timed(run, experiment, state, task)
    costs.write(path, counts, seconds)
    Console(highlight=False).print(costs.table(counts, seconds))
    print(command.done(out, run.config.model.name))
    print(f"Train it on ({told(experiment.config)}): {command.training_on(out)}")


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run whose network is cut")
    _OUT = flags.DEFINE_string("out", None, "folder of the new run, created if absent")
    flags.DEFINE_list("units", None, "names of the units to cut, such as stage2/unit3,stage2/unit4")
    flags.DEFINE_integer("count", None, "number of units to cut")
    flags.DEFINE_float("flops", None, "share of the multiply-adds to keep at most, between 0 and 1")
    flags.DEFINE_float("rise", None, "most points by which the error on the images for choosing may rise")
    _BY = flags.DEFINE_string("by", "greedy", f"which units go, by one of {', '.join(BY)}")
    about = "re-estimate BatchNorm's statistics after the cut, on training images as in training"
    _RECALIBRATE = flags.DEFINE_bool("recalibrate", True, about)
    about = "measure both errors on the evaluation set (long for ImageNet on a CPU)"
    _EVALUATE = flags.DEFINE_bool("evaluate", True, about)
    _ALLOW_CODE = command.define_allow_code()
    about = f"what stands in the place of units that were cut: one of none, {', '.join(KINDS)}"
    _MAP = flags.DEFINE_string("map", "none", about)
    _LATENCY = flags.DEFINE_bool(
        "latency", True, "measure the time of both networks; it compiles six programs"
    )
    _OPTIONS = command.define_options(CutOptions)
    flags.mark_flags_as_required(["workdir", "out"])
    command.run(_main)
