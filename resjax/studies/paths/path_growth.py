"""Do the paths that matter grow longer while a network learns?

*Question.* Littwin & Wolf (2016) argue that the ensemble of paths is dynamic: paths of less than half of the
depth dominate at the start, and deeper ones as training proceeds, because the scales of BatchNorm grow. Is it
so in this run?

*Method.* The exact spectrum (``path_exact``) at step 0 and at every checkpoint, on the same batches of
training images; from it the mean length, weighted by the norms.

*Protocol.* BatchNorm uses the statistics of the batch here, at every moment: at step 0 running statistics
are 0 and 1, which are those of no data, and the first checkpoints may lag.

*Reading it.* One run is one run. The interval is over batches, not over seeds. The mean length can grow
because long paths gain or because short ones fade: see the spectra.

*Cost.* One exact spectrum for each batch and moment; one compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.moments import at_moments
from resjax.studies.paths.path_exact import PathSpectrum, path_spectrum
from resjax.studies.paths.path_walk import TRAINING, Probe
from resjax.studies.signals.gradients import moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def path_spectra(
    network: Network,
    steps: Sequence[int],
    at: Callable[[int], Variables],
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    probe: Probe = TRAINING,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathSpectrum:
    """The exact gradient by path length at several moments of a training.

    Args:
      network: any.
      steps: training steps done at each moment, in order.
      at: the variables after so many steps, such as ``run.at``; one checkpoint is held at a time.
      images, labels, loss, probe, batch_size, seed: as for ``path_spectrum``.
      progress: called as ``progress(batches done, batches in all)`` over all moments.

    Raises:
      ValueError: no moment, or as ``path_spectrum``.
    """

    def measure(step: int, variables: Variables, tell: Progress) -> PathSpectrum:
        return path_spectrum(
            network,
            variables,
            images,
            labels,
            loss=loss,
            probe=probe,
            batch_size=batch_size,
            step=step,
            seed=seed,
            progress=tell,
        )

    return at_moments(steps, at, measure, progress)


def plot(results: PathSpectrum | Mapping[str, PathSpectrum]) -> Figure:
    """Left: the norms by length at the first and the last moment. Right: the mean length at every moment.

    The band is the interval over batches, the dotted line the mean length of all paths.
    """
    named = {"": results} if isinstance(results, PathSpectrum) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(*((2, 1) if narrow else (1, 2)))
    left, right = (ax for row in grid for ax in row)
    if narrow:
        fig.set_size_inches(style.NARROW[0], 1.8 * style.NARROW[1])
    for i, (label, result) in enumerate(named.items()):
        color = style.color(i)
        for t, line in {0: "--", len(result.step) - 1: "-"}.items():
            name = f"{label}, {moment(int(result.step[t]))}".strip(", ")
            left.plot(result.length, 100 * result.share[t], line, color=color, label=name)
        low, high = result.mean_length_interval
        right.fill_between(result.step, low, high, color=color, alpha=0.2, lw=0)
        right.plot(result.step, result.mean_length, style.marker(i) + "-", color=color)
    for middle in sorted({r.num_plain + r.num_residual / 2 for r in named.values()}):
        right.axhline(middle, ls=":", lw=1, color=style.ink())
        right.annotate(
            "all paths",
            (1, middle),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=8.5,
        )
    left.set(xlabel="length (branches crossed)", ylabel="share of the gradient (%)")
    right.set(xlabel="training steps", ylabel="mean effective length")
    right.set_ylim(bottom=0)
    for ax in (left, right):
        style.integer_ticks(ax)
    style.legend_above(fig, left)
    return fig
