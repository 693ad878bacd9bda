"""Surgery: inserts units that do nothing into a trained network, then continues training.

*Question.* "Two layers that are added anywhere do no harm": a residual unit whose branch is 0 passes its
input on, so a deeper network can start as the function that the shallower one has learned. Is the function
the same, to the last bit, with units at the front, in the middle and at the end? And does the deeper network,
after further training, fit the training data as well as the untouched one?

*Protocol.* ``resjax.studies.units.insertion`` tells how a unit is made the identity; a place where this fails
is left out and named. Units are inserted at all other places, and logits are compared on all examples, in
inference. Then both networks continue training with the same batches, the same optimizer and a constant rate;
this is repeated with other batches and other initial values. The mean training loss of the second half of the
steps is compared, deeper minus untouched, in training mode, before each update.

*Reading it.* The construction promises an unchanged function. The numbers check the software, and where
arithmetic is not exact (on a GPU, two programs may sum in another order) they give the size of the
difference. Training loss tells whether the start does harm. It does not tell that more depth helps, nor that
a deeper network finds such units when all of it starts at random: that is where plain networks fail (He et
al. 2015, §1: a constructed solution exists, and solvers do not find it). A few dozen steps at a small rate
stay near the start. The mean of ‖y − x‖ / ‖x‖ over examples, at first 0, tells how much the new units change
their input.

*Cost.* Three forward passes of all examples, and the training of two networks, each of which is compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.cpu.memory import ENOUGH, forget_programs
from resjax.data import Statistics
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.network.refusal import Refusal
from resjax.network.unit import Parts
from resjax.studies import style
from resjax.studies.batches import BATCH_SIZE, Progress, per_example, reported, sharing
from resjax.studies.costs import Cost, evaluated
from resjax.studies.examples import checked_examples, only_images, only_modules
from resjax.studies.intervals import bootstrap
from resjax.studies.options import Options
from resjax.studies.paths.path_walk import wide
from resjax.studies.result import Classified
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.units.insertion import fixed_depth, insert, start_from, states_of
from resjax.studies.words import count, factor, join, numbers, percent, percents
from resjax.training.step import Task, TrainState, train_step

STEPS, TRAIN_BATCH, REPEATS = 20, 32, 3
TRIED = 32  # examples on which inserted units are tried
# Standardization constants for images that are already standardized.
_ONE = np.ones((1, 1, 1, 1), np.float32)
DONE = Statistics(0 * _ONE, _ONE, np.zeros(()))


@dataclasses.dataclass(frozen=True)
class Surgery(Classified):
    """What insertion changed, and the course of further training."""

    place: tuple[str, ...]  # where units were inserted
    difference: float  # largest |change of a logit| in inference
    changed: int  # examples whose prediction changed
    refused: dict[str, str]  # {place: why no unit can be the identity there}
    count: int  # units inserted at each place
    deep_loss: Annotated[np.ndarray, "repeat", "step"]  # training loss before each update
    untouched_loss: Annotated[np.ndarray, "repeat", "step"]
    gap: float  # deep − untouched loss in the second half, mean over repeats
    gap_interval: Annotated[np.ndarray, "end"]  # its 95 % interval
    change: Annotated[np.ndarray, "repeat"]  # mean ‖y − x‖ / ‖x‖ of new units after training
    error: float  # of the untouched network before training, 0 … 1
    deep_error: Annotated[np.ndarray, "repeat"]  # after training
    untouched_error: Annotated[np.ndarray, "repeat"]
    num_units: int  # before the surgery
    num_examples: int
    residual: bool  # whether the inserted units have shortcuts

    @property
    def num_new(self) -> int:
        return self.count * len(self.place)


def surgery(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    train: tuple[ArrayLike, ArrayLike],
    places: Sequence[int] | None = None,
    count: int = 1,
    steps: int = STEPS,
    rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    train_batch_size: int = TRAIN_BATCH,
    repeats: int = REPEATS,
    seed: int = 0,
    loss: Loss = cross_entropy,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Surgery:
    """Inserts units that do nothing, checks that nothing changed, and continues training.

    Outputs and errors are compared on ``images``. ``progress`` counts trainings.

    Args: those of every analysis (``Inference``), and
      train: images and labels to train on, any number; batches are drawn from them.
      places: numbers of the units behind which to insert, −1 for the front; None for the front, the middle
        and the end.
      count: units at each place.
      steps: training steps, 2 or more.
      rate, momentum, weight_decay: of SGD; decay acts on all parameters.
      train_batch_size: examples in each step.
      repeats: trainings of each network, 2 or more.
      seed: of initial values and batches.

    Raises:
      Refusal: no place where a unit can be the identity.
    """
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    only_images(images, "new units", labels)
    only_modules(network, "new units")
    data = checked_examples(network, variables, *train)[:2]
    if steps < 2 or repeats < 2 or train_batch_size < 1:
        raise ValueError(
            f"steps={steps}, repeats={repeats}, train_batch_size={train_batch_size}; allowed: 2, 2, 1 or more"
        )
    last, tried = network.num_units - 1, jnp.asarray(images[:TRIED])
    put = partial(insert, images=tried, count=count, states=states_of(network, variables, tried))
    names = ["in front of all units", *(f"behind {unit.name}" for unit in network.units)]
    chosen, refused = [], {}
    for place in sorted(set((-1, last // 2, last) if places is None else places)):
        try:
            put(network, variables, after=place, key=jax.random.key(seed))
            chosen.append(place)
        except Refusal as error:
            refused[names[place + 1]] = str(error)
    if not chosen:
        first, reason = next(iter(refused.items()))
        others = f" ({first}; the other places fail too)" if len(refused) > 1 else ""
        raise Refusal(f"no unit can be inserted: {reason}{others}")

    def enlarge(r: int) -> tuple[Network, Variables]:
        deep, own = network, variables
        for place in reversed(chosen):  # so that the numbers of earlier units stay
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), r), place + 1)
            deep, own = put(deep, own, after=place, key=key)  # earlier states stay, too
        return deep, own

    cores = on_cores.shared_cores()

    def measured(network: Network, variables: Variables) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, classes], and each unit's mean ‖y − x‖ / ‖x‖ over the examples [units]."""

        def forward(cores: on_cores.Cores, variables: Variables, x: Any) -> tuple[jax.Array, jax.Array]:
            return _forward(cores, network, variables, x)

        on_batch = sharing(forward, variables)
        logits, change = per_example(lambda x: on_batch((x,)), images, None, batch_size, multiple=cores.count)
        return logits.T, change.mean(1)

    deep, own = enlarge(0)
    inserted = np.concatenate([p + 1 + i * count + np.arange(count) for i, p in enumerate(chosen)])
    # On one device: what replaces convolutions where cores are devices rounds with an identity kernel, too.
    runs = (partial(_forward, on_cores.Cores(), *given) for given in ((network, variables), (deep, own)))
    before, after = (per_example(run, images, None, batch_size)[0].T for run in runs)
    decay, schedule = optax.add_decayed_weights(weight_decay), optax.constant_schedule(rate)
    how = loss, optax.chain(decay, optax.sgd(rate, momentum or None)), schedule, DONE
    tasks = [Task(n, *how, norms_every=steps + 1) for n in (deep, network)]
    losses, errors = np.zeros((2, repeats, steps)), np.zeros((2, repeats))
    change = np.zeros(repeats)
    forget_programs(ENOUGH)  # those that inserted units, before memory is needed for training
    for r, i in reported(list(product(range(repeats), range(2))), progress):
        rng = np.random.default_rng([seed, r])
        rows = rng.integers(0, len(data[0]), (steps, train_batch_size))
        start = start_from(tasks[i], variables if i else enlarge(r)[1], seed + r)
        state, losses[i, r] = _train(tasks[i], start, *data, rows)
        logits, moved = measured(tasks[i].network, state.variables)
        errors[i, r] = np.mean(logits.argmax(-1) != labels)
        if i == 0:
            change[r] = moved[inserted].mean()
    gaps = (losses[0] - losses[1])[:, steps // 2 :].mean(1)
    return Surgery(
        place=tuple(names[place + 1] for place in chosen),
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
    task: Task, state: TrainState, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> tuple[TrainState, np.ndarray]:
    """The state after training on examples ``rows`` [steps, batch], and the losses [steps]."""
    losses, slot = [], np.arange(rows.shape[1], dtype=np.int32)
    cores = on_cores.shared_cores().if_shared(len(slot))
    state = cores.copy(state)
    for chosen in rows:
        batch = {"image": images[chosen], "label": labels[chosen].astype(np.int32), "slot": slot}
        state, metrics = cores.wait(_step(cores, task, state, cores.split(batch)))
        losses.append(metrics["loss"])
    return state, np.array(jax.device_get(losses))


@on_cores.jit(static=2)
def _step(
    cores: on_cores.Cores, task: Task, state: TrainState, batch: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    return train_step(state, batch, task=task)


@on_cores.jit(static=2)
def _forward(
    cores: on_cores.Cores, network: Network, variables: Variables, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Logits [classes, B] and changes [units, B]."""
    out = network.apply(variables, x, tap=_change)
    return out.logits.T, jnp.concatenate([out.taps[s.name] for s in network.stacks])


def _change(parts: Parts) -> jax.Array:
    """‖y − x‖ / ‖x‖ of each example, NaN where the unit changes the shape."""
    x, y = (h.astype(wide(h)).reshape(len(h), -1) for h in (parts.x, parts.y))
    if parts.x.shape != parts.y.shape:
        return jnp.full(len(x), jnp.nan)
    return (jnp.linalg.norm(y - x, axis=1) / jnp.linalg.norm(x, axis=1)).astype(jnp.float32)


# --- what the report shows ---


def plot(results: Mapping[str, Surgery]) -> style.Figure:
    """Training loss of the deeper and the untouched network: mean over the repeats (lines), range (bands)."""
    fig, panels = style.panels(len(results), columns=2, height=0.75)
    for ax, (label, r) in zip(panels, results.items(), strict=True):
        step = 1 + np.arange(r.deep_loss.shape[1])
        every = max(len(step) // 10, 1)
        both = ("untouched", r.untouched_loss, "-"), ("deeper", r.deep_loss, "--")
        for i, (name, loss, line) in enumerate(both):
            look: dict[str, Any] = {"color": style.color(i), "label": name, "markevery": (i, every)}
            ax.plot(step, loss.mean(0), line + style.marker(i), **look)
            ends = loss.min(0), loss.max(0)
            ax.fill_between(step, *ends, alpha=0.18, lw=0, color=style.color(i))
        title = f"{label}: {r.num_units} and {r.num_units + r.num_new} units"
        ax.set(title=title.strip(": "), xlabel="step of further training", yscale="log")
        style.integer_ticks(ax)
    for ax in panels[:: 1 if style.is_narrow() else 2]:
        ax.set_ylabel("training loss")
    style.legend_above(fig, panels[0])
    return fig


# An excess of the training loss up to this share of the untouched network's counts as none.
SAME = 0.05


def _second_half(losses: np.ndarray) -> np.ndarray:
    """[repeat], the mean loss of the second half of the steps."""
    return np.asarray(losses[:, losses.shape[1] // 2 :].mean(1))


def excess(r: Surgery) -> float:
    """Deeper minus untouched training loss in the second half of the steps, as a share of the latter."""
    return r.gap / float(_second_half(r.untouched_loss).mean())


def verdict(r: Surgery) -> str:
    """Whether further training is unharmed: the training losses of both networks compared."""
    if not np.isfinite(r.deep_loss).all():
        return "harm"
    if excess(r) <= SAME:
        return "unharmed"
    return "harm" if r.gap_interval[0] > 0 else "unclear"


AFTERWARDS = {
    "unharmed": "and further training is unharmed",
    "unclear": "and whether {} further training is unclear",
    "harm": "but {} further training",
}


def _clause(label: str, r: Surgery) -> str:
    what = f"logits of {label} by up to {factor(r.difference)}, and no prediction"
    if r.difference == 0:
        what = f"no bit of the function of {label}"
    elif r.changed:
        what = f"{count(r.changed, 'prediction')} of {label}"
    afterwards = AFTERWARDS[verdict(r)].format("it harms" if r.num_new == 1 else "they harm")
    return f"{count(r.num_new, 'more unit')} changed {what}, {afterwards}"


def points(label: str, r: Surgery) -> list[str]:
    steps = r.untouched_loss.shape[1]
    deep, untouched = (factor(_second_half(v).mean()) for v in (r.deep_loss, r.untouched_loss))
    low, high = map(factor, r.gap_interval)
    more = f"{percent(abs(excess(r)))} {'more' if excess(r) > 0 else 'less'}"
    more += f" (difference {factor(r.gap)}, 95 % interval {low} to {high})"
    kind = "zero branches" if r.residual else "identity kernels"
    refused = [f"{label}: no unit {k}, because {v.rstrip('.')}." for k, v in r.refused.items()]
    return [
        f"{label}: {count(r.num_new, 'unit')} with {kind}, {join(r.place)}. Over the last "
        f"{steps - steps // 2} of {steps} steps the training loss is {deep}, and {untouched} in the "
        f"untouched network: {more if np.isfinite(r.gap) else 'training diverged'}. The error was "
        f"{percent(r.error)}, and became {percent(r.deep_error.mean())} with the new "
        f"{'unit' if r.num_new == 1 else 'units'} and {percent(r.untouched_error.mean())} without. New "
        f"units now change their input by {percent(r.change.mean())} of its norm.",
        *refused,
    ]


def table(r: Surgery) -> Columns:
    return {
        "repeat": [str(i + 1) for i in range(len(r.change))],
        "first loss, deeper": numbers(r.deep_loss[:, 0]),
        "first loss, untouched": numbers(r.untouched_loss[:, 0]),
        "loss in the second half, deeper": numbers(_second_half(r.deep_loss)),
        "loss in the second half, untouched": numbers(_second_half(r.untouched_loss)),
        "error after, deeper": percents(r.deep_error),
        "error after, untouched": percents(r.untouched_error),
    }


def summary(r: Surgery) -> dict[str, str]:
    more = f"{round(100 * excess(r), 1) + 0.0:+} %" if np.isfinite(excess(r)) else "diverged"
    return {"training loss with units inserted": more}


def measure(bench: Bench) -> Surgery:
    given = bench.evaluation()
    train = bench.training(bench.run.train_batch_size * bench.options.gradient_batches)
    bench.choices["data"] += f"; batches from the first {len(train[1]):,} of training"
    return surgery(*given, train=train, seed=bench.options.seed, **bench.running)


def cost(run: Subject, options: Options) -> Cost:
    only_modules(run.network, "new units")
    count, trainings = evaluated(run, options), 2 * REPEATS
    steps = trainings * STEPS * TRAIN_BATCH
    measured = (trainings + 2) * count
    return Cost(forward=steps + measured, backward=2 * steps, compilations=14, evaluated=count)


STUDY = Study(
    name="surgery",
    title="Surgery: units that do nothing",
    question=(
        "Can a trained network be made deeper without harm? Units that pass their input on unchanged are "
        "inserted at the front, in the middle and at the end. The outputs should stay the same; then the "
        "deeper network and the untouched one continue training, side by side."
    ),
    code=(
        "resjax.analysis.surgery(*run.evaluation(10_000), train=run.examples('train', 512), loss=run.loss)"
    ),
    result=Surgery,
    unsuited=lambda run: fixed_depth(run.network),  # other reasons show only in the attempt
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says=dict.fromkeys(AFTERWARDS, _clause),
    points=points,
    notes=lambda results: [
        "An unchanged function is what the construction promises. That a start does no harm does not mean "
        "that more depth helps, nor that training from scratch would find such units."
    ],
    table=table,
    summary=summary,
)
