"""Sampled gradient by path length: random single paths, as in the paper.

*Question.* How large is the gradient that arrives through one path, and how does it fall with the length?

*Method.* Veit, Wilber & Belongie (2016, §5, Fig. 6b): a batch of training images runs forward through the
whole trained network. In the backward pass k random units are crossed through their branch only, the others
through their shortcut only; the norm of what arrives at the input is one draw. So one draw is one of the
C(n, k) paths, at the activations of the intact network. Fig. 6c multiplies the mean over draws with the
number of paths.

Where each branch multiplies the norm by the same g, the mean falls as gᵏ, and the product is a
Binomial(n, g/(1 + g)) (``path_counts``). g is the slope of a line through log(mean norm) against k, for k
from 1 to 40 of 54 units, and in proportion elsewhere: longer paths are almost no share of anything.

*Protocol.* The paper took 1,000 draws a length. What it leaves open is in ``Probe``. Draw d of every length
uses batch d, in turn. Each plain unit is crossed by every path. Intervals are bootstrapped over draws.

*Reading it.* The paper's product is an *upper bound* of the gradient through all paths of that length: it
adds norms, as if all paths pointed one way. ``path_exact`` adds the vectors. A mean of norms that spread
over decades belongs to the few largest; the median beside it tells.

*Cost.* One draw of length k: k backward passes of a branch with respect to its input; a shortcut that is the
identity costs nothing. One path of each length travels at a time, so as many states are held as in the exact
computation, and drawing d paths of each length costs what d exact spectra cost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.intervals import bootstrap, reflected
from resjax.studies.marks import explain_lines
from resjax.studies.paths.path_lengths import (
    FITTED,
    central_range,
    count_units,
    fit_attenuation,
    path_lengths,
    totals,
)
from resjax.studies.paths.path_walk import (
    PAPER,
    Crossing,
    Probe,
    largest,
    norm,
    walk_back,
    whole_batches,
    wide,
)
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class PathSample(Result):
    """Norms of gradients through random single paths.

    Attributes:
      length: int [length], branches crossed.
      norm: [length, draw], ‖gradient through one path‖.
      mean, median: [length], over draws.
      mean_interval, median_interval: [end, length], bootstrap 95 % intervals over draws.
      attenuation: g, what a branch multiplies the mean norm by; NaN where it can't be fitted.
      attenuation_interval: [end], bootstrap 95 % interval.
      r_squared: of the line through log(mean) against the length.
      num_residual, num_plain: units of the network.
      batch_size: examples a batch.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = {
        "length": ("length",),
        "norm": ("length", "draw"),
        "mean": ("length",),
        "median": ("length",),
        "mean_interval": ("end", "length"),
        "median_interval": ("end", "length"),
        "attenuation_interval": ("end",),
    }

    length: np.ndarray
    norm: np.ndarray
    mean: np.ndarray
    median: np.ndarray
    mean_interval: np.ndarray
    median_interval: np.ndarray
    attenuation: float
    attenuation_interval: np.ndarray
    r_squared: float
    num_residual: int
    num_plain: int
    batch_size: int
    choices: dict[str, Any]

    @property
    def share(self) -> np.ndarray:
        """[length]: number of paths × mean norm, in parts of the sum; the paper's Fig. 6c."""
        return self._totals(self.mean)

    @property
    def mean_length(self) -> float:
        """Weighted by ``share``."""
        return float(self.share @ self.length)

    @cached_property
    def mean_length_interval(self) -> tuple[float, float]:
        """Bootstrap 95 % interval over draws."""
        low, high = self._over_draws(lambda mean: self._totals(mean) @ self.length)
        return float(low), float(high)

    @property
    def effective(self) -> tuple[float, float]:
        """First and last length of the central 95 % of ``share``."""
        return central_range(self.length, self.share)

    @cached_property
    def effective_interval(self) -> np.ndarray:
        """[end, 2]: bootstrap 95 % intervals over draws of the two numbers of ``effective``.

        Rounded outwards to lengths: they cover in 95 % of cases or more.
        """
        low, high = self._over_draws(
            lambda m: np.array(central_range(self.length, self._totals(m)))
        )
        return np.stack([np.floor(low), np.ceil(high)])

    @cached_property
    def r_squared_interval(self) -> tuple[float, float]:
        """Basic bootstrap 95 % interval over draws: of the R² that ever more draws lead to, not of these.

        Noise of the means lowers R², so that with few draws the interval can begin above ``r_squared``.
        """
        units = self.num_residual, self.num_plain
        ends = self._over_draws(
            lambda mean: np.array(fit_attenuation(mean, self.length, *units)[1])
        )
        low, high = np.clip(reflected(self.r_squared, ends), 0, 1)
        return float(low), float(high)

    def _totals(self, mean: np.ndarray) -> np.ndarray:
        return totals(mean, self.num_residual, self.num_plain)

    def _over_draws(
        self, statistic: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Percentile interval of a function of the means [length]; a draw keeps all its lengths."""
        seed = self.choices.get("seed", 0)
        return bootstrap(self.norm, lambda v, axis: statistic(v.mean(axis)), seed=seed)


def plot(results: PathSample | Mapping[str, PathSample]) -> Figure:
    """Veit et al. 2016, Fig. 6b and 6c: the norm of the gradient through one path, by its length, and the
    number of paths × that norm. Bands are 95 % intervals of the mean over draws."""
    named = {"": results} if isinstance(results, PathSample) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(*((2, 1) if narrow else (1, 2)))
    if narrow:
        fig.set_size_inches(style.NARROW[0], 1.8 * style.NARROW[1])
    left, right = (ax for row in grid for ax in row)
    for i, (label, r) in enumerate(named.items()):
        draw_single(left, r, i)
        dots = style.marker(i) + "-"
        right.plot(r.length, 100 * r.share, dots, color=style.color(i), ms=3, lw=1, label=label)
    left.set(ylabel="‖gradient through one path‖", yscale="log")
    right.set(ylabel="number × mean: share (%)")
    explain_lines(left, {"mean": ("o", "-"), "median": ("", "--")})
    for ax in (left, right):
        ax.set_xlabel("length (branches crossed)")
        style.integer_ticks(ax)
    if "" not in named:
        style.legend_above(fig, right)
    return fig


def draw_single(ax: Axes, sample: PathSample, i: int) -> None:
    """Mean with its interval, median and g of run ``i``, on a logarithmic axis."""
    low, mean, high, median = (
        np.where(v > 0, v, np.nan)
        for v in (sample.mean_interval[0], sample.mean, sample.mean_interval[1], sample.median)
    )
    color = style.color(i)
    ax.fill_between(sample.length, low, high, color=color, alpha=0.25, lw=0)
    ax.plot(sample.length, mean, style.marker(i) + "-", color=color, ms=3, lw=1)
    ax.plot(sample.length, median, "--", color=color, lw=1)
    if np.isfinite(sample.attenuation):
        note, at = f"g = {sample.attenuation:.2f}", (0.05, 0.06 + 0.08 * i)
        ax.annotate(note, at, xycoords="axes fraction", color=color, fontsize=9)


def sample_paths(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    draws: int = 100,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathSample:
    """Gradient norms of random paths of each length, as Veit et al. 2016, Fig. 6b.

    Args:
      network: any; a network without residual units has one path.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training. Training images, as in the paper.
      labels: int [N].
      draws: paths of each length, 2 or more.
      loss: (logits [B, classes], labels [B]) → [B].
      probe: BatchNorm's mode, reduction, norm, and where the gradient is measured.
      batch_size: examples a batch; fewer only if there are fewer in all. A gradient belongs to a batch, so
        examples beyond the last whole batch are not used. Memory grows with it.
      seed: of paths, of resampled draws, and of dropout where ``probe.train``.
      progress: called as ``progress(draws done, draws in all)``.

    Raises:
      ValueError: fewer than 2 draws, no example, images or labels of a wrong form, a batch size below 1.
    """
    if draws < 2:
        raise ValueError(f"draws={draws}; allowed: 2 or more, because one draw has no interval")
    batches = whole_batches(network, variables, images, labels, batch_size)
    residual, plain = count_units(network)
    rng = np.random.default_rng(seed)
    columns = []
    for d in range(draws):
        if progress:
            progress(d, draws)
        # One path of each length: of a random order of the units, the first 0, 1, 2, … take their branch.
        place = rng.permuted(np.tile(np.arange(residual), (residual + 1, 1)), axis=1)
        branch = place < np.arange(residual + 1)[:, None]
        x, y = batches[d % len(batches)]
        key = jax.random.fold_in(jax.random.key(seed), d % len(batches))
        columns.append(_norms(network, loss, probe, variables, x, y, key, branch))
    if progress:
        progress(draws, draws)
    norms = np.stack(columns, axis=1)
    length = path_lengths(residual, plain)
    fit = partial(fit_attenuation, length=length, num_residual=residual, num_plain=plain)
    g, r_squared = fit(norms.mean(1))
    size = len(batches[0][0])
    interval = partial(bootstrap, norms, seed=seed)
    return PathSample(
        length=length,
        norm=norms,
        mean=norms.mean(1),
        median=np.median(norms, axis=1),
        mean_interval=np.stack(interval(np.mean)),
        median_interval=np.stack(interval(np.median)),
        attenuation=g,
        attenuation_interval=np.stack(interval(lambda v, axis: np.array(fit(v.mean(axis))[0]))),
        r_squared=r_squared,
        num_residual=residual,
        num_plain=plain,
        batch_size=size,
        choices={
            **probe.choices(),
            "batches": f"{len(batches)} of {size} examples, in turn",
            "draws": f"{draws} paths of each length",
            "seed": seed,
            "attenuation": f"slope of log(mean norm), {math.ceil(FITTED * residual)} lengths from 1",
            "range": "central 95 %",
        },
    )


def path_norms(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    branch: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    seed: int = 0,
) -> np.ndarray:
    """Norms [paths] of the gradient of one batch through paths that are named.

    Args:
      network, variables: any.
      images: float [N, H, W, C], all one batch.
      labels: int [N].
      branch: bool [paths, units], which residual units a path crosses through the branch; what it says of
        plain units does not matter. Memory grows with the number of paths.
      loss, probe, seed: as for ``sample_paths``.

    Raises:
      ValueError: ``branch`` of another shape, images or labels of a wrong form.
    """
    branch = np.asarray(branch, bool)
    if branch.ndim != 2 or branch.shape[1] != network.num_units or not len(branch):
        raise ValueError(
            f"branch has shape {branch.shape}; allowed: [paths, {network.num_units}], one column a unit"
        )
    ((x, y),) = whole_batches(network, variables, images, labels, max(len(np.asarray(labels)), 1))
    residual = [i for i, unit in enumerate(network.units) if unit.stack.unit.residual]
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return _norms(network, loss, probe, variables, x, y, key, branch[:, residual])


def _norms(
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    images: np.ndarray,
    labels: np.ndarray,
    key: jax.Array,
    branch: np.ndarray,
) -> np.ndarray:
    """float64 [paths] from ``branch`` bool [paths, residual units]."""
    through = np.ones((network.num_units, len(branch)), bool)  # plain units always
    residual = [i for i, unit in enumerate(network.units) if unit.stack.unit.residual]
    through[residual] = branch.T
    norms, logs = jax.device_get(
        _walk_paths(network, loss, probe, variables, images, labels, key, through)
    )
    return probe.of_examples(norms) * np.exp(np.asarray(logs, np.float64))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _walk_paths(
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    through: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Norms [paths, B] of scaled gradients, and logarithms [paths] of what they were divided by."""
    paths = through.shape[1]
    walk = walk_back(
        network,
        loss,
        probe,
        variables,
        images,
        labels,
        key,
        start=lambda c: jnp.broadcast_to(c, (paths, *c.shape)),
        cross=_cross,
        carry=jnp.zeros(paths, wide(images)),
        xs=through,
    )
    axes = tuple(range(1, images.ndim if probe.at == "image" else walk.rows.ndim - 1))
    norms = lax.map(lambda c: norm(walk.to_input(c), axes), walk.rows)
    return norms, walk.carry + jnp.log(walk.scale).astype(walk.carry.dtype)


def _cross(unit: Crossing, rows: jax.Array, logs: jax.Array, through: jax.Array) -> Any:
    """Each row takes the branch or the shortcut. The product of many small factors would underflow, so what
    a branch leaves is scaled to a largest entry of 1, and the logarithm kept."""
    same = unit.x.shape == rows.shape[1:]
    new = rows if same else jnp.zeros((len(rows), *unit.x.shape), rows.dtype)
    merge, branch = unit.merge(), unit.branch()
    # Those that take the branch first: two loops with traced bounds, and nobody pays for the other way.
    order, count = jnp.argsort(~through), jnp.sum(through)

    def old(new: jax.Array, k: jax.Array) -> jax.Array:
        return merge(lax.dynamic_index_in_dim(new if same else rows, k, keepdims=False))

    def by_branch(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        new, logs = state
        k = order[i]
        c = branch(old(new, k))
        top = largest(c)
        return new.at[k].set(c / top), logs.at[k].add(jnp.log(top.astype(logs.dtype)))

    new, logs = lax.fori_loop(0, count, by_branch, (new, logs))
    if unit.unit.residual:
        shortcut = unit.shortcut()
        new = lax.fori_loop(
            count,
            len(rows),
            lambda i, new: new.at[order[i]].set(shortcut(old(new, order[i]))),
            new,
        )
    return new, logs, None
