"""The back-propagated signal: what of ∂L/∂x arrives at each unit, and what the shortcuts alone bring there.

*Question.* With x_l the input of unit l and x_{l+1} = x_l + F(x_l) (identity shortcuts, nothing behind the
sum), x_L = x_l + Σ F(x_i), and so (He et al. 2016, Eq. 5)

    ∂L/∂x_l = ∂L/∂x_L · (1 + ∂/∂x_l Σ_i F(x_i)).

The "1" hands the last unit's gradient to every unit, past all weights. How much of the signal is it?

*Method.* The gradient is carried back unit by unit, y = merge(s(x) + f(x)), and beside it a second one that
takes only the shortcuts: with S and J the Jacobians of s and f and M that of merge, all at the intact
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

*Cost.* One forward pass, and one backward pass with its units run a second time; states of all units are
kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

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
from resjax.studies.paths.path_walk import Crossing, Probe, norm, walk_back, whole_batches, wide
from resjax.studies.result import Result
from resjax.studies.signals.gradients import moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Signal(Result):
    """Norms of the back-propagated signal; join moments with ``resjax.studies.moments.join``.

    Place l is the input of unit l, counted from 0; the last place is the input of the head.

    Attributes:
      unit: names of the n units.
      step: int [step], training steps done.
      total: [step, batch, place], ‖∂L/∂x_l‖.
      shortcut: [step, batch, place], ‖d_l‖, the "1": through the shortcuts alone.
      rest: [step, batch, place], ‖∂L/∂x_l − d_l‖.
      cosine: [step, batch, place], between the "1" and the rest; 0 where one of them is 0.
      residual: whether some unit has a shortcut.
      batch_size: examples a batch.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = {
        "step": ("step",),
        **dict.fromkeys(("total", "shortcut", "rest", "cosine"), ("step", "batch", "place")),
    }

    unit: tuple[str, ...]
    step: np.ndarray
    total: np.ndarray
    shortcut: np.ndarray
    rest: np.ndarray
    cosine: np.ndarray
    residual: bool
    batch_size: int
    choices: dict[str, Any]

    @property
    def share(self) -> np.ndarray:
        """[step, batch, place], ⟨d, c⟩/‖c‖²: the part of the signal that came through the shortcuts alone."""
        one, c = self.shortcut, np.where(self.total > 0, self.total, np.nan)
        return (one / c) ** 2 + (one / c) * (self.rest / c) * self.cosine

    @property
    def gain(self) -> np.ndarray:
        """[step, batch], ‖∂L/∂x_0‖ ÷ ‖∂L/∂x_n‖: what the whole way back does to the signal."""
        return self.total[..., 0] / np.where(self.total[..., -1] > 0, self.total[..., -1], np.nan)


def backpropagated_signal(
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
) -> Signal:
    """‖∂L/∂x_l‖ in front of every unit, and its split into the "1" and the rest.

    Args:
      network: any.
      variables: at init, or from any checkpoint.
      images: float [N, H, W, C], standardized as in training. Training images, in any fixed order.
      labels: int [N].
      loss: (logits [B, classes], labels [B]) → [B].
      train: with the batch's own BatchNorm statistics and dropout, as training sees it; False: with running
        statistics, which at init are not those of any data. Stochastic depth drops no unit in either.
      batch_size: examples a batch; fewer only if there are fewer in all. Examples beyond the last whole
        batch are not used, because batch statistics need batches of one size.
      max_batches: most batches.
      step: training steps done, to note in the result.
      seed: of dropout.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form.
    """
    if max_batches < 1:
        raise ValueError(f"max_batches={max_batches}; allowed: 1 or more")
    batches = whole_batches(network, variables, images, labels, batch_size)[:max_batches]
    size, count, probe = len(batches[0][0]), len(batches), Probe(train=train)
    rows = []
    for i, batch in enumerate(batches):
        if progress:
            progress(i, count)
        key = jax.random.fold_in(jax.random.key(seed), i)
        rows.append(jax.device_get(_batch(network, loss, probe, variables, *batch, key)))
    if progress:
        progress(count, count)
    total, shortcut, rest, cosine = (np.array(v, np.float64)[None] for v in zip(*rows, strict=True))
    return Signal(
        unit=tuple(unit.name for unit in network.units),
        step=np.array([step]),
        total=total,
        shortcut=shortcut,
        rest=rest,
        cosine=cosine,
        residual=any(stack.unit.residual for stack in network.stacks),
        batch_size=size,
        choices={
            "BatchNorm": probe.statistics,
            "loss": "mean of a batch, without weight decay",
            "norms": "of the whole batch's gradient, not averaged over examples",
            "batches": f"{count} of {size} examples",
            "stochastic depth": "every unit runs",
            "seed": seed,
        },
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _batch(
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, ...]:
    """Norms of the whole signal, the "1" and the rest, and the cosine of the last two, each [place]."""
    back = walk_back(
        network,
        loss,
        probe,
        variables,
        images,
        labels,
        key,
        start=lambda gradient: jnp.stack([gradient, gradient]),
        cross=_cross,
        carry=(),
        xs=(),
    )
    kept = jax.tree.map(
        lambda first, others: jnp.append(first, others), _measure(back.rows), back.units
    )
    *lengths, cosine = kept
    return *(length * back.scale for length in lengths), cosine


def _cross(unit: Crossing, rows: jax.Array, carry: Any, xs: Any) -> tuple[jax.Array, Any, Any]:
    """Rows are the whole signal c and the "1", d; measured behind the unit."""
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


def plot(results: Signal | Mapping[str, Signal]) -> Figure:
    """Above, ‖∂L/∂x_l‖ from the first unit to the head, relative to the head's; below, the share of the "1".

    Colours tell runs, lines moments; dotted is the "1" itself, at the first moment. Lines are means over
    batches, bands their 95 % intervals.
    """
    named = {"": results} if isinstance(results, Signal) else dict(results)
    shares = any(r.residual for r in named.values())
    fig, grid = style.axes_grid(2 if shares else 1, 1, sharex=True)
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, height * (1.45 if shares else 1))
    grid[0][0].set_yscale("log")
    lines: dict[str, str] = {}
    for i, r in enumerate(named.values()):
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
    legend_by_colour_and_line(fig, named, lines)
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
