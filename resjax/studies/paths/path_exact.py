"""Exact gradient by path length: the sum over all paths of each length.

*Question.* The gradient of a residual network is a sum over 2ⁿ paths. How much of it comes through paths that
cross k branches?

*Method.* At a unit, a path goes through the shortcut's Jacobian S or the branch's J. The product over units
∏(S_i + t·J_i)ᵀ ∂L/∂y sorts the paths by length: the coefficient of tᵏ is the sum over all paths of length k.
So the cotangents c_0 … c_n, one a length, are carried back together, as one multiplies polynomials:

    c_k  ←  Sᵀ Mᵀ c_k + Jᵀ Mᵀ c_{k−1}

with M the Jacobian of what follows the sum (for a post-activation unit its ReLU). A plain unit has no way
past its branch, so all lengths grow by one there. Nothing is sampled: Σ_k c_k is the true gradient.

Two numbers a length: the *norm* ‖c_k‖, and the *contribution* ⟨c_k, c⟩/‖c‖² to the gradient c. Contributions
sum to 1; a negative one means that these paths pull against the whole.

*Protocol.* By default what Veit et al. 2016 (§5) leave open is: BatchNorm's running statistics, the mean loss
of a batch, one L2 norm over the batch, at the image. The paper has no such sum: it multiplies the number
of paths by the mean norm of single ones (``path_sampled``), an upper bound, because paths are vectors that
point in different directions.

*Reading it.* ‖c_k‖ do not sum to ‖c‖: lengths cancel each other as well. A spectrum at short lengths says
that the *gradient* comes through short paths. It does not say that the network computes a vote of shallow
ones.

*Cost.* With n residual units n(n + 1)/2 backward passes of a branch with respect to its input, which is half
of n whole passes through all branches, without the gradients of weights, which a training step needs too. n
+ 1 states are held, and n inputs of units.
"""

from __future__ import annotations

import dataclasses
import math
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
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.intervals import bootstrap, of_mean
from resjax.studies.paths.path_lengths import central_range, count_units, path_lengths, shares
from resjax.studies.paths.path_walk import (
    PAPER,
    Crossing,
    Probe,
    norm,
    walk_back,
    whole_batches,
    wide,
)
from resjax.studies.result import Result
from resjax.studies.signals.gradients import moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class PathSpectrum(Result):
    """The gradient by path length of one network, at one or more moments of its training
    (``resjax.studies.moments.join``).

    Attributes:
      step: int [step], training steps done at each moment.
      length: int [length], branches crossed.
      norm: [step, batch, length], ‖sum of the gradients of all paths of that length‖.
      contribution: [step, batch, length], its part of the whole gradient; sums to 1.
      total: [step, batch], norm of the whole gradient.
      num_residual, num_plain: units of the network.
      batch_size: examples a batch.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = {
        "step": ("step",),
        "length": ("length",),
        "norm": ("step", "batch", "length"),
        "contribution": ("step", "batch", "length"),
        "total": ("step", "batch"),
    }

    step: np.ndarray
    length: np.ndarray
    norm: np.ndarray
    contribution: np.ndarray
    total: np.ndarray
    num_residual: int
    num_plain: int
    batch_size: int
    choices: dict[str, Any]

    @property
    def share(self) -> np.ndarray:
        """[step, length]: mean norm over batches, in parts of their sum over lengths."""
        return shares(self.norm.mean(1))

    @property
    def mean_length(self) -> np.ndarray:
        """[step]: mean length, weighted by the norms."""
        return self.share @ self.length

    @property
    def mean_length_interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends [step] of a bootstrap interval over batches; NaN with one batch."""
        if self.norm.shape[1] < 2:
            nowhere = np.full(len(self.step), math.nan)
            return nowhere, nowhere
        by_batch = np.moveaxis(self.norm, 1, -1)  # [step, length, batch]
        return bootstrap(by_batch, lambda v, axis: shares(v.mean(axis)) @ self.length)

    @property
    def mean_contribution(self) -> np.ndarray:
        """[step, length]: mean over batches."""
        return self.contribution.mean(1)

    @property
    def effective(self) -> np.ndarray:
        """[step, end]: first and last length of the central 95 % of the sum of norms."""
        return np.array([central_range(self.length, share) for share in self.share])


def plot(results: PathSpectrum | Mapping[str, PathSpectrum]) -> Figure:
    """Left, the share of the norms by length; right, the contribution to the gradient, which can be negative.

    Colours tell runs, lines moments. Lines are means over batches, bands their 95 % intervals.
    """
    named = {"": results} if isinstance(results, PathSpectrum) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(*((2, 1) if narrow else (1, 2)))
    if narrow:
        fig.set_size_inches(style.NARROW[0], 1.8 * style.NARROW[1])
    left, right = (ax for row in grid for ax in row)
    for i, (label, r) in enumerate(named.items()):
        whole = r.norm.mean(1, keepdims=True).sum(-1, keepdims=True)
        own = r.norm / np.where(whole > 0, whole, np.nan)
        for t, step in enumerate(r.step):
            look: dict[str, Any] = {"color": style.color(i), "ls": style.LINES[t % 4]}
            name = f"{label}, {moment(int(step))}".strip(", ") if len(r.step) > 1 else label
            for ax, values in ((left, own[t]), (right, r.contribution[t])):
                ax.plot(r.length, 100 * values.mean(0), label=name, **look)
                low, high = of_mean(100 * values, 0)
                ax.fill_between(r.length, low, high, color=look["color"], alpha=0.18, lw=0)
    left.set(ylabel="share of the norms (%)")
    right.set(ylabel="contribution to the gradient (%)")
    right.axhline(0, lw=1, color=style.ink())
    for ax in (left, right):
        ax.set_xlabel("length (branches crossed)")
        style.integer_ticks(ax)
    if any(left.get_legend_handles_labels()[1]):
        style.legend_above(fig, left)
    return fig


def path_spectrum(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    batch_size: int = 32,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathSpectrum:
    """The gradient through all paths of each length, for batches of the data.

    Args:
      network: any; in a network without residual units all of the gradient has one length.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training. Training images, as in the paper.
      labels: int [N].
      loss: (logits [B, classes], labels [B]) → [B].
      probe: BatchNorm's mode, reduction, norm, and where the gradient is measured.
      batch_size: examples a batch; fewer only if there are fewer in all. A gradient belongs to a batch, so
        examples beyond the last whole batch are not used. Memory grows with it.
      step: training steps done, to note in the result.
      seed: of dropout, where ``probe.train``.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, a batch size below 1.
    """
    batches = whole_batches(network, variables, images, labels, batch_size)
    residual, plain = count_units(network)
    found: list[tuple[np.ndarray, ...]] = []
    cores = on_cores.shared_cores().if_shared(len(batches[0][0]))
    variables = cores.copy(variables)
    for i, (x, y) in enumerate(batches):
        if progress:
            progress(i, len(batches))
        x, y = cores.split((x, y))
        key = jax.random.fold_in(jax.random.key(seed), i)
        norms, parts, total, scale = (
            np.asarray(v, np.float64)
            for v in jax.device_get(_spectrum(cores, network, loss, probe, variables, x, y, key))
        )
        found.append((scale * probe.of_examples(norms), parts, scale * probe.of_examples(total)))
    if progress:
        progress(len(batches), len(batches))
    norms, parts, total = (np.stack(v)[None] for v in zip(*found, strict=True))
    size = len(batches[0][0])
    return PathSpectrum(
        step=np.array([step]),
        length=path_lengths(residual, plain),
        norm=norms,
        contribution=parts,
        total=total,
        num_residual=residual,
        num_plain=plain,
        batch_size=size,
        choices={**probe.choices(), "batches": f"{len(batches)} of {size} examples", "seed": seed},
    )


@on_cores.jit(static=4)
def _spectrum(
    cores: on_cores.Cores,
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Norms [rows, B], contributions [rows], the whole norms [B], and what norms are divided by."""

    def cross_unit(unit: Crossing, rows: jax.Array, _: Any, behind: jax.Array) -> Any:
        return cross(unit, rows, behind), None, None

    walk = walk_back(
        network,
        loss,
        probe,
        variables,
        images,
        labels,
        key,
        start=first_row(network),
        cross=cross_unit,
        carry=None,
        xs=residual_behind(network),
    )
    axes = tuple(range(1, images.ndim if probe.at == "image" else walk.rows.ndim - 1))
    whole = walk.to_input(jnp.sum(walk.rows, 0))

    def measure(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        g = walk.to_input(c)
        return norm(g, axes), part_of(g, whole)

    norms, parts = lax.map(measure, walk.rows)
    return norms, parts, norm(whole, axes), walk.scale


def first_row(network: Network) -> Any:
    """Rows for 0 … n residual branches; the gradient behind the last unit has crossed none."""
    count = count_units(network)[0] + 1
    return lambda c: jnp.zeros((count, *c.shape), c.dtype).at[0].set(c)


def residual_behind(network: Network) -> np.ndarray:
    """int32 [unit]: how many residual units each unit has behind it, towards the loss."""
    residual = np.array([unit.stack.unit.residual for unit in network.units])
    return (residual.sum() - residual.cumsum()).astype(np.int32)


def cross(unit: Crossing, rows: jax.Array, behind: jax.Array) -> jax.Array:
    """c_k ← SᵀMᵀc_k + JᵀMᵀc_{k−1} for all rows that are in use, 0 … ``behind``; the others stay 0.

    From the last row to the first, so that each is written where nothing needs the old value any more.
    """
    same = unit.x.shape == rows.shape[1:]
    new = rows if same else jnp.zeros((len(rows), *unit.x.shape), rows.dtype)

    def old(new: jax.Array, k: jax.Array | int) -> jax.Array:
        return lax.dynamic_index_in_dim(new if same else rows, k, keepdims=False)

    merge = unit.merge()
    if not unit.unit.residual:
        branch = unit.branch()
        return lax.fori_loop(
            0, behind + 1, lambda k, new: new.at[k].set(branch(merge(old(new, k)))), new
        )
    both, shortcut = unit.both(), unit.shortcut()

    def step(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        new, above = state  # above = Mᵀc_k, of the row that is written next
        k = behind + 1 - i
        below = merge(old(new, k - 1))
        return new.at[k].set(both(above, below)), below

    nothing = jnp.zeros(rows.shape[1:], rows.dtype)
    # A traced bound: rows that no path has reached yet are not computed.
    new, above = lax.fori_loop(0, behind + 1, step, (new, nothing))
    return new.at[0].set(shortcut(above))


def part_of(g: jax.Array, whole: jax.Array) -> jax.Array:
    """⟨g, whole⟩/‖whole‖², over all axes; NaN where ``whole`` is 0."""
    size = norm(whole, tuple(range(whole.ndim)))
    dtype = wide(g)
    return jnp.sum(g.astype(dtype) * (whole.astype(dtype) / size)) / size
