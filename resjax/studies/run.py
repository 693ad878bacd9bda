"""A run of ``resjax.train`` for analyses: the network, its variables at every checkpoint, the data, the log.

Only this file of ``resjax.studies`` reads workdirs, configurations and checkpoints.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import data
from resjax.data.info import TABLE
from resjax.network import Network, Variables
from resjax.network.losses import Loss
from resjax.network.refusal import Refusal
from resjax.studies.examples import evenly_spread
from resjax.studies.subject import Examples, Subject
from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import Experiment, load_experiment
from resjax.training.step import Task, TrainState, augmented
from resjax.workdir.paths import local
from resjax.workdir.records import Records
from resjax.workdir.workdir import find, loaded, read_starts, short_names
from resjax.workdir.writers import read_records

_REFERENCE = 2**30  # folded into a run's key for images that are augmented after training


@dataclasses.dataclass(frozen=True, eq=False)
class Run(Subject):
    """One finished or running run; use ``load_run``.

    Attributes:
      label: its name in figures and tables.
      workdir: its folder.
      experiment: what is built from its configuration.
      initial, newest: the states at step 0 and at the newest intact checkpoint.
      steps: steps of the checkpoints on disk up to it, oldest first; ``at`` loads one.
      records: the lines of metrics.jsonl, read from the file when they are used.
      starts: one entry for each start of the training: commit, versions, device, date, command.
      damaged: sentences on checkpoints that are newer than the newest intact one.
    """

    workdir: Path
    experiment: Experiment
    initial: TrainState
    newest: TrainState
    steps: tuple[int, ...]
    records: Records
    starts: list[dict[str, Any]]
    damaged: tuple[str, ...] = ()

    @property
    def config(self) -> ConfigDict:
        return self.experiment.config

    @property
    def network(self) -> Network:
        return self.experiment.task.network

    @property
    def loss(self) -> Loss:
        return self.experiment.task.loss

    @property
    def variables(self) -> Variables:
        """The variables of the newest checkpoint."""
        return self.newest.variables

    @property
    def initial_variables(self) -> Variables | None:
        """Those of step 0; where a run began with given weights, those of another network of the same
        kind."""
        return self.initial.variables

    @property
    def from_scratch(self) -> bool:
        return not any(map(loaded, self.starts))

    def at_start(self, variables: Variables) -> Run:
        """Itself as if ``variables``, those of step 0 up to their batch statistics, were its newest."""
        state = self.initial.replace(params=variables["params"], batch_stats=variables["batch_stats"])
        return dataclasses.replace(self, newest=state).reading_as(self)

    @property
    def step(self) -> int:
        """Training steps of the newest checkpoint."""
        return int(self.newest.step)

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.experiment.dataset.info.image_shape

    @property
    def split(self) -> str:
        """The evaluation set: 'test', or 'holdout' where training images were held out for it."""
        return "holdout" if self.config.data.holdout else "test"

    @functools.cached_property
    def fingerprint(self) -> list[float]:
        """Cheap, non-cryptographic checksum of the newest parameters, one number for each array."""
        leaves = jax.tree.leaves(self.newest.params)
        return [float(np.sum(np.abs(leaf), dtype=np.float64)) for leaf in leaves]

    @property
    def augmentation(self) -> str:
        """How training images are changed at random, in words; '' if they are not."""
        c = self.config.data
        crop = f"random crops after padding by {c.pad} pixels of {_PADDING[c.pad_with]}" if c.pad else ""
        if isinstance(self.experiment.dataset, data.Stream):
            crop = f"random crops ({c.crop!r})"
        flips = "random flips" if c.flip else ""
        operations = f"RandAugment ({c.randaugment}, {c.randaugment_magnitude:g})" if c.randaugment else ""
        return " and ".join(filter(None, (crop, flips, operations)))

    @property
    def train_batch_size(self) -> int:
        return int(self.config.train.batch_size)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return self.experiment.task.optimizer

    @property
    def seed(self) -> int:
        return int(self.config.seed)

    @property
    def told(self) -> str:
        return f"the checkpoint of step {self.step:,}"

    @property
    def told_initial(self) -> str:
        if self.from_scratch:
            return "the network of step 0, drawn from the seed"
        drawn = "a network of the same kind, drawn from the seed"
        if any("cut" in start for start in self.starts):
            return f"{drawn}; the network that was cut began as a larger one"
        return f"{drawn}; the initialization of the imported network is unknown"

    @property
    def kept(self) -> Path:
        return self.workdir / "studies"

    @property
    def identity(self) -> dict[str, Any]:
        """Configuration, checkpoints, log, and the source of a builder that is not ours."""
        return {
            "config": configs.to_json(self.config),
            "steps": self.steps,
            "parameters": self.fingerprint,
            "starts": [start.get("imported", start.get("cut")) for start in self.starts],
            "records": len(self.records),
            "builder": _own_builder(self.config.model.name),
        }

    def at(self, step: int) -> Variables:
        """The variables of a checkpoint, or of step 0, which follow from the seed.

        Raises:
          FileNotFoundError: no checkpoint of that step.
          ValueError: it is damaged.
        """
        known = {0: self.initial, self.step: self.newest}
        if step in known:
            return known[step].variables
        return Checkpoints(self.workdir).restore(self.initial, step).variables

    def examples(self, split: str, most: int, *, augmented: bool = False) -> Examples:
        """At most ``most`` examples: of ``run.split``, the first in an order that spreads them evenly over
        the evaluation set (``resjax.studies.examples.evenly_spread``); of 'train', the first training
        examples of the run.

        Args:
          split: 'train' or ``run.split``.
          most: maximum number of examples.
          augmented: crop and flip them at random as in training (``augmentation``), a function of the run's
            seed. Without it images are whole, except that streamed training images are randomly cropped.

        Raises:
          ValueError: an unknown split, or augmented images of the evaluation set.
        """
        if split not in ("train", self.split):
            raise ValueError(f"split={split!r}; this run has: 'train', {self.split!r}")
        if augmented and split != "train":
            raise ValueError(f"split={split!r}, augmented=True; only 'train' is augmented")

        def read() -> Examples:
            images, labels = _read(self.experiment.dataset, split, most, self.config.seed)
            task = self.experiment.task
            if augmented:
                prepared = _augmented(jnp.asarray(images), self.config.seed, task)
            else:
                prepared = data.standardize(jnp.asarray(images), task.constants)
            return np.asarray(prepared), labels

        return self._read_once(split, most, augmented, read)

    def count(self, split: str) -> int:
        """How many examples 'train' or ``run.split`` has."""
        info = self.experiment.dataset.info
        return info.num_train if split == "train" else info.num_test


_PADDING = {"mean": "the mean's value", "black": "black"}


def _augmented(images: jax.Array, seed: int, task: Task) -> jax.Array:
    """Training images as they are in some epoch; none of training's own draws is repeated."""
    key = jax.random.fold_in(jax.random.key(seed), _REFERENCE)
    return jax.jit(augmented, static_argnames="task")(images, jnp.arange(len(images)), key, task=task)


def _own_builder(name: str) -> str | None:
    """The source of a user's own builder, 'package.module:function': of its module, or of the function itself
    in a notebook."""
    module, colon, function = name.partition(":")
    if not colon:
        return None
    own = importlib.import_module(module)
    return inspect.getsource(getattr(own, function) if module == "__main__" else own)


def as_run(subject: Subject) -> Run:
    """``subject``, for a study of what only a run has.

    Raises:
      Refusal: it is no run; ``no_training`` says why.
    """
    if not isinstance(subject, Run):
        raise Refusal(NO_TRAINING)
    return subject


NO_TRAINING = "a given network has no training log and no checkpoints, as a run of resjax.train has"


def no_training(subject: Subject) -> str | None:
    """Why the training of ``subject`` can't be studied, or None."""
    return None if isinstance(subject, Run) else NO_TRAINING


def load_run(workdir: str | Path, label: str = "", *, allow_code: str | Sequence[str] = ()) -> Run:
    """Opens ``workdir`` with its newest intact checkpoint. Each damaged one is printed on standard error.

    Args:
      workdir: folder of the run.
      label: its name in figures and tables; by default that of the folder.
      allow_code: the names of builders outside of resjax, 'package.module:function', that config.json may
        name. Opening the run imports and runs such a module.

    Raises:
      FileNotFoundError: no run there, no checkpoint yet, or no data.
      ValueError: a URL instead of a folder, no intact checkpoint, one that is not of this run, or a builder
        that is not allowed.
    """
    path = local(workdir, reads=True)
    config = configs.load(path, allow_code)
    _check_paths(path, config)
    checkpoints = Checkpoints(path)
    if not checkpoints.steps:
        raise FileNotFoundError(
            f"{path} has no checkpoint yet; the first is saved after {config.checkpoint.every}"
        )
    experiment = load_experiment(config)
    initial = experiment.create_state()
    step, found = checkpoints.intact(initial, experiment.plan.total)
    newest = checkpoints.restore(initial, step)
    experiment.check_seed(newest)
    damaged = tuple(f"{text}. The checkpoint of step {step} is shown instead." for text in found.values())
    for text in damaged:
        print(text, file=sys.stderr)
    return Run(
        label=label or path.name,
        workdir=path,
        experiment=experiment,
        initial=initial,
        newest=newest,
        steps=tuple(s for s in checkpoints.steps if s <= int(newest.step)),
        records=read_records(path),
        starts=read_starts(path),
        damaged=damaged,
    )


def _check_paths(path: Path, config: ConfigDict) -> None:
    """Raises FileNotFoundError if the data of a run were moved, or their path starts in another folder."""
    field = "data_dir" if config.data.name in TABLE else "name"
    value = config.data[field]
    place = Path(value).expanduser()
    if value and config.data.name != "digits" and not place.exists():
        if place.is_absolute():
            since, remedy = "", "Write"
        else:
            since = f", relative to this folder, {Path.cwd()}"
            remedy = "Start in the folder where the training was started, or write"
        raise FileNotFoundError(
            f"{path}/config.json has data.{field}={value!r}, and there is no such file or folder{since}. "
            f"{remedy} the absolute path of the data into {path}/config.json"
        )


def load_runs(workdirs: list[str | Path], *, allow_code: str | Sequence[str] = ()) -> list[Run]:
    """Opens several runs; labels are the shortest ends of the paths that distinguish them.

    A pattern, such as ``runs/seed*``, stands for all runs that match it. ``allow_code`` is as in
    ``load_run``.

    Raises:
      ValueError: no workdir, or a repeated one.
      FileNotFoundError: as ``load_run``, or no run matches a pattern.
    """
    paths = find(workdirs)
    if not paths or len(set(paths)) < len(paths):
        raise ValueError(f"name one or more different workdirs, got {[str(w) for w in workdirs]}")
    named = zip(paths, short_names(paths), strict=True)
    return [load_run(path, label, allow_code=allow_code) for path, label in named]


def _read(dataset: data.Arrays | data.Stream, split: str, most: int, seed: int) -> Examples:
    train = split == "train"
    total = dataset.info.num_train if train else dataset.info.num_test
    count = min(most, total)
    spread = evenly_spread(total)[:count]
    if isinstance(dataset, data.Arrays):
        if train:
            rows = data.batch_indices(seed, 0, total, count)
            return dataset.train_images[rows], dataset.train_labels[rows]
        return dataset.test_images[spread], dataset.test_labels[spread]
    if train:
        batch = next(dataset.train_batches(seed, count))
        return batch["image"], batch["label"]
    in_file, back = np.unique(spread, return_inverse=True)  # files are read forwards
    part = dataclasses.replace(dataset, test_indices=dataset.test_indices[in_file])
    batches = list(part.test_batches(min(count, 256)))
    real = np.concatenate([b["mask"] for b in batches]) > 0
    images, labels = (np.concatenate([b[key] for b in batches]) for key in ("image", "label"))
    rows = np.flatnonzero(real)[back]
    return images[rows], labels[rows]
