"""Norms layer by layer while a network learns: gradients, parameters, updates, and outputs of units.

*Question.* Does every layer keep learning, from the first step to the last? At initialization a gradient
may vanish or explode on its way back; what then happens decides whether a layer ever moves.

*Method.* The training loop logs, at every ``log.every``, ‖∂L/∂W‖, ‖W‖ (before the update) and ‖ΔW‖ of
each parameter for the batch of that step, and with ``log.activations`` the mean over its examples of ‖y‖
of each unit's output (``resjax.training.step.train_step``). Read here are those of the kernels, ordered from the
first layer to the last. Nothing is computed anew.

*Reading it.* One batch a record, so curves are noisy. Layers of different size have different norms:
compare a group of layers with itself over time, or with the same group of another run. ‖ΔW‖ includes
momentum, weight decay and the learning rate's schedule. With BatchNorm behind a layer its gradient scales
as 1/‖W‖, so ‖W‖ and ‖∂L/∂W‖ move against each other. As the loss goes to 0, gradients fade everywhere.

*Cost.* None: it reads the log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from resjax.network import Network
from resjax.network.norms import flatten_norms, flatten_taps
from resjax.studies import style
from resjax.studies.marks import legend_by_colour_and_line, plain_log_ticks
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("gradient", "parameter", "update")
LINES = {"first quarter of the layers": "-", "last quarter": "--"}


@dataclasses.dataclass(frozen=True)
class NormsOverTraining(Result):
    """What the log of one run holds.

    Attributes:
      layer: names of the kernels from the first layer to the last, like ``stage2/unit3/conv1/kernel``.
      unit: names of the units whose outputs were logged; empty where they were not.
      step: int [step], of each record.
      gradient, parameter, update: [step, layer], L2 norms.
      activation: [step, unit], mean over the batch of the L2 norm of a unit's output; NaN at records
        without it.
      residual: whether some unit has a shortcut.
      choices: how it was measured.
    """

    AXES: ClassVar = {
        "step": ("step",),
        **dict.fromkeys(KINDS, ("step", "layer")),
        "activation": ("step", "unit"),
    }

    layer: tuple[str, ...]
    unit: tuple[str, ...]
    step: np.ndarray
    gradient: np.ndarray
    parameter: np.ndarray
    update: np.ndarray
    activation: np.ndarray
    residual: bool
    choices: dict[str, Any]

    @property
    def relative_update(self) -> np.ndarray:
        """[step, layer], ‖ΔW‖ ÷ ‖W‖."""
        return self.update / np.where(self.parameter > 0, self.parameter, np.nan)


def training_norms(
    network: Network, records: Sequence[Mapping[str, Any]], image_shape: tuple[int, ...]
) -> NormsOverTraining:
    """Reads the norms of all kernels from the records of a run.

    Args:
      network: that was trained.
      records: the lines of metrics.jsonl (``run.records``).
      image_shape: (H, W, C), because only a running network tells the order of its layers.

    Raises:
      ValueError: no record has norms, the network has no kernel, or the records are another network's.
    """
    logged = [r for r in records if "norms" in r]
    if not logged:
        raise Refusal(
            "no record has norms: they are written every log.every, so train for longer than that"
        )
    kernels = _kernels(logged[0]["norms"]["gradient"])
    # Which entry of all kernels' norms, put one behind the other, is which layer's.
    sizes = {name: np.size(value) for name, value in kernels.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    numbered = {
        name: np.reshape(starts[name] + np.arange(sizes[name]), np.shape(value))
        for name, value in kernels.items()
    }
    flat = flatten_norms(network, numbered, image_shape)
    order = [int(number) for _, number in flat]
    if not order or len(order) != sum(sizes.values()):
        raise ValueError(
            f"the records are of {sum(sizes.values())} kernels, this network has {len(order)} of them: pass "
            "the network that was trained"
        )

    def series(kind: str) -> np.ndarray:
        rows = [_kernels(r["norms"][kind]) for r in logged]
        return np.array(
            [np.concatenate([np.ravel(row[k]) for k in kernels])[order] for row in rows]
        )

    units, activation = _activations(network, logged)
    return NormsOverTraining(
        layer=tuple(name for name, _ in flat),
        unit=units,
        step=np.array([int(r["step"]) for r in logged]),
        **{kind: series(kind).astype(np.float64) for kind in KINDS},
        activation=activation,
        residual=any(stack.unit.residual for stack in network.stacks),
        choices={"layers": "kernels only", "batches": "the one of each logged step"},
    )


def _kernels(norms: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in norms.items() if name.endswith("/kernel")}


def _activations(
    network: Network, logged: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the units and [step, unit]; both empty where nothing was logged."""
    missing = np.full(network.num_units, np.nan)
    rows = []
    for record in logged:
        by_stack = record["norms"].get("activation")
        rows.append(flatten_taps(network, by_stack) if by_stack else missing)
    activation = np.array(rows, np.float64)
    if np.isnan(activation).all():
        return (), activation[:, :0]
    return tuple(unit.name for unit in network.units), activation


def quarters(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Geometric means over the first and over the last quarter of the layers, […, layer] → two of […].

    A layer whose norm is 0 makes the mean 0.
    """
    size = max(values.shape[-1] // 4, 1)
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    return np.exp(logs[..., :size].mean(-1)), np.exp(logs[..., -size:].mean(-1))


def panels_of(named: Mapping[str, NormsOverTraining]) -> dict[str, str]:
    """Four kinds of norm to show, and how they are written."""
    panels = {"gradient": "‖∂L/∂W‖", "parameter": "‖W‖", "update": "‖ΔW‖"}
    if any(r.unit for r in named.values()):
        return panels | {"activation": "‖y‖ of a unit"}
    return panels | {"relative_update": "‖ΔW‖ ÷ ‖W‖"}


def plot(results: NormsOverTraining | Mapping[str, NormsOverTraining]) -> Figure:
    """Norms against the training step: solid the first quarter of the layers, dashed the last.

    Lines are geometric means over the layers of a quarter; colours tell runs.
    """
    named = {"": results} if isinstance(results, NormsOverTraining) else dict(results)
    panels = panels_of(named)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(4 if narrow else 2, 1 if narrow else 2, sharex=True)
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, height * (2.2 if narrow else 1.4))
    axes = [ax for row in grid for ax in row]
    for ax, (kind, name) in zip(axes, panels.items(), strict=True):
        for i, r in enumerate(named.values()):
            values = getattr(r, kind)
            if not values.shape[-1]:
                continue
            for quarter, ls in zip(quarters(values), LINES.values(), strict=True):
                shown = np.where(quarter > 0, quarter, np.nan)
                ax.plot(r.step, shown, ls=ls, color=style.color(i))
        ax.set(ylabel=name, yscale="log")
        if kind == "parameter":
            plain_log_ticks(ax.yaxis)
    for ax in grid[-1]:
        ax.set_xlabel("training step")
    legend_by_colour_and_line(fig, named, LINES)
    return fig
