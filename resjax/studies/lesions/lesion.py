"""Lesions: what a network can still do when a unit is taken out of it.

*Question.* In y = x + f(x), does the network need f? Veit, Wilber & Belongie (2016, §4.1, Fig. 3) delete
one unit of a trained network at a time, at test time and without any further training,

    y_i = y_{i−1} + f_i(y_{i−1})   becomes   y_i = y_{i−1},

and measure the error on test data. In a network of n residual units, 2ⁿ⁻¹ of the 2ⁿ paths from the input
to the output avoid unit i; in a plain network (y = f(x)) the only path leads through every unit.

*Protocol.* The branch is removed and the shortcut kept, also where a unit changes the shape (so a
projection stays). A plain unit can be removed where its input and output have one shape: the input then
takes the place of the output. BatchNorm uses its running statistics, which are not estimated anew.

*Reading it.* A rise of the error near 0 says that the others do without this unit, not that it does
nothing: see the KL divergence and the agreement too. It does not prove that the network is an ensemble:
small branches predict the same (He et al. 2015, Fig. 7), and a plain network without normalization, as in
the paper, differs in more than the shortcuts.

*Cost.* The state in front of a unit is computed once and shared by the intact network and all later
deletions; only what lies behind a deleted unit is run again. Of n units that is n + n(n − 1)/2 unit
evaluations an example, half of the n(n + 1) of n + 1 whole forward passes; one compilation, whose size
grows with the number of stacks and not with n. A batch holds one state for each deletion, fewer than a
backward pass keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.network.parts import Place, scan_units
from resjax.studies import style
from resjax.studies.batches import (
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.refusal import Refusal
from resjax.studies.result import Classified
from resjax.studies.scores import Scores, Sums, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class DeleteEach(Classified):
    """Test performance after the deletion of each unit, one at a time; NaN where a unit can't be deleted.

    Attributes:
      unit: names of all units in order.
      residual: bool [unit], whether the unit has a shortcut in the intact network.
      error: [unit], share of examples whose most likely class is wrong, 0 … 1.
      loss: [unit], mean loss.
      kl: [unit], mean KL(p_intact ‖ p_lesioned), nats.
      agreement: [unit], share of examples for which intact and lesioned network name the same class.
      class_error: [unit, class], the error among examples of each class (NaN for a class without
        example), or None where it was not asked for.
      left_out: unit name → why it can't be deleted.
      intact_error, intact_loss: of the whole network.
      num_examples, num_classes: of the data and the network.
      unit_evaluations: units run for each example.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = {
        **dict.fromkeys(("residual", "error", "loss", "kl", "agreement"), ("unit",)),
        "class_error": ("unit", "class"),
    }

    unit: tuple[str, ...]
    residual: np.ndarray
    error: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    agreement: np.ndarray
    class_error: np.ndarray | None
    left_out: dict[str, str]
    intact_error: float
    intact_loss: float
    num_examples: int
    num_classes: int
    unit_evaluations: int
    choices: dict[str, Any]

    @property
    def deletable(self) -> np.ndarray:
        """bool [unit]."""
        return np.array([name not in self.left_out for name in self.unit])


def delete_each(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    per_class: bool = False,
    progress: Progress | None = None,
) -> DeleteEach:
    """Deletes each unit in turn and measures what is left, as Veit et al. 2016, Fig. 3.

    Args:
      network: any; a unit that can't be deleted is left out and named.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      loss: (logits [B, classes], labels [B]) → [B].
      batch_size: most examples at a time; memory grows with it, the result does not depend on it.
      per_class: also give the error of each class.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, no unit that could be deleted.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    shape = images.shape[1:]
    num_classes = count_classes(network, variables, shape)
    check_examples(images, labels, num_classes)
    deletable = network.deletable(variables, shape)
    if not deletable.any():
        raise Refusal(
            f"none of the {network.num_units} units can be deleted: a unit without a shortcut can go "
            "only where its input and output have one shape"
        )

    sums, cores, can_go = None, on_cores.shared_cores(), tuple(map(bool, deletable))
    variables = cores.copy(variables)
    for batch in padded_batches(images, labels, batch_size, progress, cores.count):
        part = jax.device_get(
            _lesion_batch(cores, network, loss, can_go, variables, *cores.split(batch))
        )
        part = jax.tree.map(np.float64, part)
        sums = part if sums is None else jax.tree.map(np.add, sums, part)
    assert sums is not None
    intact, lesioned = (Scores.of(part, labels) for part in sums)

    def over_units(values: np.ndarray) -> np.ndarray:
        out = np.full((network.num_units, *values.shape[1:]), np.nan)
        out[deletable] = values
        return out

    units = network.units
    behind = network.num_units - 1 - np.arange(network.num_units)
    return DeleteEach(
        unit=tuple(unit.name for unit in units),
        residual=np.array([unit.stack.unit.residual for unit in units]),
        error=over_units(lesioned.error),
        loss=over_units(lesioned.loss),
        kl=over_units(lesioned.kl),
        agreement=over_units(lesioned.agreement),
        class_error=over_units(lesioned.class_error) if per_class else None,
        left_out={
            unit.name: "no shortcut, and its input and output differ in shape"
            for unit, can_go in zip(units, deletable, strict=True)
            if not can_go
        },
        intact_error=float(intact.error),
        intact_loss=float(intact.loss),
        num_examples=len(images),
        num_classes=num_classes,
        unit_evaluations=int(network.num_units + behind[deletable].sum()),
        choices={
            "BatchNorm": "running statistics of training, not re-estimated after the deletion",
            "units that change the shape": "branch removed, shortcut kept",
            "plain units": "replaced by their input where shapes agree",
            "further training": "none",
        },
    )


@on_cores.jit(static=4)
def _lesion_batch(
    cores: on_cores.Cores,
    network: Network,
    loss: Loss,
    deletable: tuple[bool, ...],
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
) -> tuple[Sums, Sums]:
    """Sums over a batch for the intact network (scalars) and for each deletion ([deletions])."""
    h, _ = network.run_stem(variables, images)
    # [deletions so far, B, …]: the state of each lesioned network at this place.
    lesioned = jnp.zeros((0, *h.shape), h.dtype)
    for place in network.places(variables):
        h, lesioned = _run_stack(place, h, lesioned, deletable[place.units.start])
    logits, _ = network.run_head(variables, h)

    def against(own: jax.Array) -> Sums:
        return compare(own, logits, labels, mask, loss)

    return against(logits), lax.map(lambda h: against(network.run_head(variables, h)[0]), lesioned)


def _run_stack(
    place: Place, h: jax.Array, lesioned: jax.Array, deletable: bool
) -> tuple[jax.Array, jax.Array]:
    """Runs one stack on the intact state ``h`` and on the ``lesioned`` ones, adding its own deletions."""
    stack, before = place.stack, lesioned.shape[0]
    own = (jnp.arange(stack.n), place.variables, place.gates)

    def parts_of(part: Any, gate: jax.Array | None, h: jax.Array) -> Any:
        return stack.unit.apply(part, h, gate, method="parts")

    def without(part: Any, shortcut: jax.Array) -> Any:
        return stack.unit.apply(part, shortcut, False, method="merge")

    if stack.n == 1:  # a single unit may change the shape, so the lesioned states need new room
        _, part, gate = jax.tree.map(lambda v: v[0], own)
        parts = parts_of(part, gate, h)
        lesioned = lax.map(lambda h: parts_of(part, gate, h).y, lesioned)
        if deletable:
            lesioned = jnp.concatenate([lesioned, without(part, parts.shortcut)[None]])
        return parts.y, lesioned

    room = jnp.zeros((stack.n if deletable else 0, *h.shape), h.dtype)
    lesioned = jnp.concatenate([lesioned, room])

    def step(carry: Any, xs: Any) -> tuple[Any, None]:
        h, lesioned = carry
        j, part, gate = xs
        parts = parts_of(part, gate, h)
        # Those deleted before this unit still need it; a traced bound, so no later one is run.
        lesioned = lax.fori_loop(
            0,
            before + (j if deletable else 0),
            lambda i, all: all.at[i].set(parts_of(part, gate, all[i]).y),
            lesioned,
        )
        if deletable:
            lesioned = lesioned.at[before + j].set(without(part, parts.shortcut))
        return (parts.y, lesioned), None

    (h, lesioned), _ = scan_units(stack.n, step, (h, lesioned), own)
    return h, lesioned


def plot(results: DeleteEach | Mapping[str, DeleteEach], ax: Axes | None = None) -> Figure:
    """Error after the deletion of each unit; lines are the intact network and chance.

    A cross on the line of the intact network marks a unit that can't be deleted.

    Args:
      results: one result, or several by label. Networks of different depth share the axis by the number
        of the unit.
      ax: where to draw, None for a new figure.
    """
    named = {"": results} if isinstance(results, DeleteEach) else dict(results)
    fig, ax = style.axes(ax)
    for i, (label, result) in enumerate(named.items()):
        number = 1 + np.arange(len(result.unit))
        can_go = result.deletable
        look: dict[str, Any] = {"color": style.color(i)}
        name = f"{label}, one unit deleted".strip(", ")
        ax.plot(number[can_go], 100 * result.error[can_go], style.marker(i), label=name, **look)
        ax.axhline(
            100 * result.intact_error, lw=1.2, ls="--", label=f"{label}, intact".strip(", "), **look
        )
        level = np.full(int(np.sum(~can_go)), 100 * result.intact_error)
        ax.plot(number[~can_go], level, "x", ms=6, **look)
    crossed = not all(result.deletable.all() for result in named.values())
    if crossed:  # one entry for all networks, whose colours the crosses have
        ax.plot([], [], "x", ms=6, color=style.ink(), label="can't be deleted")
    chances = sorted({result.chance_error for result in named.values()})
    for chance in chances:
        ax.axhline(100 * chance, lw=1, ls=":", color=style.ink())
        ax.annotate(
            "chance",
            (1, 100 * chance),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
            xytext=(3, 0),  # beside the axes, where no point can lie under it
            textcoords="offset points",
            fontsize=8.5,
        )
    longest = max(named.values(), key=lambda result: len(result.unit))
    _mark_stages(ax, longest.unit)
    ax.set(xlabel="deleted unit", ylabel="error (%)", ylim=(-3, 104))
    ax.set_xlim(0.2, len(longest.unit) + 0.8)
    style.integer_ticks(ax)
    # A column for each network, and one for the cross.
    style.legend_above(fig, ax, min(len(named) + 1, 3) if crossed else 2)
    return fig


def _mark_stages(ax: Axes, units: tuple[str, ...]) -> None:
    """Thin lines between stages, their names above."""
    stages = [unit.split("/")[0] for unit in units]
    for stage in dict.fromkeys(stages):
        first, count = stages.index(stage), stages.count(stage)
        ax.annotate(
            stage.replace("stage", "stage "),
            (first + 0.5 + count / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
        )
        if first:
            ax.axvline(first + 0.5, lw=0.8, color=style.ink(), alpha=0.35)
