"""The back-propagated signal: how much of ∂L/∂x arrives at each unit, and how much the shortcuts alone
bring.

*Question.* With x_l the input of unit l and x_{l+1} = x_l + F(x_l) (identity shortcuts, nothing after the
sum), x_L = x_l + Σ F(x_i), and so (He et al. 2016, Eq. 5)

    ∂L/∂x_l = ∂L/∂x_L · (1 + ∂/∂x_l Σ_i F(x_i)).

The "1" hands the last unit's gradient to every unit, past all weights. How much of the signal is it?

*Method.* The gradient is carried back unit by unit, y = merge(s(x) + f(x)), together with a second gradient
that takes only the shortcuts. With S and J the Jacobians of s and f and M that of merge, all at the intact
network's states,

    c_l = (S_l + J_l)ᵀ M_lᵀ c_{l+1},     d_l = S_lᵀ M_lᵀ d_{l+1},     c_n = d_n = ∂L/∂x_n.

d is the "1" for every kind of shortcut: c_n itself for identities, ∏λ_i · c_n for constant scaling (He et
al. 2016, Eq. 8), and for others what their chain rule gives (ibid., after Eq. 8). c − d is the rest: all
paths through at least one branch. A plain unit has no shortcut, so before it d = 0.

*Protocol.* L is the mean loss of a batch, norms are over the whole batch. BatchNorm uses the batch's own
statistics, as in training.

*Reading it.* The share ⟨d, c⟩/‖c‖² is the part of c that d explains; the shares of d and of the rest add
up to 1. A signal that stays large does not prove that a network learns: plain networks with BatchNorm
keep it, too (He et al. 2015, §4.1). Shortcuts that change the shape (option A) pass on only the pixels
and channels that they read, so the "1" becomes smaller there; He et al. (2016, footnote 1) note that Eq.
5 is not strict at these units.

*Cost.* One forward pass, and one backward pass in which each unit runs a second time; the states of all
units are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.intervals import of_mean
from resjax.studies.marks import band_on_log, few_ticks, legend_by_colour_and_line
from resjax.studies.moments import moment
from resjax.studies.paths.path_walk import Crossing, Probe, norm, walk_back, wide
from resjax.studies.result import Result
from resjax.studies.signals.training_batches import first_batches, init_and_now, training_batches
from resjax.studies.study import Bench, Clause, Columns, Study
from resjax.studies.words import around, columns, factor, numbers, percent, percents

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = Annotated[np.ndarray, "step", "batch", "place"]


@dataclasses.dataclass(frozen=True)
class BackwardSignal(Result):
    """Norms of the back-propagated signal; join moments with ``resjax.studies.moments.join``.

    Place l is the input of unit l, counted from 0; the last place is the input of the head.
    """

    unit: tuple[str, ...]  # names of the n units
    step: Annotated[np.ndarray, "step"]  # int, training steps done
    total: Place  # ‖∂L/∂x_l‖
    shortcut: Place  # ‖d_l‖, the "1": through the shortcuts alone
    rest: Place  # ‖∂L/∂x_l − d_l‖
    cosine: Place  # between the "1" and the rest; 0 where one of them is 0
    residual: bool  # whether some unit has a shortcut
    batch_size: int

    @property
    def share(self) -> np.ndarray:
        """[step, batch, place], ⟨d, c⟩/‖c‖²: the part of the signal that came through the shortcuts
        alone."""
        one, c = self.shortcut, np.where(self.total > 0, self.total, np.nan)
        return (one / c) ** 2 + (one / c) * (self.rest / c) * self.cosine

    @property
    def gain(self) -> np.ndarray:
        """[step, batch], ‖∂L/∂x_0‖ ÷ ‖∂L/∂x_n‖: the change of the signal from the head to the first
        unit."""
        return self.total[..., 0] / np.where(self.total[..., -1] > 0, self.total[..., -1], np.nan)


def backward_signal(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    train: bool = True,
    batch_size: int = 128,
    max_batches: int = 8,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> BackwardSignal:
    """‖∂L/∂x_l‖ in front of every unit, and its split into the "1" and the rest.

    Args:
      network: any.
      variables: at init, or from any checkpoint.
      images: float [N, H, W, C], training images, standardized as in training, in any fixed order.
      labels: int [N].
      train: with batch statistics and dropout, as in training; False: with running statistics, which at
        init are not those of any data. Stochastic depth drops no unit in either.
      batch_size, max_batches, step, seed: see ``training_batches``.
      loss, progress: see ``Inference``.

    Raises:
      ValueError: no example, images or labels of a wrong form.
    """
    batches = first_batches(network, variables, images, labels, batch_size, max_batches)
    probe = Probe(train=train)
    rows = [
        jax.device_get(_batch(network, loss, probe, variables, *batch))
        for batch in batches.keyed(seed, progress)
    ]
    found = [np.array(values, np.float64)[None] for values in zip(*rows, strict=True)]
    return BackwardSignal(
        unit=tuple(unit.name for unit in network.units),
        step=np.array([step]),
        **dict(zip(("total", "shortcut", "rest", "cosine"), found, strict=True)),
        residual=any(stack.unit.residual for stack in network.stacks),
        batch_size=batches.size,
        choices={
            "BatchNorm": probe.statistics,
            "loss": "mean of a batch, without weight decay",
            "norms": "of the whole batch's gradient, not averaged over examples",
            "batches": str(batches),
            "stochastic depth": "every unit runs",
            "seed": seed,
        },
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _batch(network: Network, loss: Loss, probe: Probe, *given: Any) -> tuple[jax.Array, ...]:
    """Norms of the whole signal, the "1" and the rest, and the cosine of the last two, each [place].

    ``given`` are variables, images, labels and key.
    """

    def start(gradient: jax.Array) -> jax.Array:
        return jnp.stack([gradient, gradient])

    back = walk_back(network, loss, probe, *given, start=start, cross=_cross, carry=(), xs=())
    *lengths, cosine = map(jnp.append, _measure(back.rows), back.units)
    return *(length * back.scale for length in lengths), cosine


def _cross(unit: Crossing, rows: jax.Array, carry: Any, xs: Any) -> tuple[jax.Array, Any, Any]:
    """Rows are the whole signal c and the "1", d, measured at the unit's output."""
    del xs
    c, d = jax.vmap(unit.merge())(rows)
    before = unit.branch()(c)
    if not unit.unit.residual:
        return jnp.stack([before, jnp.zeros_like(before)]), carry, _measure(rows)
    through = jax.vmap(unit.shortcut())(jnp.stack([c, d]))
    return through.at[0].add(before), carry, _measure(rows)


def _measure(rows: jax.Array) -> tuple[jax.Array, ...]:
    vectors = [v.ravel().astype(wide(v)) for v in (rows[0], rows[1], rows[0] - rows[1])]
    lengths = [norm(v, (0,)) for v in vectors]
    one, rest = (v / jnp.where(n > 0, n, 1) for v, n in zip(vectors[1:], lengths[1:], strict=True))
    return *lengths, jnp.sum(one * rest)


# --- what the report shows ---


def plot(results: Mapping[str, BackwardSignal]) -> Figure:
    """Above, ‖∂L/∂x_l‖ from the first unit to the head, relative to the head's; below, the share of the
    "1".

    Colours tell runs apart, line styles moments; dotted is the "1" itself, at the first moment. Lines are
    means over batches, bands their 95 % intervals.
    """
    shares = any(r.residual for r in results.values())
    fig, grid = style.axes_grid(2 if shares else 1, 1, sharex=True)
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, height * (1.45 if shares else 1))
    grid[0][0].set_yscale("log")
    lines: dict[str, str] = {}
    for i, r in enumerate(results.values()):
        end = np.where(r.total[..., -1:] > 0, r.total[..., -1:], np.nan)
        for t, step in enumerate(r.step):
            look = {"color": style.color(i), "ls": style.LINES[t % 3]}
            lines.setdefault(moment(int(step)), look["ls"])
            _band(grid[0][0], (r.total / end)[t], look)
            if r.residual:
                _band(grid[1][0], 100 * r.share[t], look)
        if r.residual:
            _band(grid[0][0], (r.shortcut / end)[0], {"color": style.color(i), "ls": ":"})
    grid[0][0].set_ylabel("‖∂L/∂xₗ‖ ÷ ‖∂L/∂xₙ‖")
    if shares:
        grid[1][0].set(ylabel='share of the "1" (%)')
        lines['the "1" alone'] = ":"
    grid[-1][0].set_xlabel("in front of unit l (last: of the head)")
    few_ticks(grid[-1][0])
    legend_by_colour_and_line(fig, results, lines)
    return fig


def _band(ax: Axes, values: np.ndarray, look: dict[str, str]) -> None:
    """Mean over batches as a line, its 95 % interval as a band; values [batch, place]."""
    place = 1 + np.arange(values.shape[-1])
    shown = np.where(np.isfinite(values) & (values != 0), values, np.nan)
    ax.plot(place, shown.mean(0), **look)  # type: ignore[arg-type]
    low, high = of_mean(shown, 0)
    if ax.get_yscale() == "log":
        band_on_log(ax, place, low, high, look["color"])
    else:
        ax.fill_between(place, low, high, color=look["color"], alpha=0.15, lw=0)


# A signal that changes by no more than this factor from the head to the first unit is called kept.
KEPT = 10.0


def verdict(r: BackwardSignal) -> str:
    """What the signal does on its way back at the first moment."""
    gain = r.gain[0].mean()
    if not np.isfinite(gain):
        return "unknown"
    if gain > KEPT:
        return "grows"
    return "fades" if gain < 1 / KEPT else "kept"


def _clause(does: str) -> Clause:
    def clause(label: str, r: BackwardSignal) -> str:
        gain = factor(r.gain[0].mean())
        return f"{moment(int(r.step[0]))}, the gradient of {label} {does.format(gain)}"

    return clause


def points(label: str, r: BackwardSignal) -> list[str]:
    parts = []
    middle = len(r.unit) // 2
    for step, gain, share in zip(r.step, r.gain, r.share.mean(1), strict=True):
        text = (
            f"{moment(int(step))} the gradient is {factor(gain.mean())}{around(of_mean(gain, 0))} times as "
            "large at the first unit as at the head"
        )
        if r.residual:
            text += (
                f", and the shortcuts alone bring {percent(share[0])} of it there, {percent(share[middle])} "
                f"halfway ({r.unit[middle]})"
            )
        parts.append(text)
    end = "" if r.residual else " It has no shortcut: all of it has passed every unit's weights."
    return [f"{label}: {'; '.join(parts)}.{end}"]


def table(r: BackwardSignal) -> Columns:
    """One row for each place and moment, means over batches."""
    rows: list[tuple[str, ...]] = []
    for t, step in enumerate(r.step):
        sizes = [numbers(v[t].mean(0)) for v in (r.total, r.shortcut, r.rest)]
        cells = ((*r.unit, "head"), *sizes, percents(r.share[t].mean(0)))
        rows += [(moment(int(step)), *row) for row in zip(*cells, strict=True)]
    names = ("moment", "in front of", "signal", "the “1”", "the rest", "share of the “1”")
    return columns(names, rows)


def summary(r: BackwardSignal) -> dict[str, str]:
    if r.step[0]:
        return {}
    return {"gradient at init, first unit ÷ head": factor(r.gain[0].mean())}


def measure(bench: Bench) -> BackwardSignal:
    images, labels, batches = training_batches(bench)
    return init_and_now(bench, backward_signal, images, labels, loss=bench.run.loss, **batches)


STUDY = Study(
    name="backward_signal",
    title="The signal on its way back",
    question=(
        "How much of the loss's gradient arrives at each unit, and how much of it came through the shortcuts "
        "alone, past all weights (the “1” of “1 + …”)?"
    ),
    code=(
        "images, labels = run.examples('train', 8 * run.config.train.batch_size)\n"
        "resjax.analysis.backward_signal(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                                batch_size=run.config.train.batch_size)"
    ),
    result=BackwardSignal,
    measure=measure,
    plot=plot,
    verdict=verdict,
    says={
        "kept": _clause(
            f"keeps its size within a factor of {KEPT:g} from the last unit back to the first ({{}}×)"
        ),
        "grows": _clause("grows {} times from the last unit back to the first"),
        "fades": _clause("fades to {} times its size from the last unit back to the first"),
        "unknown": _clause("is 0 or not finite"),
    },
    points=points,
    table=table,
    summary=summary,
)
