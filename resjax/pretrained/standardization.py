"""Which constants standardize the images as in a network's training.

A file of tensors does not name them, but it shows what they did: the first BatchNorm follows the first
convolution, so its running mean and variance are those of a linear function of the standardized images. On
training images that are cropped and flipped as in training, the right constants give the same mean and
variance again. No label is used, and no test image.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from resjax import data
from resjax.models.layers import BatchNorm
from resjax.pretrained.constants import USUAL, Constants, as_flags
from resjax.training.experiment import Experiment, make_experiment
from resjax.training.step import augmented

# In six networks for CIFAR-10, the right constants were 0.00003 … 0.0003 nats away, wrong ones 0.003 … 4,000.
_NEAR = 0.003  # at most, for constants to fit
_NOISE = 0.0001  # of a finite number of images
_BETTER = 5.0  # times nearer, to be preferred
_FEWEST = 200  # training images; the statistics of fewer are too far from those of all


class Fit(NamedTuple):
    """How far the first BatchNorm's running statistics are from those of images with some constants."""

    constants: Constants
    distance: float  # median over channels of the Kullback-Leibler divergence, in nats


def fits(experiment: Experiment, variables: Mapping[str, Any]) -> list[Fit]:
    """The run's own constants first, then the usual ones; [] where the first layer has no BatchNorm, or with
    fewer than 200 training images."""
    running = variables["batch_stats"].get("stem", {}).get("bn")
    info, task = experiment.dataset.info, experiment.task
    if running is None or experiment.config.data.standardize != "channel" or info.num_train < _FEWEST:
        return []
    own = Constants(tuple(info.mean), tuple(info.std))
    batches = _batches(experiment)

    @jax.jit
    def seen(factor: Array, shift: Array) -> Any:
        """The mean and variance [features] of the first convolution's outputs for factor · x + shift."""

        def of_batch(x: Array) -> Any:
            fresh = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
            stem = task.network.run_stem({**variables, "batch_stats": fresh}, factor * x + shift, train=True)
            return stem[1]["bn"]

        updates = jax.lax.map(of_batch, batches)  # of running averages that started at 0
        return jax.tree.map(lambda v: v.mean(0) / (1 - BatchNorm.momentum), updates)

    def fit(other: Constants) -> Fit:
        mean, std, new_mean, new_std = (np.reshape(v, (1, 1, 1, -1)) for v in (*own, *other))
        as_other = std / new_std, (mean - new_mean) / new_std
        return Fit(other, distance(running, seen(*(np.float32(v) for v in as_other))))

    usual = [constants for constants in USUAL if len(constants.mean) == len(own.mean)]
    return [fit(constants) for constants in dict.fromkeys((own, *usual))]


def any_fits(found: list[Fit]) -> bool:
    return any(fit.distance <= _NEAR for fit in found)


def better(found: list[Fit]) -> Constants | None:
    """The usual constants that fit where the run's own do not, if there are such."""
    if not any_fits(found):
        return None
    best = min(found, key=lambda fit: fit.distance)
    worse = found[0].distance > _BETTER * max(best.distance, _NOISE)
    return best.constants if worse else None


def with_constants(experiment: Experiment, constants: Constants) -> Experiment:
    """``experiment`` with other constants for its images."""
    config = experiment.config.copy_and_resolve_references()
    config.data.mean, config.data.std = constants
    info = dataclasses.replace(experiment.dataset.info, mean=constants.mean, std=constants.std)
    return make_experiment(config, dataclasses.replace(experiment.dataset, info=info))


def advice(found: list[Fit], taken: bool) -> str:
    """What ``fits`` mean, in one sentence; "" without any.

    Args:
      found: of the constants that were assumed or given.
      taken: those of ``better`` replace them.
    """
    if not found:
        return ""
    statistics = "The running statistics of the first BatchNorm fit"
    if constants := better(found):
        if taken:
            assumed = as_flags(found[0].constants)
            return (
                f"{statistics} these constants, which are taken: {as_flags(constants)} (instead of {assumed})"
            )
        return f"{statistics} other constants far better: make another workdir with {as_flags(constants)}"
    if any_fits(found):
        return f"{statistics} its mean and std."
    return (
        f"{statistics} neither its mean and std nor other usual ones: it was trained on other images, or "
        "they were prepared differently."
    )


def distance(running: Mapping[str, Any], seen: Mapping[str, Any]) -> float:
    """The divergence between normal distributions with these means and variances, median over channels."""
    mean, var = (np.asarray(running[name], np.float64) for name in ("mean", "var"))
    other, spread = (np.asarray(seen[name], np.float64) for name in ("mean", "var"))
    with np.errstate(divide="ignore", invalid="ignore"):  # a channel may be dead
        each = ((spread + (other - mean) ** 2) / var - 1 - np.log(spread / var)) / 2
    return float(np.nanmedian(each))


def _batches(experiment: Experiment) -> Array:
    """Training images [batches, images, H, W, C], standardized and augmented as in the run's training."""
    dataset, task = experiment.dataset, experiment.task
    large = max(dataset.info.image_shape[:2]) > 64
    size, most = (32, 256) if large else (128, 2048)
    seed, most = experiment.config.seed, min(most, dataset.info.num_train)
    if isinstance(dataset, data.Arrays):
        images = dataset.train_images[data.batch_indices(seed, 0, dataset.info.num_train, most)]
    else:
        images = next(dataset.train_batches(seed, most))["image"]
    images = images[: max(len(images) // size, 1) * size]
    slots = jnp.arange(len(images))
    x = jax.jit(augmented, static_argnames="task")(images, slots, experiment.key, task=task)
    return x.reshape(-1, min(size, len(images)), *x.shape[1:])
