"""Training and evaluation steps as pure functions, without any device layout.

(seed, step) determines a step's examples, how they are augmented and mixed, the order of the units, and the
dropped units and activations. So a resumed run repeats no step and skips none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from resjax.data import Statistics, augment, randaugment, standardize
from resjax.network import Network
from resjax.network.losses import Loss, distillation
from resjax.network.norms import layer_norms, output_norm, zero_norms
from resjax.network.shuffle import shuffled
from resjax.training.mixing import Labels, mixed

Batch = Mapping[str, jax.Array]
Metrics = dict[str, Any]
_NORMS = ("gradient", "parameter", "update")
# Numbers that are folded into keys; those of examples and of parts of a network count from 0.
_MIXING, _ORDER = 2**31 - 1, 2**31 - 2


class TrainState(struct.PyTreeNode):
    """All that changes in training, and the run's random key.

    Attributes:
      step: int32 scalar, the number of updates so far.
      params, batch_stats: the network's variables.
      opt_state: the state of the optax optimizer.
      key: the run's key; step t draws from ``fold_in(key, t)``.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """Those with which the network is evaluated and analyzed."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class AveragedState(TrainState):
    """A state with an exponential moving average of the variables, of a run with ``train.ema`` above 0.

    It is a class of its own, so the checkpoints of other runs have no such entry.

    Attributes:
      average: a_t = d · a_(t−1) + (1 − d) · (the variables after step t), from the initial ones on; with
        BatchNorm's statistics, which belong to the parameters.
    """

    average: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The average."""
        return dict(self.average)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is constant in training: network, loss, optimizer, and the preprocessing of images.

    Attributes:
      norms_every: norms of gradients, parameters and updates are measured at multiples of this step number
        and are 0 at other steps.
      activations: at those steps, also measure the norm of every unit's output, in running order.
      operations, magnitude, probability: of ``randaugment``.
      mixup, cutmix: α of each, see ``resjax.training.mixing``; 0 for none.
      shuffle: the kind of orders in which the units run, see ``resjax.network.shuffle``.
      ema: d in 0 … 1, the decay of the average of the variables; 0 for no average.
    """

    network: Network
    loss: Loss
    optimizer: optax.GradientTransformation
    rate: optax.Schedule
    constants: Statistics
    pad: int = 0
    flip: bool = False
    norms_every: int = 1
    activations: bool = False
    operations: int = 0
    magnitude: float = 0.0
    probability: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    shuffle: str = "none"
    ema: float = 0.0


class Teacher(struct.PyTreeNode):
    """A trained network whose soft targets are learned; its arrays are arguments of the compiled steps.

    Attributes:
      variables: of ``network``.
      constants: with which its images are standardized and padded, those of its own training.
      network: the trained network, which is run in inference mode.
      temperature: T > 0 of ``distillation``.
      weight: w in 0 … 1; the whole loss is (1 − w) · the loss on labels + w · ``distillation``.
    """

    variables: Any
    constants: Statistics
    network: Network = struct.field(pytree_node=False)
    temperature: float = struct.field(pytree_node=False)
    weight: float = struct.field(pytree_node=False)


def first_state(key: jax.Array, *, task: Task, image_shape: tuple[int, int, int]) -> TrainState:
    """The state before the first step, as a pure function of a random key."""
    init_key, key = jax.random.split(key)
    return state_of(task, task.network.init(init_key, image_shape), key)


def state_of(task: Task, variables: Mapping[str, Any], key: jax.Array) -> TrainState:
    """The state at step 0 with given variables and random key; the optimizer and the average start there."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    given: dict[str, Any] = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": task.optimizer.init(params),
        "key": key,
    }
    if not task.ema:
        return TrainState(**given)
    # Copies: a state with the same array at two places can't be donated.
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    return AveragedState(**given, average=average)


def state_maker(task: Task, image_shape: tuple[int, int, int]) -> jax.stages.Wrapped:
    """``first_state`` as a jitted function of a random key."""
    # It runs once, so fast compilation matters more than fast execution.
    quick = {"xla_backend_optimization_level": 0}
    make = functools.partial(first_state, task=task, image_shape=image_shape)
    return jax.jit(make, compiler_options=quick)


def create_state(task: Task, seed: int, image_shape: tuple[int, int, int]) -> TrainState:
    """The state before the first step, as a function of the seed."""
    return state_maker(task, image_shape)(jax.random.key(seed))


class Drawn(NamedTuple):
    """What a step runs on: images float32 [B, H, W, C], their labels, and the network's key and order (int
    [units], or None)."""

    images: jax.Array
    labels: Labels
    key: jax.Array
    order: jax.Array | None


def training_input(state: TrainState, batch: Batch, *, task: Task) -> Drawn:
    """The examples of this step, augmented and mixed, and what is drawn for the network."""
    augment_key, network_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    x = augmented(batch["image"], batch["slot"], augment_key, task=task)
    mixing = jax.random.fold_in(augment_key, _MIXING)
    x, labels = mixed(x, batch["label"], mixing, mixup=task.mixup, cutmix=task.cutmix)
    order = None
    if task.shuffle != "none":
        order = shuffled(jax.random.fold_in(network_key, _ORDER), task.network, task.shuffle)
    return Drawn(x, labels, network_key, order)


def soft_targets(state: TrainState, batch: Batch, *, task: Task, teacher: Teacher | None) -> jax.Array | None:
    """The teacher's logits float32 [B, classes] for the images of this step; None without one."""
    if teacher is None:
        return None
    seen = training_input(state, batch, task=dataclasses.replace(task, constants=teacher.constants))
    return teacher.network.apply(teacher.variables, seen.images).logits


def training_loss(
    logits: jax.Array, labels: Labels, targets: jax.Array | None, *, task: Task, teacher: Teacher | None
) -> jax.Array:
    """What a step decreases, the mean over the batch: ``task.loss``, and with a teacher the mixture that
    ``Teacher`` states; ``targets`` are its ``soft_targets``."""
    loss = labels.weigh(lambda own: task.loss(logits, own))
    if teacher is not None and targets is not None:
        soft = distillation(logits, targets, teacher.temperature)
        loss = (1 - teacher.weight) * loss + teacher.weight * soft
    return jnp.mean(loss)


def augmented(images: jax.Array, slots: jax.Array, key: jax.Array, *, task: Task) -> jax.Array:
    """uint8 images [B, H, W, C], standardized and augmented as in training; slot i [B] seeds image i."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slots)
    if task.operations:
        images = randaugment(
            images,
            jax.vmap(jax.random.fold_in, (0, None))(keys, 2),  # ``augment`` splits them into 0 and 1
            operations=task.operations,
            magnitude=task.magnitude,
            probability=task.probability,
            fill=task.constants.outside,
        )
    x = standardize(images, task.constants)
    return augment(x, keys, pad=task.pad, flip=task.flip, fill=task.constants.fill)


def train_step(
    state: TrainState,
    batch: Batch,
    teacher: Teacher | None = None,
    *,
    task: Task,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update, or none: a step whose result is not finite leaves the state unchanged.

    Args:
      state: before the step.
      batch: ``image`` uint8 [B, H, W, C], ``label`` int32 [B], and ``slot`` int32 [B], the position of each
        example in the global batch, which seeds its augmentation.
      teacher: a network whose soft targets are part of the loss.
      task: what is constant in training.
      axis_name: under ``pmap``, its axis. Gradients, metrics and running statistics are averaged over it,
        while BatchNorm normalizes by the statistics of each device's share. All devices draw the same dropout
        masks.

    Returns:
      The state after the step, and ``loss`` (``training_loss``) and ``error`` (with mixed examples against
      the label of the larger weight), which are means over the batch before the update; ``learning_rate``,
      ``finite``, and ``norms``: L2 norms of each layer, see ``Task.norms_every``.
    """
    network = task.network
    x, labels, network_key, order = training_input(state, batch, task=task)
    targets = soft_targets(state, batch, task=task, teacher=teacher)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        tap = output_norm if task.activations else None
        out = network.apply(variables, x, train=True, key=network_key, order=order, tap=tap)
        error = jnp.mean(jnp.argmax(out.logits, -1) != labels.main)
        loss = training_loss(out.logits, labels, targets, task=task, teacher=teacher)
        return loss, (error, out.batch_stats, out.taps)

    (loss, (error, batch_stats, taps)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    if axis_name is not None:
        averaged = (loss, error, grads, batch_stats, taps)
        loss, error, grads, batch_stats, taps = lax.pmean(averaged, axis_name)
    updates, opt_state = task.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    # A non-finite gradient gives a non-finite parameter.
    finite = jnp.isfinite(loss) & all_finite((params, batch_stats))
    new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
    if isinstance(new, AveragedState):
        now = {"params": params, "batch_stats": batch_stats}
        new = new.replace(
            average=jax.tree.map(lambda a, v: task.ema * a + (1 - task.ema) * v, new.average, now)
        )
    # A branch, not ``where`` on each leaf: XLA would then recompute ``finite`` in each leaf's
    # kernel from the flags of all leaves, which took a quarter of the compile time.
    new = lax.cond(finite, lambda: new, lambda: state)

    def norms() -> Metrics:
        trees = dict(zip(_NORMS, (grads, state.params, updates), strict=True))
        measured = {kind: layer_norms(network, tree) for kind, tree in trees.items()}
        return measured | ({"activation": taps} if task.activations else {})

    measure = (state.step + 1) % task.norms_every == 0
    metrics = {
        "loss": loss,
        "error": error,
        "learning_rate": jnp.asarray(task.rate(state.step), jnp.float32),
        "finite": finite,
        "norms": lax.cond(measure, norms, lambda: no_norms(state.params, task=task)),
    }
    return new, metrics


def train_steps(
    state: TrainState,
    images: Batch | None,
    batches: Batch,
    start: jax.Array,
    count: jax.Array,
    teacher: Teacher | None = None,
    *,
    task: Task,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Up to ``count`` training steps from step ``start``, in one program.

    They run in a ``while`` loop with a *traced* number of iterations, so one compilation serves every
    ``count``. The loop ends at the first step whose result is not finite.

    Args:
      state: before the first of the steps. If ``state.step`` is not ``start``, because an earlier call has
        stopped, no step is run.
      images: None, or a whole data set ``image`` uint8 [N, H, W, C], ``label`` int32 [N].
      batches: one entry for each step, [most, B, …]: ``slot`` and either ``index`` int32 (into ``images``) or
        ``image`` and ``label``.
      start, count: int32 scalars, count ≤ most.
      teacher, task, axis_name: as in ``train_step``.

    Returns:
      The state, and the metrics of ``train_step``: ``loss``, ``error``, ``learning_rate``, ``finite`` [most]
      (0 and True where no step was run), and ``norms`` of the last step.
    """

    def batch_at(i: jax.Array) -> Batch:
        batch = {k: lax.dynamic_index_in_dim(v, i, keepdims=False) for k, v in batches.items()}
        if images is None:
            return batch
        chosen = {k: jnp.take(v, batch["index"], axis=0) for k, v in images.items()}
        return {"slot": batch["slot"], **chosen}

    def run(carry: tuple[jax.Array, TrainState, Metrics, Metrics]) -> Any:
        i, state, series, _ = carry
        state, metrics = train_step(state, batch_at(i), teacher, task=task, axis_name=axis_name)
        norms = metrics.pop("norms")
        series = {k: v.at[i].set(metrics[k]) for k, v in series.items()}
        return i + 1, state, series, norms

    def goes_on(carry: tuple[jax.Array, TrainState, Metrics, Metrics]) -> jax.Array:
        i, state, _, _ = carry
        return (i < count) & (state.step == start + i)

    most = batches["slot"].shape[0]
    numbers = {k: jnp.zeros((most,), jnp.float32) for k in ("loss", "error", "learning_rate")}
    series = {**numbers, "finite": jnp.ones((most,), bool)}
    first = (jnp.int32(0), state, series, no_norms(state.params, task=task))
    _, state, series, norms = lax.while_loop(goes_on, run, first)
    return state, {**series, "norms": norms}


def no_norms(params: Any, *, task: Task) -> Metrics:
    """Zeros with the structure of a step's norms."""
    zeros: Metrics = dict.fromkeys(_NORMS, zero_norms(task.network, params))
    if task.activations:
        stacks = task.network.stacks
        zeros["activation"] = {stack.name: jnp.zeros(stack.n, jnp.float32) for stack in stacks}
    return zeros


def eval_step(variables: Any, batch: Batch, *, task: Task) -> Metrics:
    """Sums over one batch, in inference mode.

    Args:
      variables: of the network.
      batch: ``image``, ``label`` as in training, and ``mask`` float32 [B], 0 for padding.
      task: what is constant in training.

    Returns:
      ``loss`` (``task.loss``, so with label smoothing, and without a teacher) and ``error``: sums over the
      examples with mask 1; ``count``: their number.
    """
    x = standardize(batch["image"], task.constants)
    logits = task.network.apply(variables, x).logits
    mask = batch["mask"]
    wrong = jnp.argmax(logits, -1) != batch["label"]
    return {
        "loss": jnp.sum(jnp.where(mask > 0, task.loss(logits, batch["label"]), 0)),
        "error": jnp.sum(wrong * mask),
        "count": jnp.sum(mask),
    }


def eval_steps(variables: Any, batches: Batch, *, task: Task) -> Metrics:
    """The sums of ``eval_step`` over batches [n, B, …], in one program."""
    sums = lax.map(lambda batch: eval_step(variables, batch, task=task), batches)
    return jax.tree.map(jnp.sum, sums)


def all_finite(tree: Any) -> jax.Array:
    """bool scalar: whether every leaf has a finite sum, so every element is finite.

    A leaf of finite elements whose sum overflows counts as non-finite. Testing each element would take twice
    as many kernels.
    """
    sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.isfinite(jnp.stack(sums))) if sums else jnp.array(True)
