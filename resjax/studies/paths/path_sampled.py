"""Sampled gradient by path length: random single paths, as in the paper.

*Question.* How large is the gradient that arrives through one path, and how does it fall with the length?

*Method.* Veit, Wilber & Belongie (2016, §5, Fig. 6b): a batch of training images runs forward through the
whole trained network. In the backward pass k random units are crossed through their branch only, all others
through their shortcut only. The norm of the gradient at the input is one draw, for one of the C(n, k) paths,
at the intact network's activations. Fig. 6c multiplies the mean over draws by the number of paths.

Here each draw is divided by the norm of the *whole* gradient of its batch, so that all batches count alike.
In a trained network some batches have a gradient dozens of times that of others, and would decide the mean
alone: in the digits network with statistics of the batch, two draws of length 8 on the same batch have norms
whose logarithms correlate at 0.63, and at −0.02 after the division.

If each branch multiplies the norm by the same g, the mean falls as gᵏ, and the product is
proportional to Binomial(n, g/(1 + g)) (``path_counts``). log(g) is the slope of a line through log(mean norm)
against k, for k from 1 to 40 of 54 units, and in proportion for other depths: longer paths are a negligible
share of all.

*Protocol.* The paper took 1,000 draws for each length. ``Probe`` holds the choices that it leaves open. Draw
d of every length uses batch d, cycling through the batches. Every path crosses each plain unit. Intervals are
over draws, which are paths and batches at once: of the mean norm by Student's t of its logarithm, of the
median by the bootstrap, of everything that is computed from the means of all lengths by the jackknife. For
the digits network, where many draws tell the truth, "95 %" for g held it in 90 to 97 % of cases with 5 to 87
draws; bootstrapped norms without the division in 39 to 71 %.

*Reading it.* The paper's product is an *upper bound* of the gradient through all paths of that length: it
adds norms, as if the gradients of all paths had the same direction. ``path_exact`` adds the vectors. If norms
spread over decades, the few largest dominate their mean; compare the median.

*Cost.* A draw of length k takes k backward passes of a branch with respect to its input; an identity shortcut
costs nothing. A draw is one random path of each length. Where paths cross the last units in the same way,
their gradient is computed once (``single_paths``), and two draws of one batch share a walk. So d paths of
each length take about 0.6 of the time of d exact spectra (ResNet-56, measured), and the memory of two. The
whole gradient takes n more passes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Annotated, Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, WholeBatches, on_each_core, whole_batches
from resjax.studies.intervals import jackknife, of_positive_mean
from resjax.studies.marks import explain_lines
from resjax.studies.paths.path_counts import show_lengths
from resjax.studies.paths.path_draws import by_batch, median_interval, relative
from resjax.studies.paths.path_lengths import (
    FITTED,
    central_range,
    central_range_interval,
    count_units,
    fit_attenuation,
    path_lengths,
    totals,
)
from resjax.studies.paths.path_walk import BATCH_SIZE, PAPER, Probe
from resjax.studies.paths.single_paths import rows_of, walk_paths
from resjax.studies.result import Result

DRAWS_IN_A_WALK = 2  # at most, all of one batch; a walk holds one gradient for each path


@dataclasses.dataclass(frozen=True)
class PathSample(Result):
    """Norms of gradients through random single paths; intervals are 95 % intervals over draws and batches.

    ``mean`` and ``median`` are those of ``relative``. Draws take the batches in turn. Those of one batch are
    alike (at length 0 they are equal, because there is one path), so the mean of each batch counts as one
    draw (``by_batch``). ``of_draws`` makes a result of its norms.
    """

    length: Annotated[np.ndarray, "length"]  # int, branches crossed
    norm: Annotated[np.ndarray, "length", "draw"]  # ‖gradient through one path‖
    total: Annotated[np.ndarray, "draw"]  # ‖whole gradient‖ of the batch of each draw
    mean: Annotated[np.ndarray, "length"]
    median: Annotated[np.ndarray, "length"]
    mean_interval: Annotated[np.ndarray, "end", "length"]
    median_interval: Annotated[np.ndarray, "end", "length"]
    attenuation: float  # g, by which a branch multiplies the mean; NaN where it can't be fitted
    attenuation_interval: Annotated[np.ndarray, "end"]
    r_squared: float  # of the line through log(mean) against the length
    num_residual: int  # units with a shortcut
    num_plain: int  # units without one
    batch_size: int
    batches: int | None = None  # draw i is of batch i mod ``batches``; None: each of a batch of its own

    @property
    def relative(self) -> np.ndarray:
        """[length, draw]: ``norm`` ÷ ``total``; NaN where a batch has no gradient."""
        return relative(self.norm, self.total)

    @property
    def by_batch(self) -> np.ndarray:
        """[length, batch]: the mean of ``relative`` over the draws of each batch."""
        return by_batch(self.relative, self.batches)

    @property
    def share(self) -> np.ndarray:
        """[length]: number of paths × mean norm, divided by the sum; the paper's Fig. 6c."""
        return self._totals(self.mean)

    @property
    def mean_length(self) -> float:
        """Weighted by ``share``."""
        return float(self.share @ self.length)

    @cached_property
    def mean_length_interval(self) -> tuple[float, float]:
        """Jackknife 95 % interval."""
        ends = jackknife(self.by_batch, lambda mean: self._totals(mean) @ self.length)
        low, high = np.clip(ends, self.length[0], self.length[-1])
        return float(low), float(high)

    @property
    def effective(self) -> tuple[float, float]:
        """First and last length of the central 95 % of ``share``."""
        return central_range(self.length, self.share)

    @cached_property
    def effective_interval(self) -> np.ndarray:
        """[end, 2]: intervals of the two lengths of ``effective``. They are whole lengths, so the
        coverage is at least 95 %."""
        below = jackknife(self.by_batch, lambda mean: np.cumsum(self._totals(mean)))
        return central_range_interval(self.length, below)

    @cached_property
    def r_squared_interval(self) -> tuple[float, float]:
        """Jackknife 95 % interval for the R² of endless draws.

        Noise of the means lowers R². The interval corrects this bias, so it may exclude ``r_squared``.
        """
        units = self.num_residual, self.num_plain
        ends = jackknife(self.by_batch, lambda mean: fit_attenuation(mean, self.length, *units)[1])
        low, high = np.clip(ends, 0, 1)
        return float(low), float(high)

    def _totals(self, mean: np.ndarray) -> np.ndarray:
        return totals(mean, self.num_residual, self.num_plain)


def of_draws(
    norm: np.ndarray,
    total: np.ndarray,
    *,
    num_residual: int,
    num_plain: int,
    batch_size: int,
    choices: dict[str, Any],
    batches: int | None = None,
) -> PathSample:
    """The result for norms [length, draw] of single paths, and [draw] of the whole gradients, of so many
    batches in turn."""
    length = path_lengths(num_residual, num_plain)
    ratio = relative(norm, total)
    fit = partial(fit_attenuation, length=length, num_residual=num_residual, num_plain=num_plain)
    of_batches = by_batch(ratio, batches)
    mean = of_batches.mean(1)
    g, r_squared = fit(mean)
    low, high = jackknife(of_batches, lambda mean: np.log(fit(mean)[0]))  # of the slope
    return PathSample(
        length=length,
        norm=norm,
        total=total,
        mean=mean,
        median=np.median(ratio, axis=1),
        mean_interval=np.stack(of_positive_mean(of_batches, 1)),
        median_interval=median_interval(ratio, of_batches.shape[1], choices.get("seed", 0)),
        attenuation=g,
        attenuation_interval=np.exp([low, high]),
        r_squared=r_squared,
        num_residual=num_residual,
        num_plain=num_plain,
        batch_size=batch_size,
        batches=batches,
        choices=choices,
    )


def sample_paths(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    draws: int = 100,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    earlier: PathSample | None = None,
    progress: Progress | None = None,
) -> PathSample:
    """Gradient norms of random paths of each length, as Veit et al. 2016, Fig. 6b.

    Args: those of ``path_spectrum``, where ``progress`` counts walks of up to two draws, and
      draws: paths of each length, 2 or more.
      seed: seed of paths and of resampled draws, and of dropout with ``probe.train``.
      earlier: a result that differs in the numbers of draws and of batches alone; its draws are not measured
        again where they are of the same batch.

    Raises:
      ValueError: also for fewer than two draws, and for an earlier result of batches of another size.
    """
    if draws < 2:
        raise ValueError(f"draws={draws}; allowed: 2 or more, because one draw has no interval")
    batches = whole_batches(network, variables, images, labels, batch_size)
    probe = probe.fits(batches.pairs[0][0])
    residual, plain = count_units(network)
    rng, columns = np.random.default_rng(seed), _known(earlier, batches)
    new: dict[int, dict[int, np.ndarray]] = {}  # of each batch: its draws, bool [units, paths]
    for i, number in zip(range(draws), itertools.cycle(range(len(batches.pairs))), strict=False):
        # One path of each length: the first 0, 1, 2, … units of a random order take their branch.
        place = rng.permuted(np.tile(np.arange(residual), (residual + 1, 1)), axis=1)
        branch = np.zeros((residual + 1, network.num_units), bool)
        branch[:, network.residual] = place < np.arange(residual + 1)[:, None]
        if i not in columns:  # known draws take their random numbers, too
            new.setdefault(number, {})[i] = _through(network, branch)
    columns |= _drawn(network, loss, probe, variables, list(batches.keyed(seed)), new, progress)
    norms, whole = zip(*(columns[i] for i in range(draws)), strict=True)
    return of_draws(
        np.stack(norms, axis=1),
        np.array(whole),
        num_residual=residual,
        num_plain=plain,
        batch_size=batches.size,
        batches=len(batches.pairs),
        choices={
            **probe.choices(),
            "mean norm": "each draw ÷ the norm of the whole gradient of its batch",
            "batches": f"{batches}, in turn",
            "draws": f"{draws} paths of each length",
            "seed": seed,
            "attenuation": f"slope of log(mean norm), {math.ceil(FITTED * residual)} lengths from 1",
            "range": "central 95 %",
        },
    )


def _drawn(
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    batches: list[tuple[Any, ...]],
    draws: dict[int, dict[int, np.ndarray]],
    progress: Progress | None,
) -> dict[int, tuple[np.ndarray, float]]:
    """{number of a draw: norms [length], and that of the whole gradient}, of the draws of each batch."""
    walks = []
    for batch, own in draws.items():
        for first in range(0, len(own), DRAWS_IN_A_WALK):
            numbers = list(own)[first : first + DRAWS_IN_A_WALK]
            # The last one again, if there are fewer: equal paths cross no branch twice.
            filled = (numbers + numbers[-1:] * DRAWS_IN_A_WALK)[:DRAWS_IN_A_WALK]
            paths = [own[i] for i in filled]
            walks.append((numbers, *rows_of(np.concatenate(paths, axis=1)), batches[batch]))
    each = [(rows, *examples) for _, rows, _, examples in walks]
    found = on_each_core(walk_paths, (network, loss, probe), variables, each, progress)
    columns: dict[int, tuple[np.ndarray, float]] = {}
    for (numbers, _, row, _), out in zip(walks, found, strict=True):
        norms, whole = _norms(probe, row, *out)
        columns |= {
            i: (own, whole) for i, own in zip(numbers, np.split(norms, DRAWS_IN_A_WALK), strict=False)
        }
    return columns


def _known(earlier: PathSample | None, batches: WholeBatches) -> dict[int, tuple[np.ndarray, float]]:
    """{number of a draw: norms [length], and that of the whole gradient}, of those draws of an earlier result
    that are of the same batch as here."""
    if earlier is None:
        return {}
    had, now = earlier.batches, len(batches.pairs)
    if had is None or earlier.batch_size != batches.size:
        raise ValueError(
            f"the earlier draws are of {had} batches of {earlier.batch_size} examples; "
            f"allowed: any number of batches of {batches.size}"
        )
    draws = enumerate(zip(earlier.norm.T, earlier.total, strict=True))
    return {i: (norm, float(total)) for i, (norm, total) in draws if i % had == i % now}


def path_norms(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    branch: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    seed: int = 0,
) -> np.ndarray:
    """Norms [paths] of the gradient of one batch through the given paths.

    Args: those of ``sample_paths``, and
      branch: bool [paths, units], True where a path crosses a residual unit through the branch; entries of
        plain units are ignored. Memory grows with the number of paths.
    """
    branch = np.asarray(branch, bool)
    if branch.ndim != 2 or branch.shape[1] != network.num_units or not len(branch):
        allowed = f"[paths, {network.num_units}], one column a unit"
        raise ValueError(f"branch has shape {branch.shape}; allowed: {allowed}")
    size = max(len(np.asarray(labels)), 1)
    (batch,) = whole_batches(network, variables, images, labels, size).keyed(seed)
    rows, row = rows_of(_through(network, branch))
    found = walk_paths(on_cores.Cores(), network, loss, probe, variables, rows, *batch)
    return _norms(probe, row, *jax.device_get(found))[0]


def _through(network: Network, branch: np.ndarray) -> np.ndarray:
    """bool [units, paths]: every path crosses the branches of plain units, whatever ``branch`` says."""
    through: np.ndarray = (branch | ~network.residual).T
    return through


def _norms(probe: Probe, row: np.ndarray, norms: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, float]:
    """Norms float64 [paths], and that of the whole gradient, from those of ``walk_paths`` and the ``row`` of
    each path."""
    *single, whole = probe.of_examples(norms) * np.exp(np.asarray(logs, np.float64))
    return np.array(single)[row], float(whole)


# --- what the report shows ---


def plot(results: Mapping[str, PathSample]) -> style.Figure:
    """Veit et al. 2016, Fig. 6b and 6c: the norm of the gradient through one path, by its length, and the
    number of paths × that norm. Bands are 95 % intervals of the mean over draws."""
    fig, (left, right) = style.panels(2)
    for i, (label, r) in enumerate(results.items()):
        draw_single(left, r, i)
        dots = style.marker(i) + "-"
        right.plot(r.length, 100 * r.share, dots, color=style.color(i), ms=3, lw=1, label=label)
    right.set(ylabel="number × mean: share (%)")
    show_lengths(fig, right, left)
    return fig


def draw_single(ax: style.Axes, sample: PathSample, i: int) -> None:
    """Mean with its interval, median and g of run ``i``, on a logarithmic axis."""
    curves = np.stack([*sample.mean_interval, sample.mean, sample.median])
    low, high, mean, median = np.where(curves > 0, curves, np.nan)
    color = style.color(i)
    ax.fill_between(sample.length, low, high, color=color, alpha=0.25, lw=0)
    ax.plot(sample.length, mean, style.marker(i) + "-", color=color, ms=3, lw=1)
    ax.plot(sample.length, median, "--", color=color, lw=1)
    if np.isfinite(sample.attenuation):
        note, at = f"g = {sample.attenuation:.2f}", (0.05, 0.06 + 0.08 * i)
        ax.annotate(note, at, xycoords="axes fraction", color=color, fontsize=9)
    ax.set(ylabel="‖one path‖ ÷ ‖whole gradient‖", yscale="log")
    explain_lines(ax, {"mean": ("o", "-"), "median": ("", "--")})
