"""The back-propagated signal: how much of ∂L/∂x arrives at each unit, and how much of it the shortcuts alone
carry.

*Question.* With x_l the input of unit l and x_{l+1} = x_l + F(x_l) (identity shortcuts, nothing after the
sum), x_L = x_l + Σ F(x_i), and so (He et al. 2016, Eq. 5)

    ∂L/∂x_l = ∂L/∂x_L · (1 + ∂/∂x_l Σ_i F(x_i)).

The "1" passes the last unit's gradient to every unit, bypassing all weights. What share of the signal is it?

*Method.* The gradient is carried back unit by unit, y = merge(s(x) + f(x)), together with a second gradient
that passes only through shortcuts. With S, J and M the Jacobians of s, f and merge, all at the intact
network's states,

    c_l = (S_l + J_l)ᵀ M_lᵀ c_{l+1},     d_l = S_lᵀ M_lᵀ d_{l+1},     c_n = d_n = ∂L/∂x_n.

d is the "1" for every kind of shortcut: c_n itself for identities, ∏λ_i · c_n for constant scaling (He et al.
2016, Eq. 8), and for others what their chain rule gives (ibid., after Eq. 8). c − d is the rest: all paths
through at least one branch. A plain unit has no shortcut, so in front of it d = 0.

*Protocol.* L is the mean loss of a batch, norms are over the whole batch. BatchNorm uses the batch's own
statistics, as in training.

*Reading it.* The share ⟨d, c⟩/‖c‖² is the part of c that d explains; the shares of d and of the rest add up
to 1. A signal that stays large does not prove that a network learns: plain networks with BatchNorm keep it,
too (He et al. 2015, §4.1). Shortcuts that change the shape (option A) pass on only the pixels and channels
that they read, so the "1" becomes smaller there; He et al. (2016, footnote 1) note that Eq. 5 is not strict
at these units.

*Cost.* One forward pass, and one backward pass in which each unit runs a second time; the states of all units
are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import pointing, style
from resjax.studies.costs import Cost, of_first_batches
from resjax.studies.intervals import of_mean
from resjax.studies.marks import band_on_log, few_ticks, legend_by_colour_and_line
from resjax.studies.moments import by_moment, moment
from resjax.studies.options import Options
from resjax.studies.paths.path_walk import Crossing, Probe, norm, walk_back, wide
from resjax.studies.result import Result
from resjax.studies.signals.training_batches import FirstBatches, first_batches, on_training_batches
from resjax.studies.study import Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import around, factor, number, numbers, percent, with_ends

Place = Annotated[np.ndarray, "step", "batch", "place"]


@dataclasses.dataclass(frozen=True)
class BackwardSignal(Result):
    """Norms of the back-propagated signal; join moments with ``resjax.studies.moments.join``.

    Place l is the input of unit l, counted from 0; the last place is the input of the head.
    """

    unit: tuple[str, ...]  # names of the n units
    step: Annotated[np.ndarray, "step"]  # int, training steps done
    total: Place  # ‖c_l‖ = ‖∂L/∂x_l‖
    shortcut: Place  # ‖d_l‖, the "1": through the shortcuts alone
    rest: Place  # ‖c_l − d_l‖
    cosine: Place  # between the "1" and the rest; 0 where one of them is 0
    residual: bool  # whether some unit has a shortcut
    batch_size: int

    @property
    def share(self) -> np.ndarray:
        """[step, batch, place], ⟨d, c⟩/‖c‖²: the part of the signal that came through the shortcuts alone."""
        one, c = self.shortcut, np.where(self.total > 0, self.total, np.nan)
        return (one / c) ** 2 + (one / c) * (self.rest / c) * self.cosine

    @property
    def gain(self) -> np.ndarray:
        """[step, batch], ‖∂L/∂x_0‖ ÷ ‖∂L/∂x_n‖: the change of the signal from the head to the first unit."""
        return self.total[..., 0] / self.end[..., 0]

    @property
    def end(self) -> np.ndarray:
        """[step, batch, 1], ‖∂L/∂x_n‖; NaN where it is 0."""
        end = self.total[..., -1:]
        return np.where(end > 0, end, np.nan)


def backward_signal(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    **how: Unpack[FirstBatches],
) -> BackwardSignal:
    """‖∂L/∂x_l‖ in front of every unit, and its split into the "1" and the rest.

    Args: those of every analysis (``Inference``), with training images in any fixed order, and ``how``, see
    ``FirstBatches``. Stochastic depth drops no unit, with or without ``train``.
    """
    batches = first_batches(network, variables, images, labels, **how)
    probe = Probe(train=batches.train)
    total, shortcut, rest, cosine = batches.measure(
        lambda *batch: _batch(network, loss, probe, variables, *batch)
    )
    return BackwardSignal(
        unit=tuple(unit.name for unit in network.units),
        step=np.array([batches.step]),
        total=total,
        shortcut=shortcut,
        rest=rest,
        cosine=cosine,
        residual=bool(network.residual.any()),
        batch_size=batches.size,
        choices={
            **batches.choices,
            "loss": "mean of a batch, without weight decay",
            "norms": "of the whole batch's gradient, not averaged over examples",
            "stochastic depth": "every unit runs",
        },
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _batch(network: Network, loss: Loss, probe: Probe, *given: Any) -> jax.Array:
    """[4, place]: norms of the whole signal, the "1" and the rest, and the cosine of the last two.

    ``given`` are variables, images, labels and key.
    """

    start: Any = {"start": lambda gradient: jnp.stack([gradient, gradient]), "carry": (), "xs": ()}
    back = walk_back(network, loss, probe, *given, cross=_cross, **start)
    measured = jnp.concatenate([_measure(back.rows)[None], back.units]).T
    return measured.at[:3].multiply(back.scale)


def _cross(unit: Crossing, rows: jax.Array, carry: Any, xs: Any) -> tuple[jax.Array, Any, Any]:
    """Rows are the whole signal c and the "1", d, measured at the unit's output."""
    del xs
    c, d = jax.vmap(unit.merge())(rows)
    before = unit.branch()(c)
    if not unit.unit.residual:
        return jnp.stack([before, jnp.zeros_like(before)]), carry, _measure(rows)
    through = jax.vmap(unit.shortcut())(jnp.stack([c, d]))
    return through.at[0].add(before), carry, _measure(rows)


def _measure(rows: jax.Array) -> jax.Array:
    """[4] as ``_batch``, at one place."""
    vectors = [v.ravel().astype(wide(v)) for v in (rows[0], rows[1], rows[0] - rows[1])]
    lengths = [norm(v, (0,)) for v in vectors]
    one, rest = (v / jnp.where(n > 0, n, 1) for v, n in zip(vectors[1:], lengths[1:], strict=True))
    return jnp.stack([*lengths, jnp.sum(one * rest)])


# --- what the report shows ---


ABOVE, BELOW = ("signal ÷ the head's", "the “1” ÷ the head's"), ("share of the “1”",)  # columns


def plot(results: Mapping[str, BackwardSignal]) -> style.Figure:
    """Above, ‖∂L/∂x_l‖ from the first unit to the head, relative to the head's; below, the share of the "1".

    Colours tell runs apart, line styles moments; dotted is the "1" itself, at the first moment. Lines are
    means over batches, bands their 95 % intervals.
    """
    shares = any(r.residual for r in results.values())
    fig, grid = style.axes_grid(2 if shares else 1, 1, sharex=True)
    fig.set_figheight(fig.get_figheight() * (1.45 if shares else 1))
    (above,), (below,) = grid[0], grid[-1]
    above.set(ylabel="‖∂L/∂xₗ‖ ÷ ‖∂L/∂xₙ‖", yscale="log")
    lines: dict[str, str] = {}
    for i, (label, r) in enumerate(results.items()):
        color, names = style.color(i), (*r.unit, "head")
        place = 1 + np.arange(len(names))
        pointing.along(above, label, names, place, by="moment", columns=ABOVE)
        if r.residual:
            pointing.along(below, label, names, place, by="moment", columns=BELOW)
        for t, step in enumerate(r.step):
            ls = style.LINES[t % 3]
            lines.setdefault(moment(step), ls)
            _band(above, (r.total / r.end)[t], color, ls)
            if r.residual:
                _band(below, 100 * r.share[t], color, ls)
        if r.residual:
            _band(above, (r.shortcut / r.end)[0], color, ":")
    if shares:
        below.set_ylabel('share of the "1" (%)')
        lines['the "1" alone'] = ":"
    below.set_xlabel("in front of unit l (last: of the head)")
    few_ticks(below)
    legend_by_colour_and_line(fig, results, lines)
    return fig


def _band(ax: style.Axes, values: np.ndarray, color: str, ls: str) -> None:
    """Mean over batches as a line, its 95 % interval as a band; values [batch, place]."""
    place = 1 + np.arange(values.shape[-1])
    shown = np.where(np.isfinite(values) & (values != 0), values, np.nan)
    ax.plot(place, shown.mean(0), ls=ls, color=color)
    low, high = of_mean(shown, 0)
    if ax.get_yscale() == "log":
        band_on_log(ax, place, low, high, color)
    else:
        ax.fill_between(place, low, high, color=color, alpha=0.15, lw=0)


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


DOES = {
    "kept": f"keeps its size within a factor of {KEPT:g} from the last unit back to the first ({{}}×)",
    "grows": "grows {} times from the last unit back to the first",
    "fades": "fades to {} times its size from the last unit back to the first",
    "unknown": "is 0 or not finite",
}


def _clause(label: str, r: BackwardSignal) -> str:
    does = DOES[verdict(r)].format(factor(r.gain[0].mean()))
    return f"{moment(r.step[0])}, the gradient of {label} {does}"


def points(label: str, r: BackwardSignal) -> list[str]:
    parts = []
    middle = len(r.unit) // 2
    for step, gain, share in zip(r.step, r.gain, r.share.mean(1), strict=True):
        text = (
            f"{moment(step)} the gradient is {factor(gain.mean())}{around(of_mean(gain, 0))} times as large "
            "at the first unit as at the head"
        )
        if r.residual:
            text += (
                f", and the shortcuts alone carry {percent(share[0])} of it there, {percent(share[middle])} "
                f"halfway ({r.unit[middle]})"
            )
        parts.append(text)
    end = "" if r.residual else " Without shortcuts, all of it passes through every unit's weights."
    return [f"{label}: {'; '.join(parts)}.{end}"]


def table(r: BackwardSignal) -> Columns:
    """Means over batches."""

    def with_interval(values: np.ndarray, show: Callable[[float], str] = number) -> list[list[str]]:
        """Of [step, batch, place], where the figure shows the means."""
        shown = np.where(np.isfinite(values) & (values != 0), values, np.nan)
        return [with_ends(own.mean(0), of_mean(own, 0), show) for own in shown]

    cells = {
        **dict(zip(ABOVE, map(with_interval, (r.total / r.end, r.shortcut / r.end)), strict=True)),
        "signal": map(numbers, r.total.mean(1)),
        "the “1”": map(numbers, r.shortcut.mean(1)),
        "the rest": map(numbers, r.rest.mean(1)),
        BELOW[0]: with_interval(r.share, percent),
    }
    return by_moment(r.step, "in front of", (*r.unit, "head"), cells)


def summary(r: BackwardSignal) -> dict[str, str]:
    gain = factor(r.gain[0].mean())
    return {} if r.step[0] else {"gradient at init, first unit ÷ head": gain}


def cost(run: Subject, options: Options) -> Cost:
    count = len(run.moments) * of_first_batches(run, options)
    return Cost(forward=2 * count, backward=count, compilations=8)


STUDY = Study(
    name="backward_signal",
    title="The backward signal",
    question=(
        "How much of the loss's gradient arrives at each unit, and how much of it came through the shortcuts "
        "alone, past all weights (the “1” of “1 + …”)?"
    ),
    code=(
        "images, labels = run.examples('train', 8 * run.train_batch_size)\n"
        "resjax.analysis.backward_signal(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                                batch_size=run.train_batch_size)"
    ),
    result=BackwardSignal,
    measure=lambda bench: on_training_batches(bench, backward_signal, loss=bench.run.loss),
    adds=("gradient_batches",),
    cost=cost,
    plot=plot,
    verdict=verdict,
    says=dict.fromkeys(DOES, _clause),
    points=points,
    table=table,
    summary=summary,
)
