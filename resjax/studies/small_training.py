"""Trains several small networks in a claim: the same training as ``resjax.train``, without a run's folder.

A claim about trained networks needs several seeds of several recipes. Each is a configuration, as for
``python -m resjax.train``, and is trained by ``resjax.training.step.train_steps`` on the same batches::

    recipe = digits_recipe(600, depth=20)
    trained = train([with_numbers(recipe, seed=s) for s in range(3)])
    trained[0].variables, trained[0].loss    # after training; the loss of each step [steps]

*Cost.* Compilation takes as long as hundreds of steps of a small network. Seed, learning rate and weight
decay are numbers that the compiled program takes as arguments, so configurations that differ in nothing else
share one program. Two trainings run at a time, because a small one keeps only one core busy.

*What is absent.* No checkpoint, no evaluation between steps, no log: only the first and the last variables,
and the loss and the error of each training batch. Streamed data sets are refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import data
from resjax.network import Network, Variables
from resjax.network.losses import cross_entropy
from resjax.network.refusal import Refusal
from resjax.studies.batches import BATCH_SIZE, Progress, per_example, reported
from resjax.studies.run import Examples
from resjax.studies.units.insertion import start_from
from resjax.training.experiment import Experiment, load_experiment
from resjax.training.optimizer import make_optimizer, schedule
from resjax.training.step import Batch, Task, TrainState, first_state, train_steps


class Trained(NamedTuple):
    """One trained network."""

    network: Network
    initial: Variables  # before the first step
    variables: Variables  # after the last step
    loss: np.ndarray  # [steps], mean over each training batch, before its update; NaN after divergence
    error: np.ndarray  # [steps], share of wrong predictions in the same batches

    @property
    def diverged(self) -> bool:
        """Whether training ended early, at a step whose result was not finite."""
        return bool(np.isnan(self.loss).any())


class Sets(NamedTuple):
    """Standardized images and their labels."""

    train: Examples
    held_out: Examples | None  # training images that no network is trained on, with ``data.holdout``
    test: Examples
    num_classes: int


class Evaluated(NamedTuple):
    """Mean loss and share of wrong predictions, 0 … 1."""

    loss: float
    error: float


class _Numbers(NamedTuple):
    """What a compiled program takes as arguments."""

    rate: Any  # the peak of the schedule
    weight_decay: Any


def digits_recipe(steps: int, **model: Any) -> ConfigDict:
    """The configuration of claims about residual networks: scikit-learn's digits, 1,100 of the 1,400 training
    images and 300 held out, batches of 32, a rate that rises in the first tenth of the steps and falls to 0
    by a cosine.

    Args:
      steps: 10 or more.
      **model: fields of ``config.model``; by default a post-activation ResNet-20 with half the width.
    """
    c = configs.default("resnet", **({"depth": 20, "widths": (8, 16, 32), "placement": "post"} | model))
    c.data.holdout = 300
    c.train.batch_size, c.train.duration = 32, f"{steps} steps"
    c.optimizer.schedule, c.optimizer.warmup = "cosine", f"{steps // 10} steps"
    return c


def with_numbers(
    recipe: ConfigDict,
    *,
    seed: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
) -> ConfigDict:
    """A copy of a configuration with other values of what needs no new compilation; None keeps a value."""
    c = recipe.copy_and_resolve_references()
    c.seed = c.seed if seed is None else seed
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if value is not None:
            c.optimizer[name] = float(value)
    return c


def examples(recipe: ConfigDict) -> Sets:
    """The images of a configuration, all standardized by its training images."""
    experiment = load_experiment(recipe)
    sets, constants = _arrays(experiment), experiment.task.constants
    everything = data.load(with_holdout(recipe, 0).data)
    assert isinstance(everything, data.Arrays)

    def ready(images: np.ndarray, labels: np.ndarray) -> Examples:
        return np.asarray(data.standardize(jnp.asarray(images), constants)), labels

    return Sets(
        ready(sets.train_images, sets.train_labels),
        ready(sets.test_images, sets.test_labels) if recipe.data.holdout else None,
        ready(everything.test_images, everything.test_labels),
        everything.info.num_classes,
    )


def with_holdout(recipe: ConfigDict, holdout: int) -> ConfigDict:
    """A copy of a configuration that is evaluated on training images that are held out."""
    c = recipe.copy_and_resolve_references()
    c.data.holdout = holdout
    return c


def train(
    recipes: Sequence[ConfigDict],
    *,
    network: Network | None = None,
    starts: Sequence[Variables] | None = None,
    progress: Progress | None = None,
) -> list[Trained]:
    """Trains one network with each configuration; its seed draws initial weights and order of the examples.

    Args:
      recipes: configurations. Those that differ in seed, learning rate and weight decay only are compiled
        once.
      network: trained instead of the one that ``config.model`` describes.
      starts: variables from which to train, one for each recipe, with a fresh optimizer and the whole
        schedule; None for fresh initial values.
      progress: counts trainings.

    Raises:
      ValueError: an invalid configuration, streamed data, or another number of ``starts``.
    """
    if starts is not None and len(starts) != len(recipes):
        raise ValueError(f"{len(starts)} starts for {len(recipes)} recipes; give one for each")
    keys = [configs.to_json(with_numbers(c, seed=0, learning_rate=0, weight_decay=0)) for c in recipes]
    programs = {key: _program(key, network) for key in keys}
    chosen = [programs[key] for key in keys]
    begins = [None] * len(recipes) if starts is None else starts
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(_Program.train, chosen, recipes, begins)
        return [one for _, one in zip(reported(keys, progress), done, strict=True)]


def evaluate(network: Network, variables: Variables, images: np.ndarray, labels: np.ndarray) -> Evaluated:
    """Loss and error of a network on examples, in inference."""
    logits = per_example(partial(_logits, network, variables), images, None, BATCH_SIZE).T
    loss = cross_entropy(jnp.asarray(logits), jnp.asarray(labels)).mean()
    return Evaluated(float(loss), float(np.mean(logits.argmax(-1) != labels)))


def loss_after(one: Trained, held_out: Examples) -> float:
    """The loss of a trained network on examples; infinite after a divergence, and where it is no number.

    A last update may leave finite training losses behind and a network that predicts no numbers.
    """
    loss = np.inf if one.diverged else evaluate(one.network, one.variables, *held_out).loss
    return loss if np.isfinite(loss) else np.inf


def best_rate(rates: Sequence[float], score: np.ndarray) -> np.ndarray:
    """Index of the rate with the lowest score, int [...], of scores [..., rate]; NaN is as bad as infinite.

    Raises:
      Refusal: one choice has no finite score.
    """
    score = np.where(np.isnan(score), np.inf, score)
    if not np.isfinite(score).any(-1).all():
        raise Refusal(
            f"no learning rate of {', '.join(f'{rate:g}' for rate in rates)} left a finite score on held-out "
            "examples; try smaller ones"
        )
    return score.argmin(-1)


class Tuned(NamedTuple):
    """Networks trained with the best of several learning rates."""

    trained: list[Trained]  # one for each seed
    rate: float
    held_out_loss: dict[float, float]  # {rate: mean over the seeds tried}, infinite after divergence


def train_tuned(
    recipe: ConfigDict,
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    tries: int = 1,
    network: Network | None = None,
    starts: Sequence[Variables] | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Trains with a learning rate that is chosen without the test images.

    The first ``tries`` seeds are trained with every rate. The rate with the lowest mean loss on the training
    images that are held out is chosen, and the other seeds are trained with it.

    Args:
      recipe: a configuration with ``data.holdout`` above 0. No network is trained on these images.
      rates, seeds: one or more of each.
      tries: from 1 to the number of seeds.
      network, starts: as for ``train``; one start for each seed.
      progress: counts trainings.

    Raises:
      ValueError: no held-out images, no rate, or another number of tries.
      Refusal: no rate has a finite loss.
    """
    if not recipe.data.holdout or not rates or not 1 <= tries <= len(seeds):
        raise ValueError(
            f"data.holdout={recipe.data.holdout}, rates={tuple(rates)}, tries={tries} of {len(seeds)} seeds; "
            "allowed: images held out, one rate or more, and from 1 try to as many as there are seeds"
        )
    pairs = [(rate, i) for rate in rates for i in range(tries)]
    total = len(pairs) + len(seeds) - tries

    def run(chosen: Sequence[tuple[float, int]], done: int) -> list[Trained]:
        recipes = [with_numbers(recipe, seed=seeds[i], learning_rate=rate) for rate, i in chosen]
        own = None if starts is None else [starts[i] for _, i in chosen]
        tell = None if progress is None else lambda n, _: progress(done + n, total)
        return train(recipes, network=network, starts=own, progress=tell)

    held_out = examples(recipe).held_out
    assert held_out is not None
    tried = dict(zip(pairs, run(pairs, 0), strict=True))

    losses = {
        rate: float(np.mean([loss_after(tried[rate, i], held_out) for i in range(tries)])) for rate in rates
    }
    best = tuple(losses)[int(best_rate(tuple(losses), np.array(list(losses.values()))))]
    others = run([(best, i) for i in range(tries, len(seeds))], len(pairs))
    return Tuned([*(tried[best, i] for i in range(tries)), *others], best, losses)


@partial(jax.jit, static_argnums=0)
def _logits(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    """[classes, B]."""
    return network.apply(variables, images).logits.T


@lru_cache(maxsize=4)
def _program(key: str, network: Network | None) -> _Program:
    """The program for a configuration as JSON, kept for the next call."""
    return _Program(ConfigDict(json.loads(key), convert_dict=True), network)


class _Program:
    """The compiled training of one configuration, apart from its numbers."""

    def __init__(self, recipe: ConfigDict, network: Network | None) -> None:
        experiment = load_experiment(recipe)
        experiment.check_batch_size()
        sets, plan = _arrays(experiment), experiment.plan
        self._steps, self._num_train, self._optimizer = plan.total, sets.info.num_train, recipe.optimizer
        # Every schedule is its peak times a function of the step.
        self._rate = schedule(with_numbers(recipe, learning_rate=1).optimizer, plan.total, plan.per_epoch)
        self._task = dataclasses.replace(
            experiment.task,
            network=network or experiment.task.network,
            norms_every=plan.total + 1,
            activations=False,
        )
        self._images = jax.device_put({"image": sets.train_images, "label": sets.train_labels})
        shape, given = sets.info.image_shape, _numbers(recipe)
        quick = {"xla_backend_optimization_level": 0}

        def first(numbers: _Numbers, seed: jax.Array) -> TrainState:
            return first_state(jax.random.key(seed), task=self._task_of(numbers), image_shape=shape)

        def run(numbers: _Numbers, state: TrainState, images: Batch, batches: Batch) -> Any:
            steps = jnp.int32(0), jnp.int32(self._steps)
            return train_steps(state, images, batches, *steps, task=self._task_of(numbers))

        self._first = jax.jit(first, compiler_options=quick).lower(given, np.int32(0)).compile()
        batches = self._batches(recipe)
        self._run = jax.jit(run).lower(given, self._first.out_info, self._images, batches).compile()

    def train(self, recipe: ConfigDict, start: Variables | None) -> Trained:
        """Trains with the numbers of ``recipe``."""
        numbers, seed = _numbers(recipe), recipe.seed
        if start is None:
            state = self._first(numbers, np.int32(seed))
        else:
            state = start_from(self._task_of(numbers), start, seed)
        initial = jax.device_get(state.variables)
        last, metrics = jax.device_get(self._run(numbers, state, self._images, self._batches(recipe)))
        ran = np.arange(self._steps) < last.step  # no step follows one whose result is not finite
        loss, error = (np.where(ran, metrics[name], np.nan) for name in ("loss", "error"))
        return Trained(self._task.network, initial, last.variables, loss, error)

    def _task_of(self, numbers: _Numbers) -> Task:
        def rate(step: jax.Array) -> jax.Array:
            return numbers.rate * self._rate(step)

        optimizer = make_optimizer(self._optimizer, rate, numbers.weight_decay)
        return dataclasses.replace(self._task, optimizer=optimizer, rate=rate)

    def _batches(self, recipe: ConfigDict) -> dict[str, np.ndarray]:
        """Which examples each step takes, [steps, batch], as in ``resjax.train``."""
        size = recipe.train.batch_size
        steps = range(self._steps)
        index = np.stack([data.batch_indices(recipe.seed, t, self._num_train, size) for t in steps])
        slot = np.broadcast_to(np.arange(size, dtype=np.int32), index.shape)
        return {"index": index, "slot": np.ascontiguousarray(slot)}


def _numbers(recipe: ConfigDict) -> _Numbers:
    optimizer = recipe.optimizer
    return _Numbers(np.float32(optimizer.learning_rate), np.float32(optimizer.weight_decay))


def _arrays(experiment: Experiment) -> data.Arrays:
    if not isinstance(experiment.dataset, data.Arrays):
        raise ValueError(f"data.name={experiment.dataset.info.name!r} is streamed; use a small data set")
    return experiment.dataset
