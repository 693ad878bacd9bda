"""Trains small networks on n examples, with images that stay in the middle of a field or are moved in it.

Claims about sharing need many short trainings that differ in the network, the number of examples n, and the
places of the images. ``fit`` runs them with Adam, and a learning rate that falls to 0 by a cosine. A seed
draws the n examples (those of small n are among those of large n), their places, the initial weights, and the
batches, the same for all networks: differences between networks are paired.

``choose`` finds a learning rate for each network, setting and n on training images that are held out: it
trains with each rate, and takes the one with the lowest mean error on these images. The seeds of this choice
are others than those of the result, and the test images have no part in it.

*Cost.* One compilation for each network and set of shapes; the learning rate is an argument of the program.
Two trainings run at a time, because a small one keeps only one core busy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from resjax import data
from resjax.network import Network
from resjax.network.initial import variable_shapes
from resjax.network.losses import cross_entropy
from resjax.studies.batches import Progress, reported
from resjax.studies.examples import check_images, check_labels

Examples = tuple[np.ndarray, np.ndarray]
PLACES = 9  # of an image in its field: the middle, and moved in 8 directions


class Training(NamedTuple):
    """One network to train, with each of the seeds."""

    network: str  # its key
    moved: bool  # whether each training image has a place of its own, else all are in the middle
    size: int  # number of training examples
    rate: float  # initial learning rate


class Fitted(NamedTuple):
    """Errors, 0 … 1, of trainings in their order."""

    train: np.ndarray  # [training, seed], of the training examples at their places
    test: np.ndarray  # [training, seed, place], of the test images at each place, the middle first


def standardized_digits() -> tuple[Examples, Examples]:
    """scikit-learn's digits, standardized by all training images: training and test examples."""
    digits = data.load(data.defaults())
    assert isinstance(digits, data.Arrays)
    constants = data.statistics(digits, "channel")
    sets = (digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)
    train, test = ((np.asarray(data.standardize(jnp.asarray(x), constants)), y) for x, y in sets)
    return train, test


def fit(
    networks: Mapping[str, Network],
    trainings: Sequence[Training],
    train: Examples,
    test: Examples,
    *,
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    margin: int = 1,
    progress: Progress | None = None,
) -> Fitted:
    """Trains and tests.

    Args:
      networks: by key, for images of ``field`` pixels.
      trainings: what to train; networks should take turns, so that two compile in parallel.
      train, test: images float32 [N, H, W, C], standardized, and labels int [N]. The top left pixel of the
        first image is the background around all of them.
      seeds: one network of each training for each.
      steps, batch_size: of Adam; batches are drawn with replacement.
      margin: pixels by which images are moved.
      progress: counts trainings, of all seeds each.

    Raises:
      ValueError: images or labels of a wrong form, a size that there is not, or a margin below 1.
    """
    classes = num_classes(train, test)
    for images, labels in (train, test):
        check_images(images)
        check_labels(labels, len(images), (classes,))
    sizes = [training.size for training in trainings]
    if not sizes or min(sizes) < 1 or max(sizes) > len(train[0]):
        asked = tuple(dict.fromkeys(sizes))
        raise ValueError(f"sizes={asked}; allowed: one or more of 1 … {len(train[0])} examples")
    if margin < 1:
        raise ValueError(f"margin={margin}; allowed: from 1")
    sets = jax.device_put([(at_places(x, margin), y.astype(np.int32)) for x, y in (train, test)])

    def run(training: Training) -> Any:
        network, rate = networks[training.network], np.float32(training.rate)
        given = len(train[1]), training.size, training.moved, (steps, batch_size)
        return [jax.device_get(_train(network, rate, sets, draw(seed, *given))) for seed in seeds]

    with ThreadPoolExecutor(2) as pool:
        pairs = zip(reported(trainings, progress), pool.map(run, trainings), strict=True)
        errors = [list(zip(*of_seeds, strict=True)) for _, of_seeds in pairs]
    fitted, tested = (np.array(each, float) for each in zip(*errors, strict=True))
    return Fitted(fitted, tested)


def choose(
    networks: Mapping[str, Network],
    trainings: Sequence[Training],
    rates: Sequence[float],
    train: Examples,
    held_out: Examples,
    **how: Any,
) -> np.ndarray:
    """Mean error on held-out images, [training, rate]: at all places if ``moved``, else in the middle.

    Args:
      trainings: see ``fit``; their rate is replaced by each of ``rates``.
      **how: see ``fit``.
    """
    asked = [training._replace(rate=rate) for rate in rates for training in trainings]
    tested = fit(networks, asked, train, held_out, **how).test.mean(1)
    moved = np.array([training.moved for training in asked])
    error = np.where(moved, tested.mean(-1), tested[:, 0])
    return error.reshape(len(rates), len(trainings)).T


def num_classes(train: Examples, test: Examples) -> int:
    return 1 + int(max(np.max(train[1]), np.max(test[1])))


def field(train: Examples, margin: int) -> tuple[int, int, int]:
    """The shape (H, W, C) of images with a margin on each side."""
    height, width, channels = train[0].shape[1:]
    return height + 2 * margin, width + 2 * margin, channels


def num_parameters(network: Network, shape: tuple[int, int, int]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(network, shape)["params"]))


def at_places(images: np.ndarray, margin: int) -> np.ndarray:
    """[N, H, W, C] → [9, N, H + 2·margin, W + 2·margin, C]: centered, then moved in 8 directions."""
    n, height, width, channels = images.shape
    wide = (height + 2 * margin, width + 2 * margin, channels)
    copies = np.broadcast_to(images[0, 0, 0], (PLACES, n, *wide)).astype(np.float32)
    middle_first = sorted(np.ndindex(3, 3), key=lambda place: place != (1, 1))
    for copy, (down, right) in zip(copies, middle_first, strict=True):
        top, left = down * margin, right * margin
        copy[:, top : top + height, left : left + width] = images
    return copies


class Draws(NamedTuple):
    """All draws of a seed; N is the number of training images."""

    seed: np.ndarray  # of the weights
    rows: np.ndarray  # int32 [step, batch], training images
    place: np.ndarray  # int32 [N], place of each image in its field
    chosen: np.ndarray  # bool [N]


def draw(seed: int, count: int, n: int, moved: bool, recipe: tuple[int, int]) -> Draws:
    """The draws of one seed; its samples of different sizes are nested."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    place = rng.integers(0, PLACES, count) if moved else np.zeros(count, int)
    rows = order[(n * rng.random(recipe)).astype(int)]
    chosen = np.isin(np.arange(count), order[:n])
    return Draws(np.array(seed, np.int32), rows.astype(np.int32), place.astype(np.int32), chosen)


@partial(jax.jit, static_argnums=0)
def _train(network: Network, rate: jax.Array, sets: Any, draws: Draws) -> tuple[jax.Array, jax.Array]:
    """Training error, and test error at each place [9]."""
    (images, labels), (test_images, test_labels) = sets
    decay = optax.cosine_decay_schedule(1.0, draws.rows.shape[0])
    optimizer = optax.adam(lambda step: rate * decay(step))

    def wrong(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return network.apply({"params": params}, x).logits.argmax(-1) != y

    def step(state: Any, rows: jax.Array) -> tuple[Any, None]:
        params, memory = state
        x, y = images[draws.place[rows], rows], labels[rows]

        def loss(params: Any) -> jax.Array:
            return cross_entropy(network.apply({"params": params}, x).logits, y).mean()

        updates, memory = optimizer.update(jax.grad(loss)(params), memory, params)
        return (optax.apply_updates(params, updates), memory), None

    params = network.init(jax.random.key(draws.seed), images.shape[2:])["params"]
    (params, _), _ = lax.scan(step, (params, optimizer.init(params)), jnp.asarray(draws.rows))
    own = wrong(params, images[draws.place, jnp.arange(len(labels))], labels)
    fitted = jnp.sum(own & draws.chosen) / jnp.sum(draws.chosen)
    return fitted, lax.map(lambda x: wrong(params, x, test_labels).mean(), test_images)
