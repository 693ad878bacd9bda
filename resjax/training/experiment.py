"""Builds data, network, loss, optimizer, and durations in steps from a configuration."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import data, models
from resjax.data.info import TABLE
from resjax.network import Network, losses, shuffle
from resjax.training.optimizer import make_optimizer, schedule
from resjax.training.step import Metrics, Task, TrainState, state_maker


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations in steps; ``per_epoch`` is fractional if the batch size does not divide the data set."""

    total: int
    log: int
    evaluate: int
    save: int
    per_epoch: float

    def next_event(self, step: int) -> int:
        """The first step after ``step`` with a log record, an evaluation, a checkpoint, or the end."""
        events = (self.log, self.evaluate, self.save)
        return min(self.total, *((step // every + 1) * every for every in events))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration, and what is built from it."""

    config: ConfigDict
    dataset: data.Arrays | data.Stream
    task: Task
    plan: Plan

    def record(self, step: int, sums: Metrics | None = None) -> dict[str, Any]:
        """The first fields of a record at ``step``; with the ``sums`` of an evaluation, the whole record."""
        begun = {"step": step, "epoch": round(step / self.plan.per_epoch, 4)}
        if sums is None:
            return begun
        split = "holdout" if self.config.data.holdout else "test"
        count = float(sums["count"])
        return begun | {f"{split}_{k}": float(sums[k]) / count for k in ("loss", "error")}

    def check_batch_size(self) -> None:
        """Raises ValueError for a batch of more examples than there are; only training needs this."""
        size, most = self.config.train.batch_size, self.dataset.info.num_train
        if size > most:
            raise ValueError(
                f"train.batch_size={size} is more than the {most:,} examples of training; use "
                f"--config.train.batch_size={most} or less"
            )

    @property
    def key(self) -> jax.Array:
        """The random key of the run."""
        return jax.random.key(self.config.seed)

    def check_seed(self, state: TrainState) -> None:
        """Raises ValueError if ``state`` is that of a run with another seed."""
        _, own = jax.random.split(self.key)  # as in ``first_state``
        saved, ours = (np.asarray(jax.random.key_data(key)) for key in (state.key, own))
        if not np.array_equal(saved, ours):
            raise ValueError(
                f"the checkpoint of step {int(state.step)} has another seed than its configuration, "
                f"{self.config.seed}: it is of another run. Copy checkpoints and config.json from one run"
            )

    @functools.cached_property
    def lowered_state(self) -> jax.stages.Lowered:
        """The program from a random key to the state at step 0, not yet compiled."""
        make = state_maker(self.task, self.dataset.info.image_shape)
        return make.lower(jax.eval_shape(lambda: jax.random.key(0)))

    def create_state(self) -> TrainState:
        """The state at step 0."""
        return self.lowered_state.compile()(self.key)

    @property
    def state_shapes(self) -> TrainState:
        """Shapes and dtypes of a state; nothing is compiled."""
        return self.lowered_state.out_info


def load_experiment(config: ConfigDict) -> Experiment:
    """Reads the data and builds everything else.

    Raises:
      ValueError, FileNotFoundError: an invalid configuration or missing data, before any long work.
    """
    configs.check(config)
    if config.data.name in TABLE:  # reject an invalid network before reading the data
        info = data.info(config.data)
        _build(config, info)
    return make_experiment(config, data.load(config.data))


def make_experiment(config: ConfigDict, dataset: data.Arrays | data.Stream) -> Experiment:
    """As ``load_experiment``, with a loaded data set."""
    configs.check(config)
    info = dataset.info
    network = _build(config, info)
    per_epoch = info.num_train / config.train.batch_size

    def steps(duration: str, field: str) -> int:
        return max(configs.steps_of(duration, per_epoch, field), 1)

    plan = Plan(
        total=steps(config.train.duration, "train.duration"),
        log=steps(config.log.every, "log.every"),
        evaluate=steps(config.eval.every, "eval.every"),
        save=steps(config.checkpoint.every, "checkpoint.every"),
        per_epoch=per_epoch,
    )
    loss: losses.Loss
    if config.train.loss == "rbf_map":
        loss = functools.partial(losses.rbf_map, rubbish=config.train.rbf_rubbish)
    else:
        smoothing = config.train.label_smoothing
        loss = functools.partial(losses.cross_entropy, label_smoothing=smoothing)
    rate = schedule(config.optimizer, plan.total, per_epoch)
    task = Task(
        network=network,
        loss=loss,
        optimizer=make_optimizer(config.optimizer, rate),
        rate=rate,
        constants=data.statistics(dataset, config.data.standardize, config.data.pad_with),
        pad=config.data.pad,
        flip=config.data.flip,
        norms_every=plan.log,
        activations=config.log.activations,
        operations=config.data.randaugment,
        magnitude=config.data.randaugment_magnitude,
        probability=config.data.randaugment_probability,
        mixup=config.train.mixup,
        cutmix=config.train.cutmix,
        shuffle=config.train.shuffle,
        ema=config.train.ema,
    )
    return Experiment(config, dataset, task, plan)


def _build(config: ConfigDict, info: data.Info) -> Network:
    """The network of a configuration, for the images and classes of ``info``."""
    network = models.build(config.model, image_shape=info.image_shape, num_classes=info.num_classes)
    if not config.model.get("cut"):  # what is left of a network that was shuffled may have no equal units
        shuffle.check(network, config.train.shuffle)
    return network
