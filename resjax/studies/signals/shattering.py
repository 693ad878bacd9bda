"""Shattered gradients: how alike the gradients at neighbouring inputs are, by depth.

*Question.* A step of gradient descent helps other examples as far as their gradients point the same way. In a
deep network without shortcuts, gradients at different inputs resemble white noise, although each has a
healthy norm: Balduzzi et al. (2017) call them shattered. Do shortcuts prevent it?

*Method.* Networks of one input x ∈ [−2, 2] and one output f(x), fully connected, at initialization. Measured
is the correlation of the gradient f'(x) between two points of a grid, E[f'(x) f'(x̃)] ÷ √(E[f'(x)²]
E[f'(x̃)²]), averaged over all pairs of points, or over the pairs at one distance (autocorrelation). The
expectation over the output's weights is exact: for f = w·h it is the cosine between h'(x) and h'(x̃). The
other weights are drawn (seeds), and intervals are over seeds. The first units of a deep network at init are a
shallower network at init, so one network gives all depths.

*What theory says.* A ReLU passes the gradients of two inputs alike only if both activate it. If both activate
a quarter of the ReLUs (one input activates half of them), each layer halves the correlation: 2^−L in plain
networks, (3/4)^L with shortcuts, and about 1/√L with shortcuts and BatchNorm (ibid., §3). The quarter is an
assumption about the *states*: with BatchNorm it holds at every depth; without, the states of all inputs
become alike with depth, so that correlations fall more slowly (ibid., Fig. 3, on co-activations). So plain
networks are shown with and without BatchNorm.

*Protocol.* Width 200; He initialization (variance 2/fan-in); the first layer's weights and biases are N(0,
1), which spreads its kinks over the grid, other biases are 0; branches are BatchNorm? – ReLU – linear, times
β; BatchNorm's statistics are those of the grid, held constant.

*Reading it.* Correlation says nothing about norms, and a high correlation is no merit in itself: a linear
network has 1. These are networks at initialization, with a single input.

*Cost.* Forward passes with one tangent, width² · points · depth each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import Progress, part, reported
from resjax.studies.examples import checked_examples, only_images
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.marks import plain_log_ticks
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.signals.rectifiers import rectifier_network
from resjax.studies.study import Claim, Columns
from resjax.studies.words import count, factor, numbers

EDGE = 2.0  # the grid reaches from −EDGE to EDGE


@dataclasses.dataclass(frozen=True)
class Shattering(Result):
    """Correlation of gradients between points of a grid, of one kind of network at initialization."""

    depth: Annotated[np.ndarray, "depth"]  # int, units
    correlation: Annotated[np.ndarray, "seed", "depth"]  # mean over all pairs of different points
    shown_depth: int  # that of ``by_distance``
    distance: Annotated[np.ndarray, "distance"]  # between two points
    by_distance: Annotated[np.ndarray, "seed", "distance"]  # mean over pairs: the autocorrelation
    residual: bool  # the kind of network, with the next two
    norm: bool
    beta: float

    @functools.cached_property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of the mean over seeds, two of [depth]."""
        return bootstrap(self.correlation.T)

    @property
    def resolved(self) -> np.ndarray:
        """bool [depth]: up to the first depth whose interval reaches 0 (beyond, it is noise)."""
        return np.logical_and.accumulate(self.interval[0] > 0)

    def exponential(self) -> tuple[float, float]:
        """Rate r of correlation ∝ exp(−r·L), and the fit's r²."""
        return self._line(np.asarray(self.depth, float))

    def power(self) -> tuple[float, float]:
        """Exponent p of correlation ∝ L^−p, and the fit's r²."""
        return self._line(np.log(self.depth))

    def _line(self, x: np.ndarray) -> tuple[float, float]:
        """Fit over the resolved depths; NaN with fewer than 3."""
        ok = self.resolved
        if ok.sum() < 3:
            return np.nan, np.nan
        fit = stats.linregress(x[ok], np.log(self.correlation.mean(0)[ok]))
        return float(-fit.slope), float(fit.rvalue**2)


def shattering(
    *,
    shortcut: bool,
    norm: bool,
    beta: float = 1.0,
    depths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50),
    shown_depth: int = 24,
    width: int = 200,
    points: int = 256,
    seeds: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Shattering:
    """Correlation of f'(x) along a grid on [−2, 2], by depth, for one kind of network (see the module).

    Args:
      shortcut, norm, beta, width: as in ``rectifier_network``.
      depths: numbers of units, increasing.
      shown_depth: one of them, for which the autocorrelation is measured, too.
      points: number of grid points.
      seeds: number of networks, 2 or more.
      seed: seed of their weights.
      progress: counts networks.

    Raises:
      ValueError: depths that do not rise, or fewer than two seeds or points.
    """
    if list(depths) != sorted(set(depths)) or shown_depth not in depths or depths[0] < 1:
        raise ValueError(
            f"depths={depths}, shown_depth={shown_depth}; allowed: rising numbers from 1, one of them"
        )
    if seeds < 2 or points < 2:
        raise ValueError(f"seeds={seeds}, points={points}; allowed: 2 or more of each")
    network = rectifier_network(depths[-1], width, shortcut=shortcut, norm=norm, beta=beta)
    # With shortcuts and BatchNorm: all kinds get these weights; those without BatchNorm ignore its variables.
    fullest = rectifier_network(depths[-1], width, shortcut=True, norm=True)
    grid = np.linspace(-EDGE, EDGE, points, dtype=np.float32)[:, None, None, None]
    pairs, lags = [], []
    for i in reported(range(seeds), progress):
        variables = _init(fullest, jax.random.fold_in(jax.random.key(seed), i))
        if norm:
            variables = reestimate(network, variables, grid, batch_size=points)
        alike = np.asarray(_cosines(network, depths, variables, grid), np.float64)
        pairs.append([(c.sum() - np.trace(c)) / (c.size - len(c)) for c in alike])
        shown = alike[depths.index(shown_depth)]
        lags.append([np.diagonal(shown, lag).mean() for lag in range(points)])
    return Shattering(
        depth=np.array(depths),
        correlation=np.array(pairs),
        shown_depth=shown_depth,
        distance=np.linspace(0, 2 * EDGE, points),
        by_distance=np.array(lags),
        residual=shortcut,
        norm=norm,
        beta=beta,
        choices={
            "networks": f"{seeds} of width {width}, He initialization; every kind gets the same weights",
            "grid": f"{points} points from −{EDGE:g} to {EDGE:g}",
            "first layer": "weights and biases N(0, 1), other biases 0",
            "BatchNorm": "statistics of the grid, held constant" if norm else "none",
            "output": "expectation over its weights taken exactly",
            "mean over seeds": "of correlations, so that no network weighs more than another",
            "seed": seed,
        },
    )


_init = jax.jit(lambda network, key: network.init(key, (1, 1, 1)), static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _cosines(network: Network, depths: tuple[int, ...], variables: Variables, grid: jax.Array) -> jax.Array:
    """[depth, point, point]: cosine between dh/dx at two points, h the state behind that many units."""

    def states(x: jax.Array) -> jax.Array:
        return network.apply(variables, x, tap=lambda parts: parts.y).taps["units"]

    slopes = jax.jvp(states, (grid,), (jnp.ones_like(grid),))[1][jnp.array(depths) - 1]
    return cosines(slopes)


def cosines(vectors: jax.Array) -> jax.Array:
    """[…, points, d] → [..., points, points], cosines; 0 for a vector of zeros."""
    lengths = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    directions = vectors / jnp.where(lengths > 0, lengths, 1)
    return jnp.einsum("...id,...jd->...ij", directions, directions)


def gradients_along_line(
    network: Network,
    variables: Variables,
    start: ArrayLike,
    end: ArrayLike,
    *,
    output: int,
    points: int = 64,
) -> np.ndarray:
    """Correlation of a network's input gradients along the straight line between two images.

    The gradient is that of one logit in inference mode. Before training, call
    ``resjax.studies.lesions.batch_statistics.reestimate`` first.

    Args:
      start, end: float [H, W, C], standardized as in training.
      output: the logit, 0 … classes − 1.
      points: on the line, its ends included, 2 or more.

    Returns:
      [points, points], cosines between the gradients at two points; 0 where a gradient is 0. The mean of its
      k-th diagonal is the autocorrelation at k/(points − 1) of the way.

    Raises:
      ValueError: images of a wrong form, no such logit, fewer than two points.
    """
    images = np.stack([np.asarray(start), np.asarray(end)])
    ends, _, _ = checked_examples(network, variables, images, np.full(2, output))
    only_images(ends, "gradients along a line")
    if points < 2:
        raise ValueError(f"points={points}; allowed: 2 or more")
    share = np.linspace(0, 1, points, dtype=ends.dtype).reshape(-1, 1, 1, 1)
    line = (1 - share) * ends[:1] + share * ends[1:]
    return np.asarray(_line_cosines(network, variables, line, jnp.asarray(output)))


@functools.partial(jax.jit, static_argnums=0)
def _line_cosines(network: Network, variables: Variables, line: jax.Array, output: jax.Array) -> jax.Array:
    def logits(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.take(network.apply(variables, x).logits, output, axis=1))

    return cosines(jax.grad(logits)(line).reshape(len(line), -1))


# --- what the report shows ---


def plot(results: Mapping[str, Shattering]) -> style.Figure:
    """Left, correlation of all pairs of inputs against depth; right, against their distance at one depth.

    Bands are 95 % intervals over networks. Left, curves end before the first depth whose interval
    reaches 0: from there on they are noise. The dotted line halves with every layer.
    """
    fig, (left, right) = style.panels(2, height=0.7)
    for i, (label, r) in enumerate(results.items()):
        color, marker = style.color(i), style.marker(i)
        band: dict[str, Any] = {"alpha": 0.2, "lw": 0, "color": color}
        ok, mean, (low, high) = r.resolved, r.correlation.mean(0), r.interval
        left.plot(r.depth[ok], mean[ok], marker=marker, label=label, color=color)
        left.fill_between(r.depth[ok], low[ok], high[ok], **band)
        near = r.distance <= EDGE  # few pairs are farther apart, so their mean says little
        low, high = bootstrap(r.by_distance.T)
        right.plot(r.distance[near], r.by_distance.mean(0)[near], color=color)
        right.fill_between(r.distance[near], low[near], high[near], **band)
    drawn = np.concatenate([r.correlation.mean(0)[r.resolved] for r in results.values()])
    depth = np.arange(1, 1 + max(int(r.depth[-1]) for r in results.values()))
    halves = 0.5**depth
    shown = halves > (drawn.min() / 2 if len(drawn) else 0)
    left.plot(depth[shown], halves[shown], ":", color=style.ink(), label="half with each layer")
    left.set(xscale="log", yscale="log", xlabel="depth L", ylabel="correlation of all pairs")
    plain_log_ticks(left.xaxis)
    right.axhline(0, lw=0.8, color=style.ink(), alpha=0.5)
    at = ", ".join(map(str, sorted({r.shown_depth for r in results.values()})))
    right.set(xlabel="distance of two inputs", ylabel=f"autocorrelation at L = {at}")
    style.legend_above(fig, left, columns=3)
    return fig


# From this ratio on, the correlation with shortcuts is called far above the one without.
FAR = 10.0
# A fit that explains at least this share of the variance of the log correlation is called a law.
GOOD_FIT = 0.98
# Balduzzi et al. 2017: each plain layer halves the correlation.
HALVING, TOLERANCE = float(np.log(2)), 0.25


def at_shown_depth(r: Shattering) -> list[float]:
    """Correlation at the shown depth and its interval."""
    i = r.depth.tolist().index(r.shown_depth)
    return [float(values[i]) for values in (r.correlation.mean(0), *r.interval)]


def ratio(r: Shattering, other: Shattering) -> tuple[float, bool]:
    """How many times more alike gradients are in ``r`` at the shown depth; where the other's interval
    reaches 0, a lower bound (True), from the end of that interval that is farther from 0."""
    own, (value, low, high) = at_shown_depth(r)[0], at_shown_depth(other)
    noise = low <= 0
    below = max(abs(low), abs(high)) if noise else value
    return (own / below if below > 0 else np.inf), noise


def headline(results: Mapping[str, Shattering]) -> str:
    """Residual networks with BatchNorm against plain ones, with and without it, at the shown depth."""
    normed = {label: r for label, r in results.items() if r.residual and r.norm and r.beta == 1}
    plain = {label: r for label, r in results.items() if not r.residual}
    if not normed or not plain:
        return "there is no pair of networks with and without shortcuts to compare"
    ((label, residual),) = normed.items()
    parts, far = [], []
    for name, other in plain.items():
        times, noise = ratio(residual, other)
        parts.append(f"{'at least ' if noise else ''}{factor(times)} times that of {name}")
        far.append(times > FAR)
    none, every = "shortcuts do not keep gradients alike", "shortcuts keep gradients alike"
    start = {0: none, len(far): every}.get(sum(far), "it depends on BatchNorm")
    at = f"at depth {residual.shown_depth} the correlation of gradients in {label} is"
    return f"{start}: {at} {' and '.join(parts)}"


def points(label: str, r: Shattering) -> list[str]:
    value, low, high = map(factor, at_shown_depth(r))
    text = f"{label}: correlation {value} ({low} to {high}) at depth {r.shown_depth}"
    told = count(int(r.resolved.sum()), "depth")
    if np.isnan(r.exponential()[0]):
        only = " only" if r.resolved.any() else ""
        return [f"{text}; it differs from 0 at {told}{only}, too few for a law."]
    return [f"{text}; {_law(r)}, over the {told} where it differs from 0."]


def _law(r: Shattering) -> str:
    (rate, fit), (power, fit_power) = r.exponential(), r.power()
    if max(fit, fit_power) < GOOD_FIT:
        return (
            f"neither an exponential (rate {rate:.3f}, r² {fit:.3f}) nor a power law (exponent "
            f"{power:.2f}, r² {fit_power:.3f}) describes its course"
        )
    if fit < fit_power:
        way, sign = ("decays", "−") if power > 0 else ("grows", "")
        return f"it {way} like L^{sign}{abs(power):.2f} (r² {fit_power:.3f})"
    way, sign = ("decays", "−") if rate > 0 else ("grows", "")
    text = f"it {way} exponentially, by exp({sign}{abs(rate):.3f}) a layer (r² {fit:.3f})"
    if rate <= 0:
        return f"{text}, where halving would be a decay"
    if abs(rate / HALVING - 1) <= TOLERANCE:
        return f"{text}, within {100 * TOLERANCE:.0f} % of the ln 2 = {HALVING:.3f} of halving"
    return f"{text}, {factor(rate / HALVING)} times the ln 2 of halving"


def table(r: Shattering) -> Columns:
    """One row for each depth."""
    low, high = r.interval
    return {
        "depth": map(str, r.depth),
        "correlation of all pairs": numbers(r.correlation.mean(0)),
        "from": numbers(low),
        "to": numbers(high),
        "half with each layer": numbers(0.5**r.depth),
    }


NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": False, "norm": False},
    "plain, BatchNorm": {"shortcut": False, "norm": True},
    "residual": {"shortcut": True, "norm": False},
    "residual, BatchNorm": {"shortcut": True, "norm": True},
    "residual, BatchNorm, β = 0.1": {"shortcut": True, "norm": True, "beta": 0.1},
}
SMOKE: dict[str, Any] = {"width": 48, "depths": (1, 2, 3, 4, 6), "shown_depth": 6}
SMOKE |= {"points": 24, "seeds": 4}


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, Shattering]:
    def one(i: int, kind: Mapping[str, Any]) -> Shattering:
        size = SMOKE if options.smoke else {}
        tell = part(progress, i, len(NETWORKS))
        return shattering(**kind, **size, seed=options.seed, progress=tell)

    return {label: one(i, kind) for i, (label, kind) in enumerate(NETWORKS.items())}


STUDY = Claim(
    name="shattering",
    title="Shattered gradients",
    question=(
        "Do gradients at different inputs still point the same way in a deep network? The figure shows how "
        "alike they are at initialization, in fully connected networks on a line of inputs, with and without "
        "shortcuts (Balduzzi et al. 2017)."
    ),
    code="resjax.analysis.shattering(shortcut=True, norm=True)",
    result=Shattering,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
