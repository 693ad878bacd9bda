"""Surgery: a trained network gets more units that do nothing, and trains on.

*Question.* "Two layers that are added anywhere do no harm": a residual unit whose branch is 0 passes its
input on, so a deeper network can start as the very function that the shallower one has learned. Is the
function the same, to the last bit, with units at the front, in the middle and at the end? And does the deeper
network, trained on, fit the training data as well as the one that was left alone?

*Protocol.* ``resjax.studies.units.insertion`` tells how a unit is made the identity; where none can be, the
place is left out and named. Units are inserted at all other places, and logits compared on all examples, in
inference. Then this network and the untouched one are trained on, from where they are, by the same batches,
the same optimizer and a constant rate; that is repeated with other batches and other initial values. What is
compared is the mean training loss of the second half of the steps, deeper minus untouched, in training mode,
before each update.

*Reading it.* An unchanged function is what the construction promises; the numbers check the software, and
where arithmetic is not exact (on a GPU, two programs may sum in another order) they say by how much. Training
loss says whether the start does harm. It does not say that more depth helps, nor that a deeper network finds
such units by itself when all of it starts at random: that is what plain networks fail at (He et al. 2015, §1:
a constructed solution exists, and solvers do not find it). And a few dozen steps at a small rate stay near
the start. How much new units come to do is the mean of ‖y − x‖ / ‖x‖ over examples, 0 at the start.

*Cost.* Three forward passes of all examples, and the training of two networks, each of which is compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from resjax.data import Statistics
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.network.unit import Parts
from resjax.studies import style
from resjax.studies.batches import (
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.intervals import bootstrap
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result
from resjax.studies.units.insertion import insert_at, start_from, states_of
from resjax.training.step import Task, TrainState, train_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Examples on which inserted units are tried.
TRIED = 32
# Of images that are standardized already.
DONE = Statistics(
    np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32), np.zeros(())
)


@dataclasses.dataclass(frozen=True)
class Surgery(Result):
    """What insertion changed, and how training went on.

    Attributes:
      place: names of the places where units were inserted.
      difference: largest |logit of the deeper network − logit of the untouched one|, in inference.
      changed: examples whose most likely class changed.
      refused: place → why no unit can be the identity there.
      count: units inserted at each place.
      deep_loss, untouched_loss: [repeat, step], training loss before each update.
      gap, gap_interval: mean over repeats of deep − untouched loss in the second half, and its
        95 % interval, [end].
      change: [repeat], mean ‖y − x‖ / ‖x‖ of the inserted units after training.
      error: of the untouched network before, 0 … 1.
      deep_error, untouched_error: [repeat], after training on.
      num_units: before the surgery.
      num_examples, num_classes: of the data and the network.
      residual: whether the inserted units have shortcuts.
      choices: of this analysis.
    """

    AXES: ClassVar = {
        **dict.fromkeys(("deep_loss", "untouched_loss"), ("repeat", "step")),
        **dict.fromkeys(("change", "deep_error", "untouched_error"), ("repeat",)),
        "gap_interval": ("end",),
    }

    place: tuple[str, ...]
    difference: float
    changed: int
    refused: dict[str, str]
    count: int
    deep_loss: np.ndarray
    untouched_loss: np.ndarray
    gap: float
    gap_interval: np.ndarray
    change: np.ndarray
    error: float
    deep_error: np.ndarray
    untouched_error: np.ndarray
    num_units: int
    num_examples: int
    num_classes: int
    residual: bool
    choices: dict[str, Any]


def operate(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    train: tuple[ArrayLike, ArrayLike],
    places: Sequence[int] | None = None,
    count: int = 1,
    steps: int = 20,
    rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    train_batch_size: int = 32,
    repeats: int = 3,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Surgery:
    """Inserts units that do nothing, checks that nothing changed, and trains on.

    Args:
      network, variables: a trained network; neither is changed.
      images: float [N, H, W, C], standardized as in training, to compare outputs and errors on.
      labels: int [N].
      train: images and labels to train on, as many as you like; batches are drawn from them.
      places: numbers of the units behind which to insert, −1 for the front; None for the front, the middle
        and the end.
      count: units at each place.
      steps: of training, 2 or more.
      rate, momentum, weight_decay: of SGD, see ``resjax.training.optimizer``; decay acts on all parameters.
      train_batch_size: examples a step.
      repeats: trainings of each network, 2 or more.
      loss: (logits [B, classes], labels [B]) → [B].
      batch_size: most examples at a time in inference.
      seed: of initial values and batches.
      progress: called as ``progress(steps trained, steps in all)``.

    Raises:
      ValueError: data of a wrong form, or impossible options.
      Refusal: no place where a unit can be the identity.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    shape = images.shape[1:]
    num_classes = count_classes(network, variables, shape)
    check_examples(images, labels, num_classes)
    train_images, train_labels = (np.asarray(a) for a in train)
    check_examples(train_images, train_labels, num_classes)
    if steps < 2 or repeats < 2 or train_batch_size < 1:
        raise ValueError(
            f"steps={steps}, repeats={repeats}, train_batch_size={train_batch_size}; allowed: 2, 2, 1 or more"
        )
    if places is None:
        places = (-1, (network.num_units - 1) // 2, network.num_units - 1)
    places = sorted(set(places))

    states = states_of(network, variables, jnp.asarray(images[:TRIED]))
    chosen, refused = [], {}
    for place in places:
        try:
            insert_at(network, variables, states, place, count, jax.random.key(seed))
            chosen.append(place)
        except Refusal as error:
            refused[_name(network, place)] = str(error)
    if not chosen:
        raise Refusal(f"no unit can be inserted: {'; '.join(sorted(set(refused.values())))}")

    def enlarge(r: int) -> tuple[Network, Variables]:
        deep, own = network, variables
        for place in reversed(chosen):  # so that the numbers of those in front stay
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), r), place + 1)
            deep, own = insert_at(deep, own, states[: place + 2], place, count, key)
        return deep, own

    deep, own = enlarge(0)
    inserted = np.concatenate([p + 1 + i * count + np.arange(count) for i, p in enumerate(chosen)])
    measured = partial(_measure, images=images, batch_size=batch_size)
    before, after = measured(network, variables)[0], measured(deep, own)[0]
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum or None)
    )
    schedule = optax.constant_schedule(rate)
    tasks = [
        Task(n, loss, optimizer, schedule, DONE, norms_every=steps + 1) for n in (deep, network)
    ]
    losses = np.zeros((2, repeats, steps))
    errors = np.zeros((2, repeats))
    change = np.zeros(repeats)
    for r in range(repeats):
        rng = np.random.default_rng([seed, r])
        rows = rng.integers(0, len(train_images), (steps, train_batch_size))
        starts = enlarge(r)[1], variables
        for i, (task, start) in enumerate(zip(tasks, starts, strict=True)):
            if progress:
                progress((2 * r + i) * steps, 2 * repeats * steps)
            state, losses[i, r] = _train(task, start, train_images, train_labels, rows, seed + r)
            logits, moved = measured(task.network, state.variables)
            errors[i, r] = np.mean(logits.argmax(-1) != labels)
            if task.network is deep:
                change[r] = moved[inserted].mean()
    if progress:
        progress(2 * repeats * steps, 2 * repeats * steps)
    gaps = (losses[0] - losses[1])[:, steps // 2 :].mean(1)
    return Surgery(
        place=tuple(_name(network, place) for place in chosen),
        difference=float(np.max(np.abs(after - before))),
        changed=int(np.sum(after.argmax(-1) != before.argmax(-1))),
        refused=refused,
        count=count,
        deep_loss=losses[0],
        untouched_loss=losses[1],
        gap=float(gaps.mean()),
        gap_interval=np.array(bootstrap(gaps, seed=seed)),
        change=change,
        error=float(np.mean(before.argmax(-1) != labels)),
        deep_error=errors[0],
        untouched_error=errors[1],
        num_units=network.num_units,
        num_examples=len(images),
        num_classes=num_classes,
        residual=bool(deep.units[inserted[0]].stack.unit.residual),
        choices={
            "optimizer": f"SGD, rate {rate:g}, momentum {momentum:g}, weight decay {weight_decay:g}, anew",
            "training": f"{steps} steps of {train_batch_size} examples, not augmented, {repeats} times",
            "checked on": f"{min(TRIED, len(images))} examples before, {len(images):,} after",
            "running statistics of new residual units": "0 and 1, as initialized",
            "seed": seed,
        },
    )


def _train(
    task: Task,
    variables: Variables,
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    seed: int,
) -> tuple[TrainState, np.ndarray]:
    """Trains on examples ``rows`` [steps, batch]; the last state, and the losses [steps]."""
    state = start_from(task, variables, seed)
    losses = []
    for chosen in rows:
        batch = {
            "image": images[chosen],
            "label": labels[chosen].astype(np.int32),
            "slot": np.arange(len(chosen), dtype=np.int32),
        }
        state, metrics = _step(state, batch, task)
        losses.append(metrics["loss"])
    return state, np.array(jax.device_get(losses))


_step = jax.jit(lambda state, batch, task: train_step(state, batch, task=task), static_argnums=2)


def _measure(
    network: Network, variables: Variables, *, images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, classes], and each unit's mean ‖y − x‖ / ‖x‖ over the examples [units]."""
    logits, changes = [], []
    for batch in padded_batches(images, np.zeros(len(images), np.int32), batch_size):
        out, change = jax.device_get(_forward(network, variables, batch.images))
        logits.append(out[batch.mask])
        changes.append(change[:, batch.mask])
    return np.concatenate(logits), np.concatenate(changes, 1).mean(1)


@partial(jax.jit, static_argnums=0)
def _forward(network: Network, variables: Variables, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    out = network.apply(variables, x, tap=_change)
    return out.logits, jnp.concatenate([out.taps[s.name] for s in network.stacks])


def _change(parts: Parts) -> jax.Array:
    """‖y − x‖ / ‖x‖ of each example, NaN where the unit changes the shape."""
    if parts.x.shape != parts.y.shape:
        return jnp.full(len(parts.x), jnp.nan)
    axes = tuple(range(1, parts.x.ndim))
    x, y = (h.astype(jnp.promote_types(h.dtype, jnp.float32)) for h in (parts.x, parts.y))
    norms = (jnp.sqrt(jnp.sum(jnp.square(h), axes)) for h in (y - x, x))
    return jnp.divide(*norms).astype(jnp.float32)


def _name(network: Network, place: int) -> str:
    return f"behind {network.units[place].name}" if place >= 0 else "in front of all units"


def plot(results: Surgery | Mapping[str, Surgery]) -> Figure:
    """Training loss of the deeper and of the untouched network, one panel a network that was operated on.

    Lines are means over the repeats, bands their range.
    """
    named = {"": results} if isinstance(results, Surgery) else dict(results)
    columns = 1 if style.is_narrow() else min(len(named), 2)
    rows = -(-len(named) // columns)
    fig, grid = style.axes_grid(rows, columns)
    fig.set_figheight(fig.get_figheight() * (1 + 0.75 * (rows - 1)))
    panels = [ax for row in grid for ax in row]
    for ax in panels[len(named) :]:
        ax.set_visible(False)
    for ax, (label, r) in zip(panels, named.items(), strict=False):
        step = 1 + np.arange(r.deep_loss.shape[1])
        every = max(len(step) // 10, 1)
        for i, (name, values, line) in enumerate(
            (("untouched", r.untouched_loss, "-"), ("deeper", r.deep_loss, "--"))
        ):
            look: dict[str, Any] = {"color": style.color(i)}
            ax.plot(
                step,
                values.mean(0),
                line + style.marker(i),
                markevery=(i, every),
                label=name,
                **look,
            )
            ax.fill_between(step, values.min(0), values.max(0), alpha=0.18, lw=0, **look)
        new = r.count * len(r.place)
        title = f"{label}: {r.num_units} and {r.num_units + new} units"
        ax.set(title=title.strip(": "), xlabel="step of training on", yscale="log")
        style.integer_ticks(ax)
    for row in grid:
        row[0].set_ylabel("training loss")
    style.legend_above(fig, panels[0])
    return fig
