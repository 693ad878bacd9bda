"""Norms layer by layer while a network learns: gradients, parameters, updates, and outputs of units.

*Question.* Does every layer keep learning, from the first step to the last? At initialization a gradient may
vanish or explode with depth; what happens later decides whether a layer's weights ever change.

*Method.* At every ``log.every``, the training loop logs ‖∂L/∂W‖, ‖W‖ (before the update) and ‖ΔW‖ of each
parameter for the batch of that step, and with ``log.activations`` the mean over its examples of ‖y‖ of each
unit's output (``resjax.training.step.train_step``). This study reads the norms of the kernels from the log
and orders them from the first layer to the last. Nothing is computed anew.

*Reading it.* Each record is of one batch, so curves are noisy. Layers of different sizes have different
norms: compare a group of layers with itself over time, or with the same group of another run. ‖ΔW‖ includes
momentum, weight decay and the learning-rate schedule. With BatchNorm after a layer, its gradient scales as
1/‖W‖, so ‖W‖ and ‖∂L/∂W‖ move against each other. As the loss goes to 0, all gradients become small.

*Cost.* None: it reads the log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np

from resjax.network import Network
from resjax.network.norms import flatten_norms, flatten_taps
from resjax.network.refusal import Refusal
from resjax.studies import style
from resjax.studies.costs import nothing
from resjax.studies.marks import legend_by_colour_and_line, plain_log_ticks
from resjax.studies.result import Result
from resjax.studies.run import Run, as_run, no_training
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import factor, numbers, percent

KINDS = ("gradient", "parameter", "update")
NO_NORMS = "no record of metrics.jsonl has norms: they are written every log.every steps, so train longer"


@dataclasses.dataclass(frozen=True)
class NormsOverTraining(Result):
    """What the log of one run holds."""

    layer: tuple[str, ...]  # kernels from the first layer to the last: stage2/unit3/conv1/kernel
    unit: tuple[str, ...]  # names of the units whose outputs were logged; empty if they were not
    step: Annotated[np.ndarray, "step"]  # int, of each record
    gradient: Annotated[np.ndarray, "step", "layer"]  # L2 norms, as the next two
    parameter: Annotated[np.ndarray, "step", "layer"]
    update: Annotated[np.ndarray, "step", "layer"]
    # Mean over the batch of the L2 norm of a unit's output; NaN at records without it.
    activation: Annotated[np.ndarray, "step", "unit"]
    residual: bool  # whether some unit has a shortcut

    @property
    def relative_update(self) -> np.ndarray:
        """[step, layer], ‖ΔW‖ ÷ ‖W‖."""
        return self.update / np.where(self.parameter > 0, self.parameter, np.nan)


def norms_over_training(
    network: Network, records: Iterable[Mapping[str, Any]], example: Any
) -> NormsOverTraining:
    """Reads the norms of all kernels from the records of a run.

    Args:
      network: the network that was trained.
      records: the lines of metrics.jsonl (``run.records``).
      example: (H, W, C) of the images, or inputs of another form, because the order of layers is found by
        tracing the network.

    Raises:
      Refusal: no record has norms.
      ValueError: the network has no kernel, or the records are another network's.
    """
    # A log may be long: it is read once, and of a record only the rows of numbers are kept.
    steps: list[int] = []
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    activations: list[np.ndarray] = []
    missing = np.full(network.num_units, np.nan)
    names: dict[str, Any] = {}
    for record in records:
        if norms := record.get("norms"):
            names = names or of_kernels(norms["gradient"])
            steps.append(int(record["step"]))
            for kind, own in rows.items():
                own.append(np.array([x for name in names for x in _listed(norms[kind][name])], np.float64))
            taps = norms.get("activation")
            activations.append(flatten_taps(network, taps) if taps else missing)
    if not steps:
        raise Refusal(NO_NORMS)
    # Number the norms of all kernels in the order of the log, and see where the ordering puts the numbers.
    numbered, count = {}, 0
    for name, value in names.items():
        numbered[name] = count + np.arange(np.size(value)).reshape(np.shape(value))
        count += np.size(value)
    flat = flatten_norms(network, numbered, example)
    if not flat or len(flat) != count:
        raise ValueError(
            f"the records have {count} kernels, this network has {len(flat)}: pass the network "
            "that was trained"
        )
    order = [int(number) for _, number in flat]
    activation = np.array(activations)
    known = not np.isnan(activation).all()
    return NormsOverTraining(
        layer=tuple(name for name, _ in flat),
        unit=tuple(unit.name for unit in network.units if known),
        step=np.array(steps),
        **{kind: np.array(own)[:, order] for kind, own in rows.items()},
        activation=activation if known else activation[:, :0],
        residual=bool(network.residual.any()),
        choices={"layers": "kernels only", "batches": "the one of each logged step"},
    )


def _listed(norms: Any) -> Iterable[float]:
    """A norm, or the norms of a stack; lists, of which a log consists, without numpy, which is faster."""
    return norms if isinstance(norms, list) else np.ravel(norms)


def of_kernels(norms: Mapping[str, Any]) -> dict[str, Any]:
    """The kernels among all parameters, {name: norm or norms}."""
    return {name: value for name, value in norms.items() if name.endswith("/kernel")}


# --- what the report shows ---

LINES = {"first quarter of the layers": "-", "last quarter": "--"}
# First and last layers' gradients that differ by no more than this factor are called alike.
ALIKE = 3.0
# Shares of the logged steps that differ by no more are called equal.
EQUAL = 0.1
# With more runs than this, lines would overlap, so every run gets a map.
FEW = 3


def ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last quarter of the layers, […, layer] → two of […, quarter]."""
    size = max(values.shape[-1] // 4, 1)
    return values[..., :size], values[..., -size:]


def quarters(values: np.ndarray) -> tuple[Any, Any]:
    """Geometric means over the first and over the last quarter of the layers, […, layer] → two of […].

    A layer whose norm is 0 makes the mean 0.
    """
    with np.errstate(divide="ignore"):
        first, last = (np.exp(np.log(part).mean(-1)) for part in ends(values))
    return first, last


def evenness(values: np.ndarray) -> Any:
    """The first of ``quarters`` ÷ the last; 0/0 is NaN.

    Above 1, a gradient grows on its way back to the input; below 1, it fades.
    """
    first, last = quarters(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return first / last


def _kinds_shown(results: Mapping[str, NormsOverTraining]) -> dict[str, str]:
    """Four kinds of norm, {kind: its symbol}."""
    kinds = {"gradient": "‖∂L/∂W‖", "parameter": "‖W‖", "update": "‖ΔW‖"}
    if any(r.unit for r in results.values()):
        return kinds | {"activation": "‖y‖ of a unit"}
    return kinds | {"relative_update": "‖ΔW‖ ÷ ‖W‖"}


def plot(results: Mapping[str, NormsOverTraining]) -> style.Figure:
    """Lines for a few runs, a map of every layer for more."""
    return plot_lines(results) if len(results) <= FEW else plot_maps(results)


def plot_lines(results: Mapping[str, NormsOverTraining]) -> style.Figure:
    """Norms against the training step: solid the first quarter of the layers, dashed the last.

    Lines are geometric means over the layers of a quarter; colours tell runs apart.
    """
    fig, axes = style.panels(4, columns=2, height=0.4, sharex=True)
    for ax, (kind, name) in zip(axes, _kinds_shown(results).items(), strict=True):
        for i, r in enumerate(results.values()):
            if (values := getattr(r, kind)).shape[-1]:
                for quarter, ls in zip(quarters(values), LINES.values(), strict=True):
                    ax.plot(r.step, _positive(quarter), ls=ls, color=style.color(i))
        ax.set(ylabel=name, yscale="log")
        if kind == "parameter":
            plain_log_ticks(ax.yaxis)
    for ax in axes[-1 if style.is_narrow() else -2 :]:
        ax.set_xlabel("training step")
    legend_by_colour_and_line(fig, results, LINES)
    return fig


def plot_maps(results: Mapping[str, NormsOverTraining]) -> style.Figure:
    """Norms of every layer over training, of many runs: depth × plain or residual, for example.

    Logarithmic maps [kind of norm, run]. In each map, training goes from left to right and the network from
    its first layer, at the top, to its last. Maps of one kind share a color
    scale; norms that are 0 or unknown are blank. On a phone, runs are rows and kinds are columns.
    """
    from matplotlib.colors import LogNorm

    kinds, narrow = _kinds_shown(results), style.is_narrow()
    if narrow:
        fig, grid = style.axes_grid(len(results), len(kinds))
        fig.set_size_inches(style.NARROW[0], 1.0 * len(results) + 1)
        rows = [list(column) for column in zip(*grid, strict=True)]
    else:
        fig, rows = style.axes_grid(len(kinds), len(results), sharex="col")
        width = max(style.WIDE[0], 1.5 * len(results))
        fig.set_size_inches(width, 1.35 * len(kinds) + 0.5)
    for row, (kind, name) in zip(rows, kinds.items(), strict=True):
        maps = [_positive(getattr(r, kind)) for r in results.values()]
        every = np.concatenate([m[np.isfinite(m)] for m in maps])
        if not len(every):
            every = np.ones(1)
        scale = LogNorm(every.min(), max(every.max(), every.min() * 1.01))
        image = None
        for ax, (label, r), values in zip(row, results.items(), maps, strict=True):
            ax.grid(False)
            if values.shape[-1]:
                number = 1 + np.arange(values.shape[-1])
                image = ax.pcolormesh(r.step, number, values.T, norm=scale, cmap="viridis", rasterized=True)
                ax.set_yticks([1, len(number)])
            ax.invert_yaxis()
            ax.tick_params(labelsize=7 if narrow else 8)
            if narrow:
                ax.set_xticks(r.step[-1:])
            else:
                ax.locator_params(axis="x", nbins=2)
            if row is rows[0] and narrow:
                ax.set_ylabel(label, fontsize=8)
            elif row is rows[0]:
                ax.set_title(label, fontsize=9)
        if not narrow:
            row[0].set_ylabel("unit" if kind == "activation" else "layer")
        if image is not None:
            side: dict[str, Any] = {"location": "top" if narrow else "right"}
            bar = fig.colorbar(image, ax=row, aspect=8 if narrow else 12, pad=0.01, **side)
            bar.set_label(name.removesuffix(" of a unit") if narrow else name, fontsize=9)
            bar.ax.tick_params(labelsize=6.5 if narrow else 8)
            if narrow:
                low_high = [float(every.min()), float(every.max())]
                bar.set_ticks(low_high, labels=[f"{end:.0e}" for end in low_high])
                bar.minorticks_off()
            elif every.max() < 100 * every.min():
                plain_log_ticks(bar.ax.yaxis)
    fig.supxlabel("training step", fontsize=9)
    if narrow:
        fig.supylabel("layer or unit, from the first to the last", fontsize=8)
    return fig


def _positive(values: np.ndarray) -> np.ndarray:
    """Replaces values that a logarithmic scale cannot show with NaN."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def headline(results: Mapping[str, NormsOverTraining]) -> str:
    """How often first and last layers get gradients of similar size."""
    with np.errstate(divide="ignore"):
        away = {label: np.abs(np.log(evenness(r.gradient))) for label, r in results.items()}
    shares = {label: float(np.mean(logs <= np.log(ALIKE))) for label, logs in away.items()}
    best, worst = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    high, low = percent(shares[best]), percent(shares[worst])
    same = f"gradients of similar size (within a factor of {ALIKE:g})"
    if len(results) == 1:
        return f"the first and the last layers of {best} get {same} at {high} of the logged steps"
    start = f"through training, first and last layers get {same}"
    if shares[best] - shares[worst] > EQUAL + 1e-9:
        return f"{start} more often in {best} ({high} of the logged steps) than in {worst} ({low})"
    return f"{start} about equally often in these networks ({low} to {high} of the logged steps)"


def points(label: str, r: NormsOverTraining) -> list[str]:
    parts = []
    for t in (0, -1) if len(r.step) > 1 else (0,):
        first, last = map(factor, quarters(r.gradient[t]))
        moves, moves_last = (factor(np.median(part)) for part in ends(r.relative_update[t]))
        parts.append(
            f"at step {int(r.step[t]):,} a kernel of the first quarter gets a gradient of norm {first} and "
            f"changes by {moves} of its own norm, one of the last quarter {last} and {moves_last}"
        )
    return [f"{label}: {'; '.join(parts)}."]


def table(r: NormsOverTraining) -> Columns:
    """Geometric means over the first and the last quarter of the layers, and of the logged units."""
    columns = {"step": [f"{int(step):,}" for step in r.step]}
    for name, kind in zip(("gradient", "weights", "update"), KINDS, strict=True):
        first, last = map(numbers, quarters(getattr(r, kind)))
        columns |= {f"{name}, first layers": first, f"{name}, last layers": last}
    if r.unit:
        first, last = map(numbers, quarters(r.activation))
        columns |= {"‖y‖, first units": first, "‖y‖, last units": last}
    return columns


def unsuited(run: Subject) -> str | None:
    if not isinstance(run, Run):
        return no_training(run)
    return None if any("norms" in record for record in run.records) else NO_NORMS


def measure(bench: Bench) -> NormsOverTraining:
    run = as_run(bench.run)
    return norms_over_training(run.network, run.records, run.image_shape)


STUDY = Study(
    name="norms_over_training",
    title="Norms over training",
    question=(
        "Does every layer keep learning, from the first step to the last? The figure shows the norms of "
        "gradients, weights and updates that the training loop has logged, for the first and last layers."
    ),
    code="resjax.analysis.norms_over_training(run.network, run.records, run.image_shape)",
    result=NormsOverTraining,
    unsuited=unsuited,
    measure=measure,
    cost=nothing,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
