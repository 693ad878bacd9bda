"""The gradient by path length: path counts, sampled paths and exact sums compared.

*Question.* Veit, Wilber & Belongie (2016, §5): most of the 2ⁿ paths are about n/2 units long. Do these paths
train the network, or the few short ones? Their answer for 54 units: 5 to 17 units, 0.45 % of all paths.

*Method.* ``path_counts`` counts (their Fig. 6a), ``path_sampled`` draws single paths (6b) and multiplies
their mean norm by their number (6c), ``path_exact`` sums all paths of a length. The *alignment* of a length
is the norm of the sum divided by number × mean norm: 1 if the gradients of all paths of that length
have one direction, about 1/√number if their directions are unrelated.

*Control.* The same network at initialization, with BatchNorm's statistics estimated on training images
(``resjax.studies.initial``), measured with a fifth of the draws: short paths and an exponential fall say
something about training only where the untrained network has other ones.

*Protocol, reading.* See these modules. Sampled and exact gradients use the same batches.

*Cost.* That of these modules, in both modes of BatchNorm, and the control: the exact sums once more, and the
fifth of the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import Running, following, whole_batches, within
from resjax.studies.marks import explain_lines
from resjax.studies.more_batches import add_batches
from resjax.studies.paths.path_counts import between, one_path, show_lengths
from resjax.studies.paths.path_exact import PathSpectrum, path_spectrum, spectra_of
from resjax.studies.paths.path_lengths import log_path_counts, path_shares, share_between
from resjax.studies.paths.path_sampled import PathSample, draw_single, sample_paths
from resjax.studies.paths.path_walk import (
    BATCH_SIZE,
    PAPER,
    STUDY_BATCH,
    TRAINING,
    Probe,
    study_batches,
)
from resjax.studies.paths.paths_result import Paths
from resjax.studies.paths.walk_costs import cost, draws_of
from resjax.studies.study import Bench, Clause, Columns, Study
from resjax.studies.words import around, columns, factor, numbers, over, superscript


def paths(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    draws: int = 100,
    probe: Probe = PAPER,
    seed: int = 0,
    earlier: Paths | None = None,
    spectrum: Callable[..., PathSpectrum] = path_spectrum,
    **how: Unpack[Running],
) -> Paths:
    """``path_spectrum`` and ``sample_paths`` on the same batches, with their arguments and errors.

    ``progress`` counts batches and draws together. With ``earlier``, a result that differs in the numbers of
    draws and of batches alone, only new batches are measured, and draws that are new or of another batch.
    ``spectrum`` is called instead of ``path_spectrum``, with its arguments.
    """
    given = network, variables, images, labels
    batches = len(whole_batches(*given, how.get("batch_size", BATCH_SIZE)).pairs)
    tell, of = how.get("progress"), batches + draws
    first: Running = how | {"progress": following(tell, 0, of)}
    then: Running = how | {"progress": within(tell, batches, draws, of)}
    mode = probe.statistics
    old, drawn = (earlier.exact.get(mode), earlier.sample.get(mode)) if earlier else (None, None)
    exactly = partial(spectrum, *given, probe=probe, seed=seed, **first)
    exact = add_batches(old, np.shape(labels)[0], exactly)
    sample = sample_paths(*given, draws=draws, probe=probe, seed=seed, earlier=drawn, **then)
    return Paths({mode: exact}, {mode: sample})


# --- what the report shows ---


def plot(results: Mapping[str, Paths]) -> style.Figure:
    """Three panels, as in Veit et al. 2016, Fig. 6: number of paths, norm of one path, share of each length.

    Middle: the mean with its interval, and the median. Right: the paper's product, the exact norm, and the
    exact contribution, which can be negative. Pale lines: mean and exact norm at initialization.
    """
    from matplotlib.patches import Patch

    fig, (left, middle, right) = style.panels(3)
    narrow = (style.NARROW[0], 2.3 * style.NARROW[1])
    fig.set_size_inches(*(narrow if style.is_narrow() else (9.6, 3.5)))
    for i, (label, result) in enumerate(results.items()):
        exact, sample, color, marker = *result.first, style.color(i), style.marker(i) + "-"
        counted = 100 * path_shares(exact.num_residual, exact.num_plain)
        left.plot(exact.length, counted, marker, color=color, ms=3, label=label)
        low, high = exact.effective[0]
        if np.isfinite(low):
            left.axvspan(low - 0.5, high + 0.5, color=color, alpha=0.12, lw=0)
        draw_single(middle, sample, i)
        right.plot(sample.length, 100 * sample.share, marker, color=color, ms=3, lw=1)
        right.plot(exact.length, 100 * exact.share[0], "--", color=color)
        right.plot(exact.length, 100 * exact.mean_contribution[0], ":", color=color)
        if result.initial is not None:
            untrained, drawn = result.initial.first
            pale: dict[str, Any] = {"color": color, "lw": 1, "alpha": 0.5}
            middle.plot(drawn.length, np.where(drawn.mean > 0, drawn.mean, np.nan), "-.", **pale)
            right.plot(untrained.length, 100 * untrained.share[0], "-.", **pale)
    left.set(ylabel="share of all paths (%)", title="a  how many paths")
    middle.set(title="b  one path")
    right.set(ylabel="share of the gradient (%)", title="c  all paths of a length")
    band = Patch(color=style.ink(), alpha=0.2, lw=0, label="95 % of the\nexact norms")
    left.legend(handles=[band], fontsize=8, handlelength=1, loc="upper right")
    looks = {"number × mean": ("o", "-"), "exact norm": ("", "--"), "exact contribution": ("", ":")}
    if any(result.initial is not None for result in results.values()):
        looks["exact norm, at init"] = ("", "-.")
    explain_lines(right, looks)
    show_lengths(fig, left, middle, right)
    return fig


# A fall is called exponential, a straight line on a logarithmic axis, if the interval of R² lies above this.
STRAIGHT = 0.95
# Paths are "shorter than most" if their mean length is more than this below the mean of all paths.
SHORTER = 0.5


def verdict(result: Paths) -> str:
    """How the effective lengths compare with those of all paths, by their intervals over batches.

    'short': 97.5 % of the gradient has at most the mean length of all paths. 'shorter', 'long': the mean
    length is below the limit ``SHORTER`` or not. 'undecided': the interval holds the limit, or there is none,
    with one batch. 'none': no finite, non-zero gradient.
    """
    exact, _ = result.first
    middle = exact.num_plain + exact.num_residual / 2
    if not np.isfinite(exact.mean_length[0]):
        return "none"
    low, high = np.ravel(exact.mean_length_interval)
    if exact.effective_interval[1, 0, 1] <= middle:
        return "short"
    if high < middle - SHORTER:
        return "shorter"
    return "long" if low >= middle - SHORTER else "undecided"


def _range(result: Paths) -> str:
    exact, _ = result.first
    return f"{between(exact.effective[0])} of {exact.num_plain + exact.num_residual} units"


def _clause(which: str) -> Clause:
    def told(label: str, r: Paths) -> str:
        known = r.initial is not None and verdict(r.initial) != "none"
        before = f"; at init {between(r.initial.first[0].effective[0])}" if known else ""
        return f"the gradient of {label} comes through {which} ({_range(r)}{before})"

    return told


def points(label: str, result: Paths) -> list[str]:
    """Attenuation, lengths by the product and by the exact sums, and alignment; then the other modes."""
    if verdict(result) == "none":
        return []
    mode, (exact, sample) = result.modes[0], result.first
    share = share_between(sample.num_residual, *sample.effective, sample.num_plain)
    text = (
        f"{label}, {sample.norm.shape[1]} draws: {_fall(sample)} Number of paths × mean norm, as in the "
        f"paper, puts 95 % of the gradient at {between(sample.effective)} units "
        f"(mean {sample.mean_length:.1f}{over(sample.mean_length_interval, 'draws')}; {_ends(sample)}), "
        f"the lengths of {factor(100 * share)} % of all "
        f"2{superscript(sample.num_residual)} paths. The exact sum of all paths of each length puts it at "
        f"{between(exact.effective[0])} ({_mean(exact)})"
    )
    top = int(np.nanargmax(sample.share))
    ends = result.alignment_interval(mode)[:, top]
    unrelated = float(np.exp(-log_path_counts(sample.num_residual, sample.num_plain)[top] / 2))
    text += (
        f": at length {sample.length[top]}, where the product is largest, the exact norm is "
        f"{factor(result.alignment(mode)[top])}{around(ends)} times the product, which assumes "
        f"that all paths' gradients have one direction (unrelated directions would give {factor(unrelated)})."
    )
    for other in result.modes[1:]:
        more, spectrum = result.sample[other], result.exact[other]
        text += (
            f" With {other} instead of {mode}, {more.norm.shape[1]} draws: g = {factor(more.attenuation)}"
            f"{around(more.attenuation_interval)}, {between(more.effective)} by the product ({_ends(more)}), "
            f"{between(spectrum.effective[0])} exactly ({_mean(spectrum)})."
        )
    return [text + _untrained(result)]


def _mean(exact: PathSpectrum) -> str:
    """'mean 5.0, 4.8 to 5.2 over batches; the ends are 1 and 10 to 11'."""
    text = f"mean {exact.mean_length[0]:.1f}{over(np.ravel(exact.mean_length_interval), 'batches')}"
    ends = exact.effective_interval[:, 0]
    return text if np.isnan(ends).any() else f"{text}; the ends are {_two(ends)}"


def _untrained(result: Paths) -> str:
    """g and the exact lengths of the network at initialization, in the first mode."""
    if result.initial is None or verdict(result.initial) == "none":
        return ""
    exact, sample = result.initial.first
    lengths = f"exactly {between(exact.effective[0])} units ({_mean(exact)})"
    if np.isnan(sample.attenuation):
        return f" At init the same network has {lengths}; no g, since too few lengths have a gradient."
    g = factor(sample.attenuation) + around(sample.attenuation_interval)
    return (
        f" At init the same network has g = {g}, R² = {sample.r_squared:.3f}"
        f"{over(sample.r_squared_interval, 'draws', 3)}, and {lengths}."
    )


def _fall(sample: PathSample) -> str:
    g, r_squared = sample.attenuation, sample.r_squared
    if np.isnan(g):
        return "too few lengths have a gradient to estimate the attenuation."
    (low, high), (r_low, r_high) = sample.attenuation_interval, sample.r_squared_interval
    way = (
        "so it shrinks"
        if high < 1
        else "so it grows"
        if low > 1
        else "and it is undecided whether it shrinks"
    )
    line = "" if r_low >= STRAIGHT else "not " if r_high < STRAIGHT else "not certainly "
    return (
        f"each branch that a path crosses multiplies its gradient by g = {g:.3f} ({low:.3f} to {high:.3f}), "
        f"{way} with length; the change is {line}exponential "
        f"(R² = {r_squared:.3f}{over((r_low, r_high), 'draws', 3)})."
    )


def _ends(sample: PathSample) -> str:
    """Intervals of the first and the last length."""
    return f"the ends are {_two(sample.effective_interval)} over draws"


def _two(interval: np.ndarray) -> str:
    """'1 and 10 to 11': the intervals [end, 2] of the first and the last length."""
    first, last = (between(ends) for ends in interval.T)
    return f"{first} and {last}"


def table(r: Paths) -> Columns:
    """One row for each mode and length."""
    rows: list[tuple[str, ...]] = []
    for mode in r.modes:
        exact, sample = r.exact[mode], r.sample[mode]
        interval = map(" to ".join, zip(*map(numbers, sample.mean_interval), strict=True))
        parts = (sample.share, exact.share[0], exact.mean_contribution[0])
        shares = [[f"{cell} %" for cell in numbers(100 * part)] for part in parts]
        cells = (map(str, sample.length), numbers(sample.mean), interval, numbers(sample.median))
        rows += [(mode, *row) for row in zip(*cells, *shares, strict=True)]
    names = ("BatchNorm", "length", "one path ÷ whole gradient: mean norm", "95 % interval", "median")
    return columns((*names, "number × mean", "exact: norm", "exact: contribution"), rows)


def summary(r: Paths) -> dict[str, str]:
    g = factor(r.first[1].attenuation)
    return {"effective path lengths": _range(r), "g, left by a branch": g}


def measure(bench: Bench) -> Paths:
    options, old = bench.options, bench.earlier
    probes, draws = (PAPER, TRAINING) if bench.run.network.trains else (PAPER,), draws_of(bench.run, options)
    images, labels = bench.data(STUDY_BATCH * study_batches(options))
    given = *bench.network(), images, labels
    steps, modes = max(1, len(labels) // STUDY_BATCH) + draws, []
    for i, probe in enumerate(probes):
        tell = following(bench.progress, i * steps, len(probes) * steps)
        how: Running = bench.running | {"batch_size": STUDY_BATCH, "progress": tell}
        measured = partial(paths, *given, probe=probe, spectrum=spectra_of(bench))
        one = measured(draws=draws, seed=options.seed, earlier=old, **how)
        for part in (*one.exact.values(), *one.sample.values()):
            part.choices.update(bench.choices)  # only the parts are kept on disk
        modes.append(one)
    return Paths.join(modes)


STUDY = Study(
    name="paths",
    title="The gradient by path length",
    question=(
        "Which paths train the network: the many long ones or the few short ones? The gradient is measured "
        "through random single paths, as in the paper, and summed exactly over all paths of each length."
    ),
    code=(
        "images, labels = run.examples('train', 256)\n"
        "resjax.analysis.paths(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                      draws=20, batch_size=16)"
    ),
    result=Paths,
    control=True,
    unsuited=one_path,
    measure=measure,
    adds=("path_draws", "gradient_batches"),
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "short": _clause("short paths"),
        "shorter": _clause("paths that are shorter than most"),
        "long": _clause("paths as long as most, or longer"),
        "undecided": "whether the gradient of {} comes through short paths is undecided",
        "none": "the gradient of {} is zero or not finite on these examples",
    },
    points=points,
    table=table,
    summary=summary,
)
