"""Gradient norms layer by layer: does every layer get a signal to learn from?

*Question.* Back-propagation multiplies one Jacobian a layer. If the factors are smaller than 1 the
gradient of the first layers vanishes with depth, if larger it explodes. In x_{l+1} = x_l + F(x_l),

    ∂L/∂x_l = ∂L/∂x_L · (1 + ∂/∂x_l Σ_i F(x_i)),

the "1" carries the gradient past all weights (He et al. 2016, Eq. 5). Measured here is what training
sees: ‖∂L/∂W‖₂ of each kernel, L the mean loss of one batch, for several batches; and beside it ‖W‖₂ of each
kernel, the mean over examples of ‖y‖₂ of each unit's output, and at step 0, given the optimizer, ‖ΔW‖₂ of
the first step that a batch would make. (At later moments an optimizer has a memory that is not at hand.)

*Reading it.* Compare the first layers with the last ones of the same network; layers of other sizes differ
by their size alone, so steps between stages mean little. With BatchNorm the gradient of a kernel also
scales as 1/‖W‖, and plain networks *with* it have gradients that do not vanish (He et al. 2015, §4.1).
A trained network that fits every example has small gradients everywhere.

*Cost.* One forward and one backward pass for each batch; a compilation with the first update, one without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.network.norms import flatten_norms, flatten_taps, layer_norms, output_norm
from resjax.studies import style
from resjax.studies.batches import Progress, check_examples, check_images, count_classes
from resjax.studies.intervals import of_mean
from resjax.studies.marks import band_on_log
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class GradientNorms(Result):
    """Gradient norms of the kernels of one network at one or more moments of its training
    (``resjax.studies.moments.join``).

    Attributes:
      layer: names from the first layer to the last, like ``stage2/unit3/conv1/kernel``.
      step: int [step], training steps done at each moment.
      norm: [step, batch, layer], ‖∂L/∂W‖₂ of a batch's mean loss.
      loss: [step, batch], that loss, nats.
      parameter: [step, layer], ‖W‖₂.
      update: [step, batch, layer], ‖ΔW‖₂ of the optimizer's first step; NaN at other moments than step 0,
        and without an optimizer.
      unit: names of the units, like ``stage2/unit3``.
      activation: [step, batch, unit], mean over the examples of ‖y‖₂ of a unit's output.
      residual: whether some unit has a shortcut.
      batch_size: examples a batch.
      choices: what the papers leave open.
    """

    AXES: ClassVar = {
        "step": ("step",),
        "norm": ("step", "batch", "layer"),
        "loss": ("step", "batch"),
        "parameter": ("step", "layer"),
        "update": ("step", "batch", "layer"),
        "activation": ("step", "batch", "unit"),
    }

    layer: tuple[str, ...]
    step: np.ndarray
    norm: np.ndarray
    loss: np.ndarray
    parameter: np.ndarray
    update: np.ndarray
    unit: tuple[str, ...]
    activation: np.ndarray
    residual: bool
    batch_size: int
    choices: dict[str, Any]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As ``Result.from_json``; earlier versions had norms of gradients alone, the others are NaN then."""
        steps, batches, layers = np.shape(data["norm"])
        unknown = {
            "parameter": np.full((steps, layers), np.nan).tolist(),
            "update": np.full((steps, batches, layers), np.nan).tolist(),
            "unit": [],
            "activation": np.zeros((steps, batches, 0)).tolist(),
        }
        return super().from_json({**unknown, **data})

    @property
    def mean(self) -> np.ndarray:
        """[step, layer], the mean norm over batches."""
        return self.norm.mean(axis=1)

    @property
    def interval(self) -> np.ndarray:
        """[end, step, layer], 95 % interval of the mean over other batches; NaN with one batch."""
        return np.stack(of_mean(self.norm, 1))


def gradient_norms(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    optimizer: optax.GradientTransformation | None = None,
    train: bool = True,
    batch_size: int = 128,
    max_batches: int = 8,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> GradientNorms:
    """‖∂L/∂W‖₂ of every kernel, L the mean loss of a batch, for the first batches of the data; and the norms
    of kernels, of outputs of units, and of the first update.

    Args:
      network: any.
      variables: at init, or from any checkpoint.
      images: float [N, H, W, C], standardized as in training. Training images, in any fixed order.
      labels: int [N].
      loss: (logits [B, classes], labels [B]) → [B].
      optimizer: that of the training, for the norms of its first update; None for none.
      train: with the batch's own BatchNorm statistics, dropout and stochastic depth, as training sees it;
        False: with running statistics, which at init are not those of any data.
      batch_size: examples a batch; fewer only if there are fewer in all. Examples beyond the last whole
        batch are not used, because batch statistics need batches of one size.
      max_batches: most batches.
      step: training steps done, to note in the result.
      seed: of dropout and stochastic depth.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, a network without a kernel.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    shape = images.shape[1:]
    check_examples(images, labels, count_classes(network, variables, shape))
    if batch_size < 1 or max_batches < 1:
        raise ValueError(
            f"batch_size={batch_size}, max_batches={max_batches}; allowed: 1 or more of each"
        )
    size = min(batch_size, len(images))
    count = min(max_batches, len(images) // size)
    optimizer = optimizer if step == 0 else None
    losses, rows, updates, outputs = [], [], [], []
    names, weights = _of_kernels(network, jax.device_get(_kernel_norms(network, variables)), shape)
    if not names:
        raise Refusal("this network has no parameter of the name 'kernel'")
    cores = on_cores.shared_cores().if_shared(size)
    variables = cores.copy(variables)
    for i in range(count):
        if progress:
            progress(i, count)
        batch = slice(i * size, (i + 1) * size)
        key = jax.random.fold_in(jax.random.key(seed), i)
        x, y = cores.split((images[batch], labels[batch].astype(np.int32)))
        measured = _batch_norms(cores, network, loss, optimizer, train, variables, x, y, key)
        value, norms, changes, taps = jax.device_get(measured)
        rows.append(_of_kernels(network, norms, shape)[1])
        updates.append(_of_kernels(network, changes, shape)[1] or [np.nan] * len(names))
        outputs.append(flatten_taps(network, taps))
        losses.append(float(value))
    if progress:
        progress(count, count)
    return GradientNorms(
        layer=tuple(names),
        step=np.array([step]),
        norm=np.array([rows], np.float64),
        loss=np.array([losses], np.float64),
        parameter=np.array([weights], np.float64),
        update=np.array([updates], np.float64),
        unit=tuple(unit.name for unit in network.units),
        activation=np.array([outputs], np.float64),
        residual=any(stack.unit.residual for stack in network.stacks),
        batch_size=size,
        choices={
            "BatchNorm": "statistics of the batch" if train else "running statistics",
            "loss": "mean of a batch, without weight decay",
            "batches": f"{count} of {size} examples",
            "seed": seed,
        },
    )


def _of_kernels(
    network: Network, norms: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[list[str], list[float]]:
    """Names and norms of the kernels among all parameters, from the first layer to the last."""
    kernels = {name: value for name, value in norms.items() if name.endswith("/kernel")}
    flat = flatten_norms(network, kernels, shape)
    return [name for name, _ in flat], [value for _, value in flat]


@partial(jax.jit, static_argnums=0)
def _kernel_norms(network: Network, variables: Variables) -> dict[str, jax.Array]:
    return layer_norms(network, variables["params"])


@on_cores.jit(static=5)
def _batch_norms(
    cores: on_cores.Cores,
    network: Network,
    loss: Loss,
    optimizer: optax.GradientTransformation | None,
    train: bool,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array], dict[str, Any]]:
    params = variables["params"]

    def loss_of(params: Any) -> tuple[jax.Array, dict[str, Any]]:
        own = {**variables, "params": params}
        out = network.apply(own, images, train=train, key=key, tap=output_norm)
        return jnp.mean(loss(out.logits, labels)), out.taps

    (value, taps), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    changes = {}
    if optimizer is not None:
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        changes = layer_norms(network, updates)
    return value, layer_norms(network, grads), changes, taps


def plot(results: GradientNorms | Mapping[str, GradientNorms], ax: Axes | None = None) -> Figure:
    """Gradient norm of each kernel from the first layer to the last: colours tell runs, lines moments.

    The line is the mean over batches, the band its 95 % interval.
    """
    named = {"": results} if isinstance(results, GradientNorms) else dict(results)
    fig, ax = style.axes(ax)
    ax.set_yscale("log")
    for i, (label, result) in enumerate(named.items()):
        number = 1 + np.arange(len(result.layer))
        for t, step in enumerate(result.step):
            look: dict[str, Any] = {"color": style.color(i), "lw": 1.6 if t == 0 else 1.3}
            name = f"{label}, {moment(int(step))}".strip(", ")
            # A norm of exactly 0 has no place on a logarithmic axis.
            mean = np.where(result.mean[t] > 0, result.mean[t], np.nan)
            ax.plot(number, mean, style.LINES[t % len(style.LINES)], label=name, **look)
            low, high = result.interval[:, t]
            band_on_log(ax, number, low, high, look["color"])
    ax.set(xlabel="kernel, from the first layer to the last", ylabel="‖∂L/∂W‖")
    style.legend_above(fig, ax)
    return fig


def moment(step: int) -> str:
    """A step in words."""
    return "at init" if step == 0 else f"after {step:,} steps"
