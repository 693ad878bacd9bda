"""Path lengths of the gradient over training: do effective paths grow longer?

*Question.* Littwin & Wolf (2016) argue that the ensemble of paths is dynamic: paths shorter than half of the
depth dominate at the start, and longer ones later, because BatchNorm's scales grow. Does this run show it?

*Method.* The exact spectrum (``path_exact``) is computed at step 0 and at every checkpoint, on the same
batches of training images. The mean length is weighted by the norms.

*Protocol.* BatchNorm uses the statistics of the batch at every moment: at step 0 the running mean and
variance are 0 and 1, which describe no data, and at the first checkpoints they may lag.

*Reading it.* The interval is over batches of one run, not over seeds. The mean length can grow because long
paths gain or because short ones fade: see the spectra.

*Cost.* One exact spectrum for each batch and moment; one compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import Inference, Progress
from resjax.studies.moments import at_moments, moment
from resjax.studies.paths.path_counts import between, one_path
from resjax.studies.paths.path_exact import PathSpectrum, path_spectrum
from resjax.studies.paths.path_walk import BATCH_SIZE, TRAINING, Probe
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.words import join, numbers


def path_growth(
    network: Network,
    steps: Sequence[int],
    at: Callable[[int], Variables],
    images: ArrayLike,
    labels: ArrayLike,
    *,
    probe: Probe = TRAINING,
    seed: int = 0,
    **how: Unpack[Inference],
) -> PathSpectrum:
    """The exact gradient by path length at several moments of a training.

    Args: those of ``path_spectrum``, where ``progress`` counts batches of all moments, and
      steps: training steps done at each moment, in order.
      at: the variables after so many steps, such as ``run.at``; one checkpoint is held at a time.
    """

    def measure(step: int, variables: Variables, tell: Progress) -> PathSpectrum:
        own: Inference = how | {"progress": tell}
        given = network, variables, images, labels
        return path_spectrum(*given, probe=probe, step=step, seed=seed, **own)

    return at_moments(steps, at, measure, how.get("progress"))


# --- what the report shows ---


def plot(results: Mapping[str, PathSpectrum]) -> style.Figure:
    """Left: norms by length at the first and the last moment. Right: mean length at every moment.

    The band is the interval over batches; the dotted line is the mean length of all paths.
    """
    fig, (left, right) = style.panels(2)
    for i, (label, result) in enumerate(results.items()):
        color = style.color(i)
        for t, line in {0: "--", len(result.step) - 1: "-"}.items():
            name = f"{label}, {moment(int(result.step[t]))}".strip(", ")
            left.plot(result.length, 100 * result.share[t], line, color=color, label=name)
        low, high = result.mean_length_interval
        right.fill_between(result.step, low, high, color=color, alpha=0.2, lw=0)
        right.plot(result.step, result.mean_length, style.marker(i) + "-", color=color)
    for middle in sorted({r.num_plain + r.num_residual / 2 for r in results.values()}):
        right.axhline(middle, ls=":", lw=1, color=style.ink())
        look: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 8.5}
        at = (1, middle), (0, 2), ("axes fraction", "data"), "offset points"
        right.annotate("all paths", *at, **look)
    left.set(xlabel="length (branches crossed)", ylabel="share of the gradient (%)")
    right.set(xlabel="training steps", ylabel="mean effective length")
    right.set_ylim(bottom=0)
    for ax in (left, right):
        style.integer_ticks(ax)
    style.legend_above(fig, left)
    return fig


# Mean lengths that differ by less than half a unit are called the same.
LEAST = 0.5


def verdict(result: PathSpectrum) -> str:
    """How the mean length changes from the first moment to the last: 'longer', 'shorter', 'same' (intervals
    over batches overlap, or means differ by less than ``LEAST``), or 'none' without two moments that have
    one.
    """
    first, last = result.mean_length[[0, -1]]
    if len(result.step) < 2 or not np.isfinite([first, last]).all():
        return "none"
    low, high = result.mean_length_interval
    overlap = low[0] <= high[-1] and low[-1] <= high[0]  # False where there is no interval
    if overlap or abs(last - first) < LEAST:
        return "same"
    return "longer" if last > first else "shorter"


_CLAUSES = {
    "longer": "the paths that carry the gradient of {} grow longer during training",
    "shorter": "the paths that carry the gradient of {} grow shorter during training",
    "same": "the paths that carry the gradient of {} stay about as long during training",
    "none": "no two moments of {} have a gradient to compare",
}
_CITED = {
    "longer": ", as Littwin & Wolf (2016) predict",
    "shorter": ", against the prediction of Littwin & Wolf (2016)",
}


def headline(results: Mapping[str, PathSpectrum]) -> str:
    """Whether the paths grow longer; the paper is cited where all networks agree."""
    found: dict[str, list[str]] = {}
    for label, result in results.items():
        found.setdefault(verdict(result), []).append(label)
    kinds = [kind for kind in _CLAUSES if kind in found]
    text = "; ".join(_CLAUSES[kind].format(join(found[kind])) for kind in kinds)
    return text + _CITED.get("; ".join(kinds), "")


def points(label: str, r: PathSpectrum) -> list[str]:
    """The mean and the effective lengths at the first and the last moment, and where the mean is largest."""
    units = r.num_plain + r.num_residual
    parts = []
    for t in sorted({0, len(r.step) - 1}):
        when = moment(int(r.step[t]))
        if np.isnan(r.mean_length[t]):
            parts.append(f"{when} the gradient is zero or not finite")
            continue
        low, high = np.stack(r.mean_length_interval)[:, t]
        around = "" if np.isnan(low) else f" ({low:.1f} to {high:.1f} over batches)"
        parts.append(
            f"{when} the mean effective length is {r.mean_length[t]:.1f}{around} of {units} units, and 95 % "
            f"of the gradient has length {between(r.effective[t])}"
        )
    most = int(np.nanargmax(r.mean_length)) if np.isfinite(r.mean_length).any() else 0
    text = f"{label}: {'; '.join(parts)}."
    if 0 < most < len(r.step) - 1:
        text += f" The mean length is largest {moment(int(r.step[most]))}, {r.mean_length[most]:.1f}."
    return [text]


def table(r: PathSpectrum) -> Columns:
    low, high = r.mean_length_interval
    return {
        "moment": [moment(int(step)) for step in r.step],
        "mean effective length": numbers(r.mean_length),
        "95 % interval": [f"{a} to {b}" for a, b in zip(numbers(low), numbers(high), strict=True)],
        "effective lengths": map(between, r.effective),
        "mean length by contribution": numbers(r.mean_contribution @ r.length),
        "norm of the gradient": numbers(r.total.mean(1)),
    }


def summary(r: PathSpectrum) -> dict[str, str]:
    ends = r.mean_length[sorted({0, len(r.step) - 1})]
    return {"mean effective length, first → last": " → ".join(numbers(np.round(ends, 1)))}


def measure(bench: Bench) -> PathSpectrum:
    run, options = bench.run, bench.options
    size = min(run.config.train.batch_size, BATCH_SIZE)
    images, labels = bench.training(size * max(2, options.gradient_batches // 2), note=True)
    steps = sorted({*([] if run.imported else [0]), *run.steps, run.step})
    how: Inference = bench.how | {"batch_size": size}
    return path_growth(run.network, steps, run.at, images, labels, seed=options.seed, **how)


STUDY = Study(
    name="path_growth",
    title="Path lengths during training",
    question=(
        "Do the paths that carry the gradient grow longer during training? At every checkpoint the gradient "
        "is split exactly by the number of branches that it has crossed."
    ),
    code=(
        "images, labels = run.examples('train', 128)\n"
        "resjax.analysis.path_growth(run.network, (0, *run.steps), run.at, images, labels,\n"
        "                            loss=run.loss)"
    ),
    result=PathSpectrum,
    unsuited=one_path,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
    summary=summary,
)
