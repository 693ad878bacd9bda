"""Networks that are trained in memory: those that were cut, for a short time, and others of their depth.

*Training on.* The weights that are left are trained with the recipe of the intact network for a short time: a
tenth of its learning rate, which falls to 0 by a cosine, a fresh optimizer, no teacher. That is how
``resjax.cut`` sets up the training of a cut run. Steps, batches and augmentation are those of
``resjax.train`` (``resjax.training.step``, ``feed``), as functions of the seed.

*From scratch.* A network of the same depth, drawn from the seed and trained with the whole recipe. It is the
control for the claim that a cut network is worth its weights (Liu et al. 2019, arXiv:1810.05270, "Rethinking
the value of network pruning"). It gets all steps that the cut network got: those of the intact network and
those of training on.

Nothing is written. A training ends at the first step whose result is not finite, and has then no result.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.cpu.memory import ENOUGH, forget_programs
from resjax.network import Network, Variables
from resjax.network.cut import cut, cut_variables
from resjax.studies.batches import Progress, part
from resjax.studies.cutting.cut_result import Cut, tried_further
from resjax.studies.cutting.made import mean_wrong
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.run import Run, as_run
from resjax.studies.study import Bench
from resjax.studies.units.insertion import start_from
from resjax.training.devices import Devices
from resjax.training.experiment import make_experiment
from resjax.training.feed import Feed
from resjax.training.loaded import set_fine_tuning
from resjax.training.step import state_maker

# The rate of a training is divided by this, where weights are trained already.
SLOWER = 10


def short_schedule(run: Run) -> ConfigDict:
    """The configuration of ``run`` with a short schedule, for a network that was cut from its own."""
    config = run.config.copy_and_resolve_references()
    rate = config.optimizer.learning_rate
    # Of a run that began with given weights, the schedule is such a short one already.
    set_fine_tuning(config, rate / SLOWER if run.from_scratch else rate)
    return config


def scratch_schedule(run: Run, more: int) -> ConfigDict:
    """The recipe of ``run`` for as many steps as it was trained, and ``more``."""
    config = run.config.copy_and_resolve_references()
    config.train.duration = f"{run.step + more} steps"
    return config


def train(
    run: Run,
    config: ConfigDict,
    network: Network,
    start: Variables | None,
    seed: int,
    progress: Progress | None = None,
) -> Variables | None:
    """The variables of ``network`` after a training on the data of ``run``; None where it diverged.

    Args:
      run: whose data are used.
      config: schedule, optimizer and the like. Its model is not read.
      network: what is trained.
      start: variables with which it begins; None for those that the seed draws.
      seed: of the order of the batches and of all random draws.
      progress: counts steps; it may raise, which ends the training.
    """
    config = config.copy_and_resolve_references()
    config.seed = seed
    experiment = make_experiment(config, run.experiment.dataset)
    experiment.check_batch_size()
    total, size = experiment.plan.total, config.train.batch_size
    task = dataclasses.replace(experiment.task, network=network, norms_every=total + 1, activations=False)
    some = jax.devices()
    devices = Devices(config.parallel.mode, some if size % len(some) == 0 else some[:1])
    if start is None:
        state = state_maker(task, run.image_shape)(jax.random.key(seed))
    else:
        # From the host, since variables that were read from a checkpoint stay on its device.
        state = start_from(task, jax.device_get(start), seed)
    state = devices.copy(state)
    feed, program = Feed(config, run.experiment.dataset, devices, 0), devices.train_program(task)
    step = 0
    while step < total:
        if progress:
            progress(step, total)
        count = min(config.train.steps_per_dispatch, total - step)
        now, some_steps = feed.batches(step, count), (jnp.int32(step), jnp.int32(count))
        state, metrics = program(state, feed.images, now, *some_steps, None)
        if not np.asarray(metrics["finite"]).all():
            return None
        step += count
    if progress:
        progress(total, total)
    own: Variables = jax.device_get(state.variables)
    return own


def trained_further(
    bench: Bench, result: Cut, images: Any, labels: np.ndarray, reference: Any, progress: Progress
) -> dict[str, Any]:
    """The fields of ``result`` that come from training, at the numbers of units where it is tried.

    Args:
      bench: of a ``Run``. Its options say how long, how often, and whether from scratch, too; its choices
        record what was done.
      result: without these fields.
      images, labels: on which errors are measured.
      reference: images on which BatchNorm's statistics are re-estimated before the training.
      progress: counts steps of trainings.
    """
    run, options = as_run(bench.run), bench.options
    config = short_schedule(run)
    config.train.duration = options.cut_training
    steps = configs.steps_of(options.cut_training, run.experiment.plan.per_epoch, "cut_training")
    configurations = {"trained": config}
    rate = config.optimizer.learning_rate
    bench.choices["trained on"] = f"{steps} steps, learning rate {rate:g} at first, cosine, no teacher"
    bench.choices["from scratch"] = _not_from_scratch(run) if options.cut_scratch else "not at all"
    if not bench.choices["from scratch"]:
        configurations["scratch"] = long = scratch_schedule(run, steps)
        bench.choices["from scratch"] = f"{long.train.duration} with the recipe of the intact network"
    seeds = [run.seed + i for i in range(options.cut_seeds)]
    further = tried_further(result.found, len(result.number))
    found = {name: np.full((len(result.number), len(seeds)), np.nan) for name in configurations}
    work = [(i, j, name) for i in further for j in range(len(seeds)) for name in configurations]
    starts: dict[int, tuple[Network, Variables]] = {}
    for done, (i, j, name) in enumerate(work):
        if i not in starts:
            names = [result.unit[unit] for unit in result.order[: result.number[i]]]
            starts[i] = _mended(run, names, reference, options.batch_size)
        network, variables = starts[i]
        forget_programs(ENOUGH)  # a training takes as much memory as everything before it
        start = variables if name == "trained" else None
        tell = part(progress, done, len(work))
        own = train(run, configurations[name], network, start, seeds[j], tell)
        if own is not None:
            found[name][i, j] = mean_wrong(network, own, images, labels, run.metric, options.batch_size)
    return {"training": options.cut_training, **found}


def _not_from_scratch(run: Run) -> str:
    """Why no network can be trained with the budget of ``run``; '' where one can."""
    if not run.from_scratch:
        return "not trained, because the run began with given weights: the steps behind them are not known"
    if run.config.train.teacher:
        return "not trained, because the run learned from a teacher"
    return ""


def _mended(run: Run, gone: list[str], reference: Any, batch_size: int) -> tuple[Network, Variables]:
    """The network of ``run`` without these units, BatchNorm's statistics re-estimated."""
    network, variables = run.network, run.variables
    if jax.tree.leaves(variables["batch_stats"]):
        gates = np.array([unit.name not in gone for unit in network.units], np.float32)
        variables = reestimate(network, variables, reference, gates=gates, batch_size=batch_size)
    smaller = cut(network, gone, run.image_shape)
    return smaller, cut_variables(network, variables, gone, run.image_shape)
