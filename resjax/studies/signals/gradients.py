"""Gradient norms layer by layer: does every layer get a signal to learn from?

*Question.* Back-propagation multiplies one Jacobian for each layer. If the factors are smaller than 1, the
gradient of the first layers vanishes with depth; if they are larger, it explodes. In x_{l+1} = x_l + F(x_l),

    ∂L/∂x_l = ∂L/∂x_L · (1 + ∂/∂x_l Σ_i F(x_i)),

the "1" carries the gradient past all weights (He et al. 2016, Eq. 5). This study measures what training uses:
‖∂L/∂W‖₂ of each kernel, where L is the mean loss of one batch, for several batches. It also measures ‖W‖₂ of
each kernel, the mean over examples of ‖y‖₂ of each unit's output, and at step 0, given the optimizer, ‖ΔW‖₂
of the first update that a batch would make. (Later updates depend on the optimizer's state, which is not
available.)

*Reading it.* Compare the first layers with the last layers of the same network. Layers of different sizes
have different norms, so steps between stages mean little. With BatchNorm the gradient of a kernel also scales
as 1/‖W‖, and plain networks *with* BatchNorm have gradients that do not vanish (He et al. 2015, §4.1). A
trained network that fits every example has small gradients everywhere.

*Cost.* One forward and one backward pass for each batch; two compilations: with and without the first update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Self, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.example import one_example
from resjax.network.losses import Loss, cross_entropy
from resjax.network.norms import flatten_norms, flatten_taps, kernel_names, layer_norms, output_norm
from resjax.network.refusal import Refusal
from resjax.studies import pointing, style
from resjax.studies.costs import Cost, of_first_batches
from resjax.studies.intervals import of_mean
from resjax.studies.marks import band_on_log
from resjax.studies.moments import first_moment, moment
from resjax.studies.options import Options
from resjax.studies.result import Result
from resjax.studies.signals.near_one import ALIKE, compared
from resjax.studies.signals.norms_over_training import evenness, quarters
from resjax.studies.signals.training_batches import FirstBatches, first_batches, on_training_batches
from resjax.studies.study import Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import around, factor, join, numbers, with_ends


@dataclasses.dataclass(frozen=True)
class Gradients(Result):
    """Gradient norms of the kernels; join moments with ``resjax.studies.moments.join``."""

    # Kernels from the first layer to the last: stage2/unit3/conv1/kernel (``kernel_names``).
    layer: tuple[str, ...]
    step: Annotated[np.ndarray, "step"]  # int, training steps done at each moment
    norm: Annotated[np.ndarray, "step", "batch", "layer"]  # ‖∂L/∂W‖₂ of a batch's mean loss
    loss: Annotated[np.ndarray, "step", "batch"]  # that loss, nats
    parameter: Annotated[np.ndarray, "step", "layer"]  # ‖W‖₂
    # ‖ΔW‖₂ of the optimizer's first step; NaN at other moments than step 0, and without an optimizer.
    update: Annotated[np.ndarray, "step", "batch", "layer"]
    unit: tuple[str, ...]  # names of the units: stage2/unit3; none where other connections bypass units
    # Mean over the examples of ‖y‖₂ of a unit's output.
    activation: Annotated[np.ndarray, "step", "batch", "unit"]
    residual: bool  # whether some unit has a shortcut
    batch_size: int

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As ``Result.from_json``; older files hold norms of gradients alone, so the others become NaN."""
        nan = np.full(np.shape(data["norm"]), np.nan)
        older = {"parameter": nan[:, 0], "update": nan, "unit": [], "activation": nan[..., :0]}
        return super().from_json({**older, **data})

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
    images: Any,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    optimizer: optax.GradientTransformation | None = None,
    **how: Unpack[FirstBatches],
) -> Gradients:
    """‖∂L/∂W‖₂ of every kernel for the first batches of the data, and the other norms (see the module).

    Args: those of every analysis (``Inference``), with training images in any fixed order; ``how``, see
    ``FirstBatches``, where ``train`` also applies stochastic depth; and
      optimizer: the training's optimizer, for the norms of its first update; None skips them.

    Raises:
      Refusal: a network without a kernel.
    """
    if how.get("train") is None:  # of running statistics, gradients are those of fine-tuning
        how["train"] = network.trains
    batches = first_batches(network, variables, images, labels, **how)
    example = one_example(batches.pairs[0][0])
    optimizer = optimizer if batches.step == 0 else None

    names = kernel_names(network, variables["params"])

    def kernels(norms: Mapping[str, Any]) -> dict[str, float]:
        """From the first layer to the last."""
        own = {name: value for name, value in norms.items() if name in names}
        return dict(flatten_norms(network, own, example))

    parameter = kernels(_layer_norms(network, variables["params"]))
    if not parameter:
        raise Refusal("this network has no parameter named 'kernel', and none with two axes or more")
    cores = on_cores.shared_cores().if_shared(batches.size)
    variables = cores.copy(variables)

    def one(images: Any, labels: np.ndarray, key: jax.Array) -> tuple[Any, ...]:
        given = batches.train, variables, *cores.split((images, labels)), key
        found = _batch_norms(cores, network, loss, optimizer, *given)
        value, norms, changes, taps = jax.device_get(found)
        update = list(kernels(changes).values()) or [np.nan] * len(parameter)
        outputs = flatten_taps(network, taps) if network.chained else np.zeros(0)
        return list(kernels(norms).values()), value, update, outputs

    norm, losses, updates, activation = batches.measure(one)
    return Gradients(
        layer=tuple(parameter),
        step=np.array([batches.step]),
        norm=norm,
        loss=losses,
        parameter=np.array([list(parameter.values())]),
        update=updates,
        unit=tuple(unit.name for unit in network.units) if network.chained else (),
        activation=activation,
        residual=bool(network.residual.any()),
        batch_size=batches.size,
        choices={**batches.choices, "loss": "mean of a batch, without weight decay"},
    )


_layer_norms = jax.jit(layer_norms, static_argnums=0)


@on_cores.jit(static=5)
def _batch_norms(
    cores: on_cores.Cores,
    network: Network,
    loss: Loss,
    optimizer: optax.GradientTransformation | None,
    train: bool,
    variables: Variables,
    images: Any,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array], dict[str, Any]]:
    params = variables["params"]
    tap = output_norm if network.chained else None

    def loss_of(params: Any) -> tuple[jax.Array, dict[str, Any]]:
        own = {**variables, "params": params}
        out = network.apply(own, images, train=train, key=key, tap=tap)
        return jnp.mean(loss(out.logits, labels)), out.taps

    (value, taps), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    changes = {}
    if optimizer is not None:
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        changes = layer_norms(network, updates)
    return value, layer_norms(network, grads), changes, taps


# --- what the report shows ---


GRADIENT = "‖∂L/∂W‖"


def plot(results: Mapping[str, Gradients]) -> style.Figure:
    """Gradient norm of each kernel: mean over batches, and its 95 % interval.

    Colours tell runs apart, line styles moments.
    """
    fig, ax = style.axes()
    ax.set_yscale("log")
    for i, (label, r) in enumerate(results.items()):
        number, color = 1 + np.arange(len(r.layer)), style.color(i)
        for t, step in enumerate(r.step):
            name = f"{label}, {moment(step)}".strip(", ")
            # A norm of exactly 0 cannot be drawn on a logarithmic axis.
            mean = np.where(r.mean[t] > 0, r.mean[t], np.nan)
            ls, lw = style.LINES[t % len(style.LINES)], 1.6 if t == 0 else 1.3
            ax.plot(number, mean, ls, label=name, color=color, lw=lw)
            low, high = r.interval[:, t]
            band_on_log(ax, number, low, high, color)
        shown = tuple(f"{GRADIENT} {moment(step)}" for step in r.step)
        pointing.along(ax, label, r.layer, number, columns=shown, layers=True)
    ax.set(xlabel="kernel, from the first layer to the last", ylabel=GRADIENT)
    style.legend_above(fig, ax)
    return fig


def headline(results: Mapping[str, Gradients]) -> str:
    """In which network gradients are most uneven from the first to the last layer."""
    ratios = {label: float(evenness(r.mean[0])) for label, r in results.items()}
    said = compared(
        ratios,
        lambda label: factor(ratios[label]),
        alike="gradients are spread alike over the layers of these networks",
        apart="gradients are spread more evenly in {near} than in {far}: first ÷ last layers {of_near} "
        "against {of_far}",
        opposite="gradients are about equally uneven in these networks, but in opposite ways: first ÷ last "
        "layers {of_high} in {high}, {of_low} in {low}",
    )
    return f"{first_moment(results)}, {said or _one(join(list(ratios)), next(iter(ratios.values())))}"


def _one(label: str, ratio: float) -> str:
    """The clause on a network whose first layers get ``ratio`` times the gradient of its last layers."""
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
            ends = np.exp(of_mean(np.log(evenness(r.norm[t])), 0))
        parts.append(
            f"{moment(step)} the median kernel's gradient has norm {factor(np.median(r.mean[t]))}, and the "
            f"first quarter of the kernels gets {factor(evenness(r.mean[t]))}{around(ends)} times that of "
            "the last quarter"
        )
    return [f"{label}: {'; '.join(parts)}.{_others(r)}"]


def _others(r: Gradients) -> str:
    """The other norms at init, if it is one of the moments."""
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
    layers, units = np.full(r.mean.shape, np.nan), np.full((len(r.step), len(r.unit)), np.nan)
    kinds = {"‖W‖": (r.parameter, units), "‖y‖": (layers, r.activation.mean(1))}
    return {
        "kernel or unit": (*r.layer, *r.unit),
        **{
            f"{GRADIENT} {moment(step)}": [*with_ends(mean, ends), *numbers(none)]
            for step, mean, ends, none in zip(r.step, r.mean, r.interval.swapaxes(0, 1), units, strict=True)
        },
        **{
            f"{kind} {moment(step)}": numbers(row)
            for kind, parts in kinds.items()
            for step, row in zip(r.step, np.hstack(parts), strict=True)
        },
        "‖ΔW‖ of the first step": numbers([*r.update[0].mean(0), *units[0]]),
    }


def summary(r: Gradients) -> dict[str, str]:
    ratio = factor(evenness(r.mean[0]))
    return {"gradient at init, first ÷ last layers": ratio} if r.step[0] == 0 else {}


def cost(run: Subject, options: Options) -> Cost:
    count = len(run.moments) * of_first_batches(run, options)
    return Cost(forward=count, backward=2 * count, compilations=10)


STUDY = Study(
    name="gradients",
    title="Gradients, layer by layer",
    question=(
        "Does every layer get a signal to learn from? The figure shows the norm of each kernel's gradient "
        "for batches of training images, before the first step and now. The table adds the norms of kernels, "
        "of their first update and of units' outputs."
    ),
    code=(
        "images, labels = run.examples('train', 8 * run.train_batch_size)\n"
        "resjax.analysis.gradients(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                          batch_size=run.train_batch_size)"
    ),
    result=Gradients,
    measure=lambda bench: on_training_batches(
        bench, gradients, loss=bench.run.loss, optimizer=bench.run.optimizer
    ),
    adds=("gradient_batches",),
    cost=cost,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
    summary=summary,
)
