"""The gradient by path length, counted, sampled and exact, side by side.

*Question.* Veit, Wilber & Belongie (2016, §5): of 2ⁿ paths most are about n/2 units long. Do those train the
network, or the few short ones? Their answer for 54 units: 5 to 17 units, 0.45 % of all paths.

*Method.* ``path_counts`` counts (their Fig. 6a), ``path_sampled`` draws single paths (6b) and multiplies
their mean norm with their number (6c), ``path_exact`` sums all paths of a length. The *alignment* of a
length is the norm of the sum over number × mean norm: 1 if all paths of that length point one way, about
1/√number if their directions are unrelated.

*Protocol, reading, cost.* See these modules. The same batches serve both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.marks import explain_lines
from resjax.studies.paths.path_exact import PathSpectrum, path_spectrum
from resjax.studies.paths.path_lengths import log_path_counts, path_shares
from resjax.studies.paths.path_sampled import PathSample, draw_single, sample_paths
from resjax.studies.paths.path_walk import PAPER, Probe, whole_batches
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class PathGradients(Result):
    """Exact and sampled path gradients of one network, by BatchNorm's mode.

    Attributes:
      exact: mode → the sums over all paths of each length.
      sample: mode → single paths; the same modes. Figures show the first.
    """

    exact: dict[str, PathSpectrum]
    sample: dict[str, PathSample]

    @property
    def modes(self) -> tuple[str, ...]:
        """What BatchNorm used, as ``Probe.statistics`` says it."""
        return tuple(self.exact)

    def __post_init__(self) -> None:
        """``choices`` are those of all parts; where they differ, each with the mode that it belongs to."""
        found: dict[str, dict[str, str]] = {}
        for results in (self.exact, self.sample):
            for mode, result in results.items():
                for name, value in result.choices.items():
                    found.setdefault(name, {})[mode] = str(value)
        for name, values in found.items():
            each = (v if v == mode else f"{v} ({mode})" for mode, v in values.items())
            self.choices[name] = (
                next(iter(values.values())) if len(set(values.values())) == 1 else "; ".join(each)
            )

    def alignment(self, mode: str) -> np.ndarray:
        """[length]: norm of the sum over all paths ÷ (number of paths × mean norm of one)."""
        return self._over_product(mode, self.sample[mode].mean)

    def alignment_interval(self, mode: str) -> np.ndarray:
        """[end, length]: 95 % interval of ``alignment`` over draws of paths.

        The exact norm is that of these batches and has no draw. The mean norm has the interval of the sample,
        whose draws spread over batches too, so this one is rather too wide. It is unbounded above where that
        reaches down to 0.
        """
        low, high = self.sample[mode].mean_interval
        return np.stack([self._over_product(mode, mean) for mean in (high, np.maximum(low, 0))])

    def _over_product(self, mode: str, mean: np.ndarray) -> np.ndarray:
        """[length]: exact norm ÷ (number of paths × ``mean``)."""
        sample, norm = self.sample[mode], self.exact[mode].norm[0].mean(0)
        logs = log_path_counts(sample.num_residual, sample.num_plain)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.exp(np.log(norm) - np.log(mean) - logs)

    @classmethod
    def join(cls, modes: Iterable[PathGradients]) -> PathGradients:
        """The same network in several modes as one result."""
        joined = cls({}, {})
        for one in modes:
            joined = cls(joined.exact | one.exact, joined.sample | one.sample)
        return joined

    def to_json(self) -> dict[str, Any]:
        """See ``Result.to_json``; one for each part and mode."""
        return {
            name: {mode: result.to_json() for mode, result in results.items()}
            for name, results in (("exact", self.exact), ("sample", self.sample))
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``to_json``.

        Raises:
          ValueError: a field is missing or unknown.
        """
        if set(data) != {"exact", "sample"}:
            raise ValueError(f"not a {cls.__name__}: it has {sorted(data)}")
        return cls(
            {mode: PathSpectrum.from_json(one) for mode, one in data["exact"].items()},
            {mode: PathSample.from_json(one) for mode, one in data["sample"].items()},
        )


def measure_paths(
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
) -> PathGradients:
    """``path_spectrum`` and ``sample_paths`` on the same batches; the arguments are theirs.

    ``progress`` is called as ``progress(batches and draws done, of both in all)``.

    Raises:
      ValueError: as they do.
    """
    batches = len(whole_batches(network, variables, images, labels, batch_size))

    def tell(before: int) -> Progress:
        return lambda done, _: progress(before + done, batches + draws) if progress else None

    spectrum = path_spectrum(
        network,
        variables,
        images,
        labels,
        loss=loss,
        probe=probe,
        batch_size=batch_size,
        seed=seed,
        progress=tell(0),
    )
    sample = sample_paths(
        network,
        variables,
        images,
        labels,
        draws=draws,
        loss=loss,
        probe=probe,
        batch_size=batch_size,
        seed=seed,
        progress=tell(batches),
    )
    return PathGradients({probe.statistics: spectrum}, {probe.statistics: sample})


def plot(results: PathGradients | Mapping[str, PathGradients]) -> Figure:
    """Three panels, as Veit et al. 2016, Fig. 6: how many paths, how large one is, what each length adds.

    In the middle are the mean with its interval and the median; on the right the paper's product, the exact
    norm, and the exact contribution, which can be negative.
    """
    from matplotlib.patches import Patch

    named = {"": results} if isinstance(results, PathGradients) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(*((3, 1) if narrow else (1, 3)))
    axes = [ax for row in grid for ax in row]
    width, height = (style.NARROW[0], 2.3 * style.NARROW[1]) if narrow else (9.6, 3.5)
    fig.set_size_inches(width, height)
    for i, (label, result) in enumerate(named.items()):
        exact, sample = result.exact[result.modes[0]], result.sample[result.modes[0]]
        _draw_counts(axes[0], exact, i, label)
        draw_single(axes[1], sample, i)
        _draw_totals(axes[2], exact, sample, i)
    axes[0].set(ylabel="share of all paths (%)", title="a  how many paths")
    axes[1].set(ylabel="‖gradient through one path‖", yscale="log", title="b  one path")
    axes[2].set(ylabel="share of the gradient (%)", title="c  all paths of a length")
    for ax in axes:
        ax.set_xlabel("length (branches crossed)")
        style.integer_ticks(ax)
    band = Patch(color=style.ink(), alpha=0.2, lw=0, label="95 % of the\nexact norms")
    axes[0].legend(handles=[band], fontsize=8, handlelength=1, loc="upper right")
    explain_lines(axes[1], {"mean": ("o", "-"), "median": ("", "--")})
    explain_lines(
        axes[2],
        {"number × mean": ("o", "-"), "exact norm": ("", "--"), "exact contribution": ("", ":")},
    )
    if "" not in named:
        style.legend_above(fig, axes[0])
    return fig


def _draw_counts(ax: Axes, exact: PathSpectrum, i: int, label: str) -> None:
    shares = 100 * path_shares(exact.num_residual, exact.num_plain)
    ax.plot(exact.length, shares, style.marker(i) + "-", color=style.color(i), ms=3, label=label)
    low, high = exact.effective[0]
    if np.isfinite(low):
        ax.axvspan(low - 0.5, high + 0.5, color=style.color(i), alpha=0.12, lw=0)


def _draw_totals(ax: Axes, exact: PathSpectrum, sample: PathSample, i: int) -> None:
    color = style.color(i)
    ax.plot(sample.length, 100 * sample.share, style.marker(i) + "-", color=color, ms=3, lw=1)
    ax.plot(exact.length, 100 * exact.share[0], "--", color=color)
    ax.plot(exact.length, 100 * exact.mean_contribution[0], ":", color=color)
