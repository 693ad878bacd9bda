"""Exact gradient by path length: the sum over all paths of each length.

*Question.* The gradient of a residual network is a sum over 2ⁿ paths. How much of it comes through paths that
cross k branches?

*Method.* At a unit, a path goes through the shortcut's Jacobian S or the branch's J. The product over units
∏(S_i + t·J_i)ᵀ ∂L/∂y sorts the paths by length: the coefficient of tᵏ is the sum over all paths of length k.
So the cotangents c_0 … c_n, one for each length, are propagated backwards together, like the coefficients of
a product of polynomials:

    c_k  ←  Sᵀ Mᵀ c_k + Jᵀ Mᵀ c_{k−1}

with M the Jacobian of what follows the sum (for a post-activation unit its ReLU). A plain unit has no
shortcut, so all lengths grow by one there. Nothing is sampled: Σ_k c_k is the true gradient c.

Each length has a *norm* ‖c_k‖ and a *contribution* ⟨c_k, c⟩/‖c‖². Contributions sum to 1; a negative one
means that these paths oppose the whole gradient.

*Protocol.* Veit et al. 2016 (§5) leave several choices open; the defaults are BatchNorm's running statistics,
the mean loss of a batch, and one L2 norm over the batch, at the image (``Probe``). The paper has no such sum:
it multiplies the number of paths by the mean norm of single ones (``path_sampled``), an upper bound, because
paths are vectors that point in different directions.

*Mean and interval.* A batch's *mean length* is Σ_k k·‖c_k‖ / Σ_k ‖c_k‖. All batches count alike, with
Student's t interval. In a trained network the norms of a few batches are many times those of the others, and
longer paths carry more of these. So norms that are summed over batches before they are divided describe a few
batches, and a bootstrap of them is far too narrow: of 4 or 8 batches, "95 %" holds the true value in about
half of all cases.

*Reading it.* The norms ‖c_k‖ do not sum to ‖c‖: different lengths partly cancel, too. Large norms at short
lengths show that the *gradient* comes through short paths, not that the output is a vote of shallow networks.

*Cost.* With n residual units, n(n + 1)/2 backward passes of a branch with respect to its input: half of n
passes through all branches, without the weight gradients that a training step also needs. Memory: n + 1
cotangents and the n inputs of the units.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network import order as orders
from resjax.network.losses import Loss, cross_entropy
from resjax.network.refusal import Refusal
from resjax.studies import style
from resjax.studies.batches import Progress, whole_batches
from resjax.studies.intervals import of_mean
from resjax.studies.moments import moment
from resjax.studies.paths.path_counts import show_lengths
from resjax.studies.paths.path_lengths import (
    central_range,
    central_range_interval,
    count_units,
    path_lengths,
    shares,
)
from resjax.studies.paths.path_walk import (
    BATCH_SIZE,
    PAPER,
    Arrived,
    Crossing,
    Probe,
    norm,
    norm_of_each,
    rows_before,
    walk_back,
    wide,
)
from resjax.studies.result import Result
from resjax.studies.study import Bench


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
    def own_share(self) -> np.ndarray:
        """[step, batch, length]: each batch's norms, divided by their sum; NaN for a batch without a finite,
        non-zero gradient."""
        return shares(self.norm)

    @property
    def own_length(self) -> np.ndarray:
        """[step, batch]: mean length of each batch, weighted by its ``own_share``."""
        return self.own_share @ self.length

    @property
    def share(self) -> np.ndarray:
        """[step, length]: mean of ``own_share``, so all batches count alike; sums to 1."""
        return self.own_share.mean(1)

    @property
    def mean_length(self) -> np.ndarray:
        """[step]: mean of ``own_length``."""
        return self.own_length.mean(1)

    @property
    def mean_length_interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends [step] of Student's t interval over batches, cut at the lengths of all paths; NaN with one."""
        low, high = np.clip(of_mean(self.own_length, 1), self.length[0], self.length[-1])
        return low, high

    @property
    def mean_contribution(self) -> np.ndarray:
        """[step, length]: mean over batches."""
        return self.contribution.mean(1)

    @property
    def effective(self) -> np.ndarray:
        """[step, end]: first and last length of the central 95 % of ``share``."""
        return np.array([central_range(self.length, share) for share in self.share])

    @property
    def effective_interval(self) -> np.ndarray:
        """[end, step, 2]: intervals over batches of the two lengths of ``effective``; NaN with one batch."""
        below = np.cumsum(self.own_share, -1)
        intervals = [central_range_interval(self.length, of_mean(own, 0)) for own in below]
        return np.stack(intervals, axis=1)


def path_spectrum(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    gates: ArrayLike | None = None,
    order: ArrayLike | None = None,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    batch_size: int = BATCH_SIZE,
    first_batch: int = 0,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathSpectrum:
    """The gradient through all paths of each length, for batches of the data.

    Args: those of every analysis (``Inference``), with training images as in the paper, and
      gates, order: float and int [units], as for ``Network.apply``, of a changed network. The lengths count
        every unit, also a deleted one, through whose branch no gradient comes.
      probe: BatchNorm's mode, reduction, norm, and where the gradient is measured.
      batch_size: examples in a batch, or all examples where there are fewer. The result depends on it,
        because a gradient belongs to a batch; examples beyond the last whole batch are not used.
      first_batch: number of the first batch that is measured (``resjax.studies.more_batches``).
      step: training steps done, noted in the result.
      seed: seed of dropout, used with ``probe.train``.

    Raises:
      ValueError: also for gates other than 1 of units without a shortcut, and for a
        ``first_batch`` that is not there.
    """
    batches = whole_batches(network, variables, images, labels, batch_size)
    factors = network.all_gates(gates)
    if gates is not None and (np.asarray(gates)[~network.residual] != 1).any():
        raise Refusal(
            "a unit without a shortcut whose branch has a factor is crossed in two ways, which the lengths "
            "of paths do not count; give such units a gate of 1"
        )
    checked = None if order is None else orders.checked(order, network.units, train=False)
    probe = probe.fits(batches.pairs[0][0])
    residual, plain = count_units(network)
    found: list[tuple[np.ndarray, ...]] = []
    cores = on_cores.shared_cores().if_shared(batches.size)
    variables, *changed = cores.copy((variables, factors, checked))
    for *examples, key in batches.keyed(seed, progress, first_batch):
        batch = variables, *cores.split(tuple(examples)), key, *changed
        out = jax.device_get(_spectrum(cores, network, loss, probe, *batch))
        norms, parts, total, scale = (np.asarray(v, np.float64) for v in out)
        found.append((scale * probe.of_examples(norms), parts, scale * probe.of_examples(total)))
    norms, parts, total = (np.stack(v)[None] for v in zip(*found, strict=True))
    return PathSpectrum(
        step=np.array([step]),
        length=path_lengths(residual, plain),
        norm=norms,
        contribution=parts,
        total=total,
        num_residual=residual,
        num_plain=plain,
        batch_size=batches.size,
        choices={**probe.choices(), "batches": str(batches), "seed": seed},
    )


def spectra_of(bench: Bench) -> Callable[..., PathSpectrum]:
    """``path_spectrum`` for the studies of a bench, on its data: for the newest variables, they measure it
    once."""
    known = bench.run.once("spectra", dict[tuple[Any, ...], PathSpectrum])

    def spectrum(
        network: Network,
        variables: Variables,
        images: Any,
        labels: np.ndarray,
        *,
        probe: Probe,
        batch_size: int,
        seed: int,
        first_batch: int = 0,
        step: int = 0,
        progress: Progress | None = None,
        **how: Any,
    ) -> PathSpectrum:
        # ``variables`` of a run are a new dict each time, of the same arrays.
        newest = all(map(operator.is_, jax.tree.leaves(variables), jax.tree.leaves(bench.run.variables)))
        key = probe, len(labels), batch_size, seed
        if newest and key in known:
            found = known[key]
            parts = {
                name: getattr(found, name)[:, first_batch:] for name in ("norm", "contribution", "total")
            }
            found = dataclasses.replace(found, **parts)
            if progress:
                progress(found.norm.shape[1], found.norm.shape[1])
        else:
            how |= {"probe": probe, "batch_size": batch_size, "seed": seed, "progress": progress}
            found = path_spectrum(network, variables, images, labels, first_batch=first_batch, **how)
            if newest and first_batch == 0:
                known[key] = found
        # A study may add to the choices.
        return dataclasses.replace(found, step=np.array([step]), choices=dict(found.choices))

    return spectrum


@on_cores.jit(static=4)
def _spectrum(
    cores: on_cores.Cores, network: Network, loss: Loss, probe: Probe, *batch: Any
) -> tuple[jax.Array, ...]:
    """Norms [row, B], contributions [row], the whole norms [B], and the scale that norms are divided by.

    ``batch`` is (variables, images, labels, key, gates, order), and row k holds the paths with k residual
    branches.
    """
    walk = walk_lengths(network, loss, probe, *batch)
    whole = walk.to_input(jnp.sum(walk.rows, 0))

    def measure(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        g = walk.to_input(c)
        return norm_of_each(g), part_of(g, whole)

    norms, parts = lax.map(measure, walk.rows)
    return norms, parts, norm_of_each(whole), walk.scale


def walk_lengths(
    network: Network,
    *given: Any,
    measure: Callable[[Crossing, jax.Array, jax.Array], Any] = lambda *_: None,
) -> Arrived:
    """Propagates one row for each number of residual branches through the network; see ``walk_back``.

    Args:
      *given: the other positional arguments of ``walk_back``.
      measure: (unit, rows behind it, number of residual units behind it) → output of the unit. Paths up to
        this unit have crossed 0 … that number of residual branches; the other rows are 0.
    """
    behind = network.residual.sum() - network.residual.cumsum()

    def start(c: jax.Array) -> jax.Array:
        """Behind the last unit, the gradient has crossed no branch."""
        return jnp.zeros((network.residual.sum() + 1, *c.shape), c.dtype).at[0].set(c)

    def cross(unit: Crossing, rows: jax.Array, _: Any, behind: jax.Array) -> Any:
        return _cross(unit, rows, behind), None, measure(unit, rows, behind)

    xs = behind.astype(np.int32)
    return walk_back(network, *given, start=start, cross=cross, carry=None, xs=xs)


def _cross(unit: Crossing, rows: jax.Array, behind: jax.Array) -> jax.Array:
    """c_k ← SᵀMᵀc_k + JᵀMᵀc_{k−1} for the rows in use, 0 … ``behind``; the others stay 0.

    From the last row to the first, so that no row is overwritten before it is read.
    """
    new, old = rows_before(unit, rows)
    merge = unit.merge()
    if not unit.unit.residual:
        branch = unit.branch()
        return lax.fori_loop(0, behind + 1, lambda k, new: new.at[k].set(branch(merge(old(new, k)))), new)
    both, shortcut = unit.both(), unit.shortcut()

    def step(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        new, above = state  # above = Mᵀc_k, for the next written row
        k = behind + 1 - i
        below = merge(old(new, k - 1))
        return new.at[k].set(both(above, below)), below

    nothing = jnp.zeros(rows.shape[1:], rows.dtype)
    # The bound is traced: rows that no path has reached yet are not computed.
    new, above = lax.fori_loop(0, behind + 1, step, (new, nothing))
    return new.at[0].set(shortcut(above))


def part_of(g: jax.Array, whole: jax.Array) -> jax.Array:
    """⟨g, whole⟩/‖whole‖², over all axes; NaN where ``whole`` is 0."""
    size, dtype = norm(whole), wide(g)
    return jnp.sum(g.astype(dtype) * (whole.astype(dtype) / size)) / size


# --- what the report shows ---


def plot(results: Mapping[str, PathSpectrum]) -> style.Figure:
    """Left: share of the norms by length. Right: contribution to the gradient, which can be negative.

    Runs differ in color, moments in line style. Lines are means over batches, bands their 95 % intervals.
    """
    fig, (left, right) = style.panels(2)
    for i, (label, r) in enumerate(results.items()):
        for t, step in enumerate(r.step):
            color, line = style.color(i), style.LINES[t % 4]
            name = f"{label}, {moment(int(step))}".strip(", ") if len(r.step) > 1 else label
            for ax, values in ((left, 100 * r.own_share[t]), (right, 100 * r.contribution[t])):
                ax.plot(r.length, values.mean(0), line, color=color, label=name)
                ax.fill_between(r.length, *of_mean(values, 0), color=color, alpha=0.18, lw=0)
    left.set(ylabel="share of the norms (%)")
    right.set(ylabel="contribution to the gradient (%)")
    right.axhline(0, lw=1, color=style.ink())
    show_lengths(fig, left, right)
    return fig
