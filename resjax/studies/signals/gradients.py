"""Gradient norms layer by layer: does every layer get a signal to learn from?

*Question.* Back-propagation multiplies one Jacobian for each layer. If the factors are smaller than 1,
the gradient of the first layers vanishes with depth; if they are larger, it explodes. In x_{l+1} = x_l +
F(x_l),

    ∂L/∂x_l = ∂L/∂x_L · (1 + ∂/∂x_l Σ_i F(x_i)),

the "1" carries the gradient past all weights (He et al. 2016, Eq. 5). This study measures what training
uses: ‖∂L/∂W‖₂ of each kernel, where L is the mean loss of one batch, for several batches. It also
measures ‖W‖₂ of each kernel, the mean over examples of ‖y‖₂ of each unit's output, and at step 0, given
the optimizer, ‖ΔW‖₂ of the first update that a batch would make. (At later moments the optimizer has a
state that is not at hand.)

*Reading it.* Compare the first layers with the last layers of the same network. Layers of different sizes
have different norms, so steps between stages mean little. With BatchNorm the gradient of a kernel also
scales as 1/‖W‖, and plain networks *with* BatchNorm have gradients that do not vanish (He et al. 2015,
§4.1). A trained network that fits every example has small gradients everywhere.

*Cost.* One forward and one backward pass for each batch; a compilation with the first update, one without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Self

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
from resjax.studies.batches import Progress
from resjax.studies.intervals import of_mean
from resjax.studies.marks import band_on_log
from resjax.studies.moments import first_moment, moment
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result
from resjax.studies.signals.near_one import ALIKE, places
from resjax.studies.signals.norms_over_training import evenness, quarters
from resjax.studies.signals.training_batches import first_batches, init_and_now, training_batches
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.words import around, factor, join, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Gradients(Result):
    """Gradient norms of the kernels of one network at one or more moments
    (``resjax.studies.moments.join``)."""

    layer: tuple[str, ...]  # kernels from the first layer to the last: stage2/unit3/conv1/kernel
    step: Annotated[np.ndarray, "step"]  # int, training steps done at each moment
    norm: Annotated[np.ndarray, "step", "batch", "layer"]  # ‖∂L/∂W‖₂ of a batch's mean loss
    loss: Annotated[np.ndarray, "step", "batch"]  # that loss, nats
    parameter: Annotated[np.ndarray, "step", "layer"]  # ‖W‖₂
    # ‖ΔW‖₂ of the optimizer's first step; NaN at other moments than step 0, and without an optimizer.
    update: Annotated[np.ndarray, "step", "batch", "layer"]
    unit: tuple[str, ...]  # names of the units: stage2/unit3
    # Mean over the examples of ‖y‖₂ of a unit's output.
    activation: Annotated[np.ndarray, "step", "batch", "unit"]
    residual: bool  # whether some unit has a shortcut
    batch_size: int

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As ``Result.from_json``; older files have norms of gradients alone, and get NaN for the
        others."""
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


def gradients(
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
) -> Gradients:
    """‖∂L/∂W‖₂ of every kernel, for the first batches of the data; and the norms of kernels, of outputs of
    units, and of the first update.

    Args:
      network: any.
      variables: at init, or from any checkpoint.
      images: float [N, H, W, C], training images, standardized as in training, in any fixed order.
      labels: int [N].
      optimizer: that of the training, for the norms of its first update; None for none.
      train: with batch statistics, dropout and stochastic depth, as in training; False: with running
        statistics, which at init are not those of any data.
      batch_size, max_batches, step, seed: see ``training_batches``.
      loss, progress: see ``Inference``.

    Raises:
      ValueError: no example, images or labels of a wrong form, a network without a kernel.
    """
    batches = first_batches(network, variables, images, labels, batch_size, max_batches)
    shape, size = np.shape(images)[1:], batches.size
    optimizer = optimizer if step == 0 else None
    names, weights = _of_kernels(network, jax.device_get(_kernel_norms(network, variables)), shape)
    if not names:
        raise Refusal("this network has no parameter of the name 'kernel'")
    cores = on_cores.shared_cores().if_shared(size)
    variables = cores.copy(variables)
    losses, rows, updates, outputs = [], [], [], []
    for *batch, key in batches.keyed(seed, progress):
        x, y = cores.split(tuple(batch))
        measured = _batch_norms(cores, network, loss, optimizer, train, variables, x, y, key)
        value, norms, changes, taps = jax.device_get(measured)
        rows.append(_of_kernels(network, norms, shape)[1])
        updates.append(_of_kernels(network, changes, shape)[1] or [np.nan] * len(names))
        outputs.append(flatten_taps(network, taps))
        losses.append(float(value))
    return Gradients(
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
            "batches": str(batches),
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


# --- what the report shows ---


def plot(results: Mapping[str, Gradients]) -> Figure:
    """Gradient norm of each kernel from the first layer to the last: mean over batches, and its 95 %
    interval.

    Colours tell runs apart, line styles moments.
    """
    fig, ax = style.axes()
    ax.set_yscale("log")
    for i, (label, r) in enumerate(results.items()):
        number, color = 1 + np.arange(len(r.layer)), style.color(i)
        for t, step in enumerate(r.step):
            name = f"{label}, {moment(int(step))}".strip(", ")
            # A norm of exactly 0 has no place on a logarithmic axis.
            mean = np.where(r.mean[t] > 0, r.mean[t], np.nan)
            ls, lw = style.LINES[t % len(style.LINES)], 1.6 if t == 0 else 1.3
            ax.plot(number, mean, ls, label=name, color=color, lw=lw)
            low, high = r.interval[:, t]
            band_on_log(ax, number, low, high, color)
    ax.set(xlabel="kernel, from the first layer to the last", ylabel="‖∂L/∂W‖")
    style.legend_above(fig, ax)
    return fig


def headline(results: Mapping[str, Gradients]) -> str:
    """In which network gradients are most uneven from the first to the last layer."""
    ratios = {label: float(evenness(r.mean[0])) for label, r in results.items()}
    verdict, even, uneven, low, high = places(ratios)
    if len(results) == 1:
        said = _one(even, ratios[even])
    elif verdict == "none":
        said = _one(join(list(results)), np.nan)
    elif verdict == "alike":
        said = "gradients are spread alike over the layers of these networks"
    elif verdict == "opposite":
        said = (
            "gradients are about as uneven in these networks, but not the same way: first ÷ last layers "
            f"{factor(ratios[high])} in {high}, {factor(ratios[low])} in {low}"
        )
    else:
        said = (
            f"gradients are spread more evenly in {even} than in {uneven}: first ÷ last layers "
            f"{factor(ratios[even])} against {factor(ratios[uneven])}"
        )
    return f"{first_moment(results)}, {said}"


def _one(label: str, ratio: float) -> str:
    """Of one network, whose first layers get ``ratio`` times the gradient of its last layers."""
    if not np.isfinite(ratio) or ratio <= 0:
        return f"some of the first or last layers of {label} get no gradient"
    if 1 / ALIKE <= ratio <= ALIKE:
        return f"gradients in {label} are about as large in the first layers as in the last"
    times = f"{factor(ratio)} times larger" if ratio > 1 else f"{factor(1 / ratio)} times smaller"
    return f"gradients in {label} are {times} in the first layers than in the last"


def points(label: str, r: Gradients) -> list[str]:
    parts = []
    for t, step in enumerate(r.step):
        with np.errstate(divide="ignore", invalid="ignore"):  # Student's t of the logarithms
            low, high = np.exp(of_mean(np.log(evenness(r.norm[t])), 0))
        parts.append(
            f"{moment(int(step))} the median kernel's gradient has norm {factor(np.median(r.mean[t]))}, and "
            f"the first quarter of the kernels gets {factor(evenness(r.mean[t]))}{around((low, high))} times "
            "that of the last quarter"
        )
    return [f"{label}: {'; '.join(parts)}.{_others(r)}"]


def _others(r: Gradients) -> str:
    """The other norms at init, where that is a moment."""
    if 0 not in r.step:
        return ""
    at = r.step.tolist().index(0)
    weights, update = r.parameter[at], r.update[at].mean(0)
    first, last = map(factor, quarters(weights))
    text = f" At init the first quarter of the kernels has norm {first}, the last {last}"
    if np.isfinite(update).all() and weights.all():
        first, last = map(factor, quarters(update / weights))
        text += f", and the first update changes them by {first} and {last} of that"
    if r.unit:
        first, last = map(factor, r.activation[at].mean(0)[[0, -1]])
        text += f"; the output of the first unit has norm {first}, that of the last {last}"
    return f"{text}."


def table(r: Gradients) -> Columns:
    """One row for each kernel, then one for each unit: means over batches."""
    moments, layers, units = len(r.step), len(r.layer), len(r.unit)
    no_layer, no_unit = np.full((moments, layers), np.nan), np.full((moments, units), np.nan)
    kinds = {
        "‖∂L/∂W‖": (r.mean, no_unit),
        "‖W‖": (r.parameter, no_unit),
        "‖y‖": (no_layer, r.activation.mean(1)),
    }
    columns = {"kernel or unit": [*r.layer, *r.unit]}
    for kind, parts in kinds.items():
        rows = np.concatenate(parts, axis=1)
        columns |= {
            f"{kind} {moment(int(s))}": numbers(row) for s, row in zip(r.step, rows, strict=True)
        }
    first = [*r.update[0].mean(0), *no_unit[0]]
    return {**columns, "‖ΔW‖ of the first step": numbers(first)}


def summary(r: Gradients) -> dict[str, str]:
    ratio = factor(evenness(r.mean[0]))
    return {"gradient at init, first ÷ last layers": ratio} if r.step[0] == 0 else {}


def measure(bench: Bench) -> Gradients:
    images, labels, batches = training_batches(bench)
    optimizer, loss = bench.run.experiment.task.optimizer, bench.run.loss
    return init_and_now(bench, gradients, images, labels, loss=loss, optimizer=optimizer, **batches)


STUDY = Study(
    name="gradients",
    title="Gradients, layer by layer",
    question=(
        "Does every layer get a signal to learn from? Shown is the norm of the gradient of each kernel, for "
        "batches of training images, before the first step and now; the table also has the norms of kernels, "
        "of their first update and of units' outputs."
    ),
    code=(
        "images, labels = run.examples('train', 8 * run.config.train.batch_size)\n"
        "resjax.analysis.gradients(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                          batch_size=run.config.train.batch_size)"
    ),
    result=Gradients,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
    summary=summary,
)
