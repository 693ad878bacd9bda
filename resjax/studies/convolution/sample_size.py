"""Does sharing reduce overfitting? Three networks of one shape, trained on ever more examples.

*Question.* The argument for convolution says: fewer parameters, hence less overfitting, hence a lower
test error from few examples. LeCun (1989) trained networks of one task that differed in their connections
and found so on 480 small digits. Is it so here, and is it the sparseness or the sharing?

*Method.* ``resjax.models.local.twin`` builds layer, ReLU, pooling, layer, ReLU, classifier three times:
with convolutions, with the same windows but weights of their own at every position, and dense, with as
many units each time. All are trained on the same n examples with one recipe, for n = 50, 100, …; the gap
is test error minus training error. Sharing helps if what is useful to see in one place is useful in
others, so there are three settings:

    centred   trained and tested on images in the middle of a field ``margin`` pixels wider on each side,
    shifted   trained so, and tested on images moved by ``margin`` pixels in each of 8 directions,
    moved     trained and tested on images at these 9 places; each training image has one place, drawn once.

No pixel is lost by moving. Test errors are means over all places, so nothing is drawn in testing.

*Protocol.* A seed draws the n examples, their places, the initial weights and the batches, alike for the
three networks: differences are paired. Adam (Kingma & Ba 2015), a learning rate that falls to 0 by a cosine,
batches drawn with replacement, and one number of steps for all n and all networks, at which they fit their
examples, or nearly so (the training error is reported). The recipe was chosen for running time and training
error, without a search. No augmentation, no weight decay.

*Reading it.* Intervals are over seeds (``intervals.bootstrap``); the test set is one. At n = all
images seeds share the examples, so the interval is that of initial weights and batches only. The three
differ in their number of parameters by design. One small shape on one data set shows what can happen, not
what must: a dense network also has more features to choose from, and many images at hand replace the
prior knowledge.

*Cost.* (networks · settings of training · sizes · seeds) · steps small training steps; a compilation each
network.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from resjax.models.local import CONNECTIONS, twin
from resjax.network import Network
from resjax.network.losses import cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, check_examples
from resjax.studies.intervals import bootstrap
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Examples = tuple[np.ndarray, np.ndarray]

SIZES = (50, 100, 200, 400, 800, 1400)
SETTINGS = ("centred", "shifted", "moved")


@dataclasses.dataclass(frozen=True)
class SampleSize(Result):
    """Errors of one network, 0 … 1, by the number of examples that it was trained on.

    Attributes:
      size: int [size].
      setting: names.
      train_error, test_error: [setting, size, seed].
      parameters: trainable numbers.
      num_test, num_classes: test images, each seen at all its places; classes.
      choices: what was decided.
    """

    AXES: ClassVar = {
        "size": ("size",),
        **dict.fromkeys(("train_error", "test_error"), ("setting", "size", "seed")),
    }

    size: np.ndarray
    setting: tuple[str, ...]
    train_error: np.ndarray
    test_error: np.ndarray
    parameters: int
    num_test: int
    num_classes: int
    choices: dict[str, Any]

    @property
    def gap(self) -> np.ndarray:
        """[setting, size, seed], test minus training error."""
        return self.test_error - self.train_error


def difference(a: SampleSize, b: SampleSize) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test error of ``a`` minus that of ``b`` over paired seeds: mean, ends of the 95 % interval, each
    [setting, size]."""
    off = a.test_error - b.test_error
    return off.mean(-1), *bootstrap(off)


def by_sample_size(
    train: Examples,
    test: Examples,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: int = 5,
    steps: int = 600,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    margin: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, SampleSize]:
    """Trains a convolutional, a locally connected and a dense network of one shape on n examples each.

    Args:
      train, test: images float32 [N, H, W, C], standardized, and labels int [N]. The outermost pixel at the
        top left of the first image is taken for the background that surrounds all of them.
      sizes: numbers of training examples, each at most N.
      seeds: repetitions, 2 or more.
      steps, batch_size, learning_rate: of Adam, alike for all.
      margin: pixels by which images are moved.
      seed: the first of the seeds.
      progress: called as ``progress(trainings done, trainings in all)``, each of them ``seeds`` networks.

    Returns:
      One result for each of ``resjax.models.local.CONNECTIONS``.

    Raises:
      ValueError: images or labels of a wrong form, a size that is none, fewer than two seeds.
    """
    classes = 1 + int(max(np.max(train[1]), np.max(test[1])))
    for images, labels in (train, test):
        check_examples(images, labels, classes)
    if not sizes or min(sizes) < 1 or max(sizes) > len(train[0]):
        raise ValueError(
            f"sizes={tuple(sizes)}; allowed: one or more of 1 … {len(train[0])} examples"
        )
    if seeds < 2 or margin < 1:
        raise ValueError(f"seeds={seeds}, margin={margin}; allowed: seeds from 2, margins from 1")
    (images, labels), (test_images, test_labels) = (
        (_at_places(x, margin), y.astype(np.int32)) for x, y in (train, test)
    )
    shape = images.shape[2:]
    recipe = (steps, batch_size)
    all_sets = jax.device_put((images, labels, test_images, test_labels))
    networks = {c: twin(c, image_shape=shape, num_classes=classes) for c in CONNECTIONS}
    # [trained moved?, size, seed], and [.., place]
    fitted = {c: np.zeros((2, len(sizes), seeds)) for c in CONNECTIONS}
    tested = {c: np.zeros((2, len(sizes), seeds, 9)) for c in CONNECTIONS}

    def run(task: tuple[int, int, str]) -> Any:
        moved, i, connections = task
        each = [
            _draw(s, len(labels), sizes[i], bool(moved), recipe) for s in range(seed, seed + seeds)
        ]
        draws = _Draws(*map(np.stack, zip(*each, strict=True)))
        return jax.device_get(_train(networks[connections], learning_rate, all_sets, draws))

    # Networks in turn, so that they are compiled side by side; a small training keeps one core busy.
    tasks = list(itertools.product(range(2), range(len(sizes)), CONNECTIONS))
    with ThreadPoolExecutor(2) as pool:
        outputs = pool.map(run, tasks)
        for done, (task, out) in enumerate(zip(tasks, outputs, strict=True)):
            if progress:
                progress(done, len(tasks))
            *which, connections = task
            fitted[connections][*which], tested[connections][*which] = out
    if progress:
        progress(len(tasks), len(tasks))
    choices = {
        "training": f"Adam, learning rate {learning_rate} to 0 by a cosine, {steps} steps of "
        f"{batch_size} examples drawn with replacement, no augmentation, no weight decay",
        "recipe": "alike for all; chosen for running time and training error, without a search",
        "field": f"{shape[0]}×{shape[1]} pixels; images are moved by {margin}",
        "seeds": f"{seed} … {seed + seeds - 1}; each draws examples, places, weights, batches",
    }
    return {
        c: SampleSize(
            size=np.array(sizes),
            setting=SETTINGS,
            train_error=fitted[c][[0, 0, 1]],
            test_error=np.stack(
                [tested[c][0, ..., 0], tested[c][0, ..., 1:].mean(-1), tested[c][1].mean(-1)]
            ),
            parameters=_count(networks[c], shape),
            num_test=len(test_labels),
            num_classes=classes,
            choices=choices,
        )
        for c in CONNECTIONS
    }


def _at_places(images: np.ndarray, margin: int) -> np.ndarray:
    """[N, H, W, C] → [9, N, H + 2·margin, W + 2·margin, C]: in the middle, then moved in 8 directions."""
    background = images[0, 0, 0]
    n, height, width, channels = images.shape
    wide = (height + 2 * margin, width + 2 * margin, channels)
    field = np.broadcast_to(background, (9, n, *wide)).astype(np.float32)
    middle_first = sorted(np.ndindex(3, 3), key=lambda place: place != (1, 1))
    for copy, (down, right) in zip(field, middle_first, strict=True):
        top, left = down * margin, right * margin
        copy[:, top : top + height, left : left + width] = images
    return field


class _Draws(NamedTuple):
    """What a seed draws, with a leading axis of seeds: ``rows`` int32 [step, batch] of the training images,
    ``place`` int32 [N] of each, ``chosen`` bool [N]; ``seed`` is that of the weights."""

    seed: np.ndarray
    rows: np.ndarray
    place: np.ndarray
    chosen: np.ndarray


def _draw(seed: int, count: int, n: int, moved: bool, recipe: tuple[int, int]) -> _Draws:
    """Alike for all networks; the samples of one seed are nested."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    place = rng.integers(0, 9, count) if moved else np.zeros(count, int)
    rows = order[(n * rng.random(recipe)).astype(int)]
    chosen = np.isin(np.arange(count), order[:n])
    return _Draws(np.array(seed, np.int32), rows.astype(np.int32), place.astype(np.int32), chosen)


@partial(jax.jit, static_argnums=(0, 1))
def _train(
    network: Network, learning_rate: float, sets: Any, draws: _Draws
) -> tuple[jax.Array, jax.Array]:
    """Training error [seed], and test error at each place [seed, 9]."""
    images, labels, test_images, test_labels = sets
    steps = draws.rows.shape[1]
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def wrong(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return network.apply({"params": params}, x).logits.argmax(-1) != y

    def one(draws: Any) -> tuple[jax.Array, jax.Array]:
        params = network.init(jax.random.key(draws.seed), images.shape[2:])["params"]

        def step(state: Any, rows: jax.Array) -> tuple[Any, None]:
            params, memory = state
            x, y = images[draws.place[rows], rows], labels[rows]

            def loss(params: Any) -> jax.Array:
                return cross_entropy(network.apply({"params": params}, x).logits, y).mean()

            updates, memory = optimizer.update(jax.grad(loss)(params), memory, params)
            return (optax.apply_updates(params, updates), memory), None

        (params, _), _ = lax.scan(step, (params, optimizer.init(params)), draws.rows)
        own = wrong(params, images[draws.place, jnp.arange(len(labels))], labels)
        fitted = jnp.sum(own & draws.chosen) / jnp.sum(draws.chosen)
        return fitted, lax.map(lambda x: wrong(params, x, test_labels).mean(), test_images)

    # One after the other: XLA:CPU runs convolutions with many kernels at once several times slower.
    return lax.map(one, draws)


def _count(network: Network, shape: tuple[int, ...]) -> int:
    variables = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def plot(results: SampleSize | Mapping[str, SampleSize]) -> Figure:
    """Test error (lines, with the interval over seeds) and training error (dashed), a panel a setting."""
    named = {"": results} if isinstance(results, SampleSize) else dict(results)
    settings = next(iter(named.values())).setting
    narrow = style.is_narrow()
    shape = (len(settings), 1) if narrow else (1, len(settings))
    fig, grid = style.axes_grid(*shape)
    if narrow:
        fig.set_size_inches(fig.get_figwidth(), 2.6 * len(settings))
    panels = [ax for row in grid for ax in row]
    for k, (ax, setting) in enumerate(zip(panels, settings, strict=True)):
        for i, (label, result) in enumerate(named.items()):
            look: dict[str, Any] = {"color": style.color(i)}
            test, train = (100 * e[k] for e in (result.test_error, result.train_error))
            low, high = bootstrap(test)
            ax.plot(result.size, test.mean(-1), f"{style.marker(i)}-", label=label, **look)
            ax.fill_between(result.size, low, high, alpha=0.2, lw=0, **look)
            ax.plot(result.size, train.mean(-1), "--", lw=1.1, **look)
        ax.set(xscale="log", title=setting, xlabel="training examples")
        ax.set_xticks(result.size, [f"{n:,}" for n in result.size], rotation=45)
        ax.minorticks_off()
        ax.set_ylim(bottom=-0.02 * ax.get_ylim()[1])
    for row in grid:
        row[0].set_ylabel("error (%)")
    style.legend_above(fig, panels[0], columns=3)
    return fig
