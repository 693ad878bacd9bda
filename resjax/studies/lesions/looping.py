"""Layers run several times, or two of them side by side: must a network run each layer once, one by one?

*Question.* If the layers of a network refine one state, running a layer twice, or two layers on the same
input, should change little. Sun et al. (2025, "Transformer Layers as Painters", arXiv:2407.09298) loop and
parallelize the middle layers of language models.

*Changes*, one at a time, with L(x) what a run of units makes of the state x:

    loop k     x → L(L(… L(x))), k times in place, with the same variables
    parallel   x → x + (L(x) − x) + (M(x) − x): L and the next one, M, read x; their changes add up

L is a *layer*: where units of several kinds alternate, such as attention and MLP, one of each
(``periods.layers_of``); elsewhere each unit. Where layers have several units, single units are looped and run
beside the next one, too: attention beside its MLP is the parallel form of some language models. (Sun et al.
average layers in parallel; sums keep the size of what each adds.)

*Which.* A run that changes the shape of the state is left out; so is parallel execution with units that have
no shortcut, where x + (L(x) − x) + … says nothing. Behind a sum with a ReLU, the sum of changes may be
negative, and no ReLU follows it. Units keep their variables and BatchNorm's running statistics. A unit that
stochastic depth scales outside training runs with that factor.

*Reading it.* A harmless loop says that the layer's second step is small or goes where the rest of the network
can use it, not that the layer converges. A harmless pair in parallel says that the second does not need the
first; the deletion of either is in ``lesion``. ``interventions`` runs all units of a stack in parallel.

*Cost.* Half of a forward pass for each change, as each starts from the intact state in front of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.example import one_example
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.network.periods import layers_of
from resjax.network.refusal import Refusal
from resjax.studies import counts, pointing, style, verdicts
from resjax.studies.batches import BATCH_SIZE, PaddedBatch, Progress, counted, padded_batches
from resjax.studies.costs import Cost, evaluated
from resjax.studies.examples import checked_examples, tracing
from resjax.studies.lesions.prefixes import walker
from resjax.studies.options import Options
from resjax.studies.result import Compared
from resjax.studies.scores import MEASURES, Outcomes, Scores, compiled_compare, stacked
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import join, numbers, percent, percents

TIMES = (2, 3)
PARALLEL = "parallel"
EXAMPLES = 1_000  # of the study


@dataclasses.dataclass(frozen=True)
class Looping(Compared):
    """Test performance after each change of each run of units; NaN where it is impossible."""

    run: tuple[str, ...]  # names: units of layers with several, then layers
    first: Annotated[np.ndarray, "run"]  # int, its first unit, counted from 0
    size: Annotated[np.ndarray, "run"]  # int, how many units it has
    layer: Annotated[np.ndarray, "run"]  # bool, whether it is a layer
    change: tuple[str, ...]  # 'loop 2', …, 'parallel' with the next unit or layer
    error: Annotated[np.ndarray, "change", "run"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "change", "run"]  # mean
    kl: Annotated[np.ndarray, "change", "run"]  # mean KL(p_intact ‖ p_changed), nats
    agreement: Annotated[np.ndarray, "change", "run"]  # share of equal predictions
    # Share of resampled examples on which the error rises by at most one point.
    spared: Annotated[np.ndarray, "change", "run"]


class _Change(NamedTuple):
    """``units`` in the order in which they run, from the intact state in front of ``first`` on; those behind
    ``last`` follow. With ``beside``, ``units`` and ``beside`` both read that state."""

    first: int
    last: int
    units: tuple[int, ...]
    beside: tuple[int, ...] = ()


def looping(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    times: tuple[int, ...] = TIMES,
    loss: Loss = cross_entropy,
    metric: Metric = share_wrong,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Looping:
    """Loops each layer in place, and runs each beside the next one.

    Args: those of every analysis (``Inference``), and
      network: any that is chained.
      times: how often a looped layer runs, 2 or more.

    Raises:
      ValueError: also for a number of times below 2.
    """
    network.check_chain()
    if not times or min(times) < 2:
        raise ValueError(f"times={times}; allowed: 2 or more for each")
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    runs, is_layer = runs_of(network)
    names = (*(f"loop {k}" for k in times), PARALLEL)
    with tracing(images):
        found = changes_of(network, runs, is_layer, keeps_shape(network, variables, images), times)
    if not found:
        raise Refusal(NOTHING)
    changes, cores = list(found.values()), on_cores.shared_cores()
    batches = list(padded_batches(images, labels, cores.own_size(len(labels), batch_size)))
    tell = counted(progress, len(batches) * len(changes))

    def compared(core: on_cores.Cores, variables: Variables, batch: PaddedBatch) -> Iterator[Outcomes]:
        x, y = core.split(jax.device_put((batch.images, batch.labels)))
        first, step, logits = walker(network, variables, x, core)
        states = [first]
        for u in range(network.num_units):
            states.append(step(u, states[-1]))
        intact = logits(states[-1])
        yield compiled_compare(intact, intact, y, loss, metric)
        for change in changes:
            tell()
            state = _changed(change, states[change.first], step)
            state = _through(range(change.last + 1, network.num_units), state, step)
            yield compiled_compare(logits(state), intact, y, loss, metric)

    every = on_cores.over_batches(cores, compared, variables, batches)
    scores = Scores.of(stacked(every, (batch.mask for batch in batches)), labels, num_classes)
    tell()
    intact, changed = scores.take(slice(1)), scores.take(slice(1, None))
    measured: dict[str, Any] = {m: np.full((len(names), len(runs)), np.nan) for m in (*MEASURES, "spared")}
    values = {**changed.means, "spared": counts.spared_share(changed.wrong, intact.wrong[0])}
    for m, table in measured.items():
        for i, (name, run) in enumerate(found):
            table[names.index(name), run] = values[m][i]
    units = network.units
    label = [units[run[0]].name if len(run) == 1 else "" for run in runs]
    numbered = iter(range(1, 1 + len(runs)))
    label = [name or f"layer {next(numbered)}" for name in label]
    return Looping(
        **measured,
        **intact.as_intact,
        run=tuple(label),
        first=np.array([run[0] for run in runs]),
        size=np.array([len(run) for run in runs]),
        layer=is_layer,
        change=names,
        choices={
            "in parallel": "x + Σ (L(x) − x) over a layer and the next one",
            "BatchNorm": "running statistics of training, not re-estimated",
            "further training": "none",
        },
    )


def runs_of(network: Network) -> tuple[list[np.ndarray], np.ndarray]:
    """The runs that are changed, int [units] each, and bool [run], which of them are layers: the units of
    layers with several units, and all layers."""
    layers = layers_of(network.stacks)
    single = [np.array([unit]) for layer in layers if len(layer) > 1 for unit in layer]
    return [*single, *layers], np.repeat([False, True], [len(single), len(layers)])


def keeps_shape(network: Network, variables: Variables, images: Any) -> np.ndarray:
    """bool [unit]: whether a unit's output has the shape of its input. Only shapes are evaluated."""
    x = one_example(images)
    taps = jax.eval_shape(lambda v, x: network.apply(v, x, tap=lambda p: (p.x, p.y)).taps, variables, x)
    shapes = [[v.shape for v in taps[unit.stack.name]] for unit in network.units]
    return np.array([before == behind for before, behind in shapes])


def changes_of(
    network: Network, runs: list[np.ndarray], is_layer: np.ndarray, keeps: np.ndarray, times: tuple[int, ...]
) -> dict[tuple[str, int], _Change]:
    """{(name, number of the run): the change}, of all that are possible."""
    residual, found = network.residual, {}
    for i, run in enumerate(runs):
        if not keeps[run].all():
            continue
        own, first, last = tuple(run.tolist()), int(run[0]), int(run[-1])
        for k in times:
            found[f"loop {k}", i] = _Change(first, last, own * k)
        if i + 1 == len(runs) or is_layer[i] != is_layer[i + 1] or runs[i + 1][0] != last + 1:
            continue
        both = np.concatenate([run, runs[i + 1]])
        if keeps[both].all() and residual[both].all():
            beside = tuple(runs[i + 1].tolist())
            found[PARALLEL, i] = _Change(first, beside[-1], own, beside)
    return found


def _through(units: Any, state: jax.Array, step: Callable[..., jax.Array]) -> jax.Array:
    for unit in units:
        state = step(unit, state)
    return state


def _changed(change: _Change, x: jax.Array, step: Callable[..., jax.Array]) -> jax.Array:
    y = _through(change.units, x, step)
    if not change.beside:
        return y
    return _joined(x, y, _through(change.beside, x, step))


@jax.jit
def _joined(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return a + (b - x)


# --- what the report shows ---


def plot(results: Mapping[str, Looping]) -> style.Figure:
    """Error after each change of each layer, a panel for each network; small and pale: of single units."""
    fig, axes = style.panels(len(results), columns=2, height=0.9)
    for ax, (label, r) in zip(axes, results.items(), strict=True):
        at = r.first + (r.size + 1) / 2  # of the middle of a run, counted from 1
        for i, name in enumerate(r.change):
            look: dict[str, Any] = {"color": style.color(i), "marker": style.marker(i)}
            # Between a run and the next one where both are changed.
            places = at + (r.size / 2 if name == PARALLEL else 0)
            ax.plot(places[~r.layer], 100 * r.error[i][~r.layer], ls="", ms=2.5, alpha=0.6, **look)
            ax.plot(places[r.layer], 100 * r.error[i][r.layer], lw=1, label=told_as(name), **look)
        _point(ax, label, r)
        ax.axhline(100 * r.intact_error, lw=1.2, ls="--", color=style.ink(), label="intact")
        style.draw_chance(ax, r.chance_error)
        ax.set(xlabel="unit", ylabel="error (%)", ylim=(-3, 104), title=label)
        style.integer_ticks(ax)
    style.legend_above(fig, axes[0], 4)
    return fig


def _point(ax: style.Axes, label: str, r: Looping) -> None:
    """Every unit has its place; its layer's changes are shown beside its own."""
    units = np.flatnonzero(r.size == 1)
    layer_of = {
        r.run[unit]: r.run[layer]
        for layer in np.flatnonzero(r.size > 1)
        for unit in units
        if 0 <= r.first[unit] - r.first[layer] < r.size[layer]
    }
    names = [r.run[unit] for unit in units]
    pointing.along(ax, label, names, 1 + r.first[units], by="change", beside=layer_of)


def told_as(change: str) -> str:
    """'loop 2' → 'run 2 times', 'parallel' → 'beside the next'."""
    return "beside the next" if change == PARALLEL else f"run {change.split()[1]} times"


def _told(r: Looping, own: np.ndarray) -> str:
    """What each change of the runs ``own`` costs: 'run 2 times 1.2 % in the median, 8.0 % at worst (layer
    1), 9 of 12 (8 to 10) harmless'."""
    parts = []
    for i, name in enumerate(r.change):
        error = np.where(own, r.error[i], np.nan)
        if not np.isfinite(error).any():
            continue
        harmless = counts.between(counts.ends(np.sum, r.spared[i][own]))
        parts.append(
            f"{told_as(name)} {percent(float(np.nanmedian(error)))} in the median, "
            f"{percent(float(np.nanmax(error)))} at worst ({r.run[int(np.nanargmax(error))]}), "
            f"{verdicts.spared(error, r.intact_error).sum()} of {np.isfinite(error).sum()}{harmless} harmless"
        )
    return "; ".join(parts)


def _survived(label: str, r: Looping) -> str:
    """The clause of the headline: how many layers may be changed in each way."""
    parts = []
    for i, name in enumerate(r.change):
        error = r.error[i][r.layer]
        if np.isfinite(error).any():
            harmless = counts.between(counts.ends(np.sum, r.spared[i][r.layer]))
            may = verdicts.spared(error, r.intact_error).sum()
            parts.append(f"{may} of {np.isfinite(error).sum()}{harmless} {told_as(name)}")
    return f"layers of {label} that cost at most one percentage point: {join(parts)}"


def points(label: str, r: Looping) -> list[str]:
    found = [f"{label}: {percent(r.intact_error)} error when intact; layers: {_told(r, r.layer)}."]
    if not r.layer.all():
        found.append(f"{label}, single units: {_told(r, ~r.layer)}.")
    return found


def table(r: Looping) -> Columns:
    def cells(name: str) -> list[float]:
        return list(getattr(r, name).T.ravel())

    return {
        "run": [name for name in r.run for _ in r.change],
        "change": [told_as(name) for name in r.change] * len(r.run),
        "error": percents(cells("error")),
        "may, of resamples": percents(cells("spared")),
        "KL (nats)": numbers(cells("kl")),
        "agreement": percents(cells("agreement")),
    }


NOTHING = "each unit of this network changes the shape of its input, so none can run twice"


def unsuited(run: Subject) -> str | None:
    run.network.check_chain()
    keeps = keeps_shape(run.network, run.variables, run.example)
    return None if changes_of(run.network, *runs_of(run.network), keeps, TIMES) else NOTHING


def measure(bench: Bench) -> Looping:
    return looping(*bench.evaluation(EXAMPLES), **bench.how)


def cost(run: Subject, options: Options) -> Cost:
    n, count = run.network.num_units, evaluated(run, options, EXAMPLES)
    keeps = keeps_shape(run.network, run.variables, run.example)
    every = changes_of(run.network, *runs_of(run.network), keeps, TIMES).values()
    units = sum(len(c.units) + len(c.beside) + n - 1 - c.last for c in every)
    return Cost(walked=count * (1 + units / n), compilations=1, evaluated=count)


STUDY = Study(
    name="looping",
    title="Run a layer twice, or two side by side",
    question=(
        "Must each layer run once, and one after the other? Each layer runs two or three times in place, or "
        "beside the next one, on the same input. A layer is a unit, or, where units of several kinds "
        "alternate, one of each, such as attention and MLP."
    ),
    code=f"resjax.analysis.looping(*run.evaluation({EXAMPLES:_}), loss=run.loss)",
    result=Looping,
    unsuited=unsuited,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=lambda r: "untrained" if verdicts.untrained(r) else "changed",
    says={"changed": _survived, "untrained": verdicts.UNTRAINED},
    points=points,
    table=table,
)
