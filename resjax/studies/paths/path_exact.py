"""Exact gradient by path length: the sum over all paths of each length.

*Question.* The gradient of a residual network is a sum over 2ⁿ paths. How much of it comes through paths that
cross k branches?

*Method.* At a unit, a path goes through the shortcut's Jacobian S or the branch's J. The product over units
∏(S_i + t·J_i)ᵀ ∂L/∂y sorts the paths by length: the coefficient of tᵏ is the sum over all paths of length k.
So the cotangents c_0 … c_n, one for each length, are carried back together, as polynomials are multiplied:

    c_k  ←  Sᵀ Mᵀ c_k + Jᵀ Mᵀ c_{k−1}

with M the Jacobian of what follows the sum (for a post-activation unit its ReLU). A plain unit has no
shortcut, so all lengths grow by one there. Nothing is sampled: Σ_k c_k is the true gradient.

Each length has two numbers: the *norm* ‖c_k‖, and the *contribution* ⟨c_k, c⟩/‖c‖² to the gradient c.
Contributions sum to 1; a negative one means that these paths oppose the whole gradient.

*Protocol.* Veit et al. 2016 (§5) leave choices open; the defaults are BatchNorm's running statistics, the
mean loss of a batch, and one L2 norm over the batch, at the image (``Probe``). The paper has no such sum: it
multiplies the number of paths by the mean norm of single ones (``path_sampled``), an upper bound, because
paths are vectors that point in different directions.

*Reading it.* ‖c_k‖ do not sum to ‖c‖: lengths cancel each other as well. A spectrum at short lengths says
that the *gradient* comes through short paths. It does not say that the network computes a vote of shallow
ones.

*Cost.* With n residual units, n(n + 1)/2 backward passes of a branch with respect to its input. That is half
of n passes through all branches, without the gradients of weights, which a training step needs too. n + 1
states and n inputs of units are held.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

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
    BATCH_SIZE,
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
    (``resjax.studies.moments.join``)."""

    step: Annotated[np.ndarray, "step"]  # int, training steps done at each moment
    length: Annotated[np.ndarray, "length"]  # int, branches crossed
    # ‖sum of the gradients of all paths of a length‖, and its part of the whole gradient, which sums to 1.
    norm: Annotated[np.ndarray, "step", "batch", "length"]
    contribution: Annotated[np.ndarray, "step", "batch", "length"]
    total: Annotated[np.ndarray, "step", "batch"]  # norm of the whole gradient
    num_residual: int  # units with a shortcut
    num_plain: int  # units without one
    batch_size: int

    @property
    def share(self) -> np.ndarray:
        """[step, length]: mean norm over batches, divided by the sum over lengths."""
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


def path_spectrum(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    batch_size: int = BATCH_SIZE,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathSpectrum:
    """The gradient through all paths of each length, for batches of the data.

    Args:
      network: any; in a network without residual units the whole gradient has one length.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; training images, as in the paper.
      labels: int [N].
      loss, progress: see ``Inference``; ``progress`` counts batches.
      probe: BatchNorm's mode, reduction, norm, and where the gradient is measured.
      batch_size: examples in a batch, or all examples where there are fewer. The result depends on it,
        because a gradient belongs to a batch; examples beyond the last whole batch are not used.
      step: training steps done, noted in the result.
      seed: seed of dropout, used with ``probe.train``.

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
    """Norms [rows, B], contributions [rows], the whole norms [B], and the scale that norms are divided by."""

    def cross_unit(unit: Crossing, rows: jax.Array, _: Any, behind: jax.Array) -> Any:
        return cross(unit, rows, behind), None, None

    walk = walk_back(
        *(network, loss, probe, variables, images, labels, key),
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
    """The gradient behind the last unit → rows for 0 … n residual branches; it has crossed none."""
    count = count_units(network)[0] + 1
    return lambda c: jnp.zeros((count, *c.shape), c.dtype).at[0].set(c)


def residual_behind(network: Network) -> np.ndarray:
    """int32 [unit]: how many residual units each unit has behind it, towards the loss."""
    residual = np.array([unit.stack.unit.residual for unit in network.units])
    return (residual.sum() - residual.cumsum()).astype(np.int32)


def cross(unit: Crossing, rows: jax.Array, behind: jax.Array) -> jax.Array:
    """c_k ← SᵀMᵀc_k + JᵀMᵀc_{k−1} for all rows that are in use, 0 … ``behind``; the others stay 0.

    From the last row to the first, so that no row is overwritten before it is read.
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
        new, above = state  # above = Mᵀc_k, for the row that is written next
        k = behind + 1 - i
        below = merge(old(new, k - 1))
        return new.at[k].set(both(above, below)), below

    nothing = jnp.zeros(rows.shape[1:], rows.dtype)
    # The bound is traced: rows that no path has reached yet are not computed.
    new, above = lax.fori_loop(0, behind + 1, step, (new, nothing))
    return new.at[0].set(shortcut(above))


def part_of(g: jax.Array, whole: jax.Array) -> jax.Array:
    """⟨g, whole⟩/‖whole‖², over all axes; NaN where ``whole`` is 0."""
    size = norm(whole, tuple(range(whole.ndim)))
    dtype = wide(g)
    return jnp.sum(g.astype(dtype) * (whole.astype(dtype) / size)) / size


# --- what the report shows ---


def plot(results: Mapping[str, PathSpectrum]) -> Figure:
    """Left, the share of the norms by length; right, the contribution to the gradient, which can be negative.

    Runs differ in color, moments in line style. Lines are means over batches, bands their 95 % intervals.
    """
    fig, (left, right) = style.panels(2)
    for i, (label, r) in enumerate(results.items()):
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
