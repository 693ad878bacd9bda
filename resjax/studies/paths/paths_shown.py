"""How gradients by path length are shown; numbers: ``resjax.studies.paths.paths``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from resjax.studies.batches import Progress
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.paths import paths as path_gradients
from resjax.studies.paths.path_counts_shown import between, number_of_paths, one_path
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_lengths import log_path_counts, share_between
from resjax.studies.paths.path_sampled import PathSample
from resjax.studies.paths.path_walk import PAPER, TRAINING
from resjax.studies.paths.paths import PathGradients
from resjax.studies.run import Run
from resjax.studies.words import around, factor, join, number

Results = Mapping[str, PathGradients]

# Examples a draw, in both modes: a batch's norm depends on its size. Few, because a draw costs what its batch
# costs, but enough for statistics of the batch, with which a part of the draws is repeated.
_BATCH = 16
_LEAST, _PART = 5, 10
# From this R² on, a fall is called exponential (a straight line on a logarithmic axis).
STRAIGHT = 0.95


def _run(run: Run, options: Options, progress: Progress | None) -> PathGradients:
    repeated = min(options.path_draws, max(_LEAST, options.path_draws // _PART))
    draws = {PAPER: options.path_draws, TRAINING: repeated}
    images, labels = run.examples("train", _BATCH * max(2, options.gradient_batches))
    batches, before = max(1, len(images) // _BATCH), 0
    total = sum(draws.values()) + len(draws) * batches
    modes = []
    for probe, count in draws.items():

        def tell(done: int, of: int, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        one = path_gradients.measure_paths(
            run.network,
            run.variables,
            images,
            labels,
            draws=count,
            loss=run.loss,
            probe=probe,
            batch_size=_BATCH,
            seed=options.seed,
            progress=tell,
        )
        before += count + batches
        parts: list[PathSpectrum | PathSample] = [*one.exact.values(), *one.sample.values()]
        for part in parts:
            part.choices["data"] = f"the first {len(images):,} training examples, not augmented"
            part.choices["network"] = f"the checkpoint of step {run.step:,}"
        modes.append(one)
    return PathGradients.join(modes)


def verdict(result: PathGradients) -> str:
    """'short', 'shorter', 'long' or 'none': how the effective lengths compare with those of all paths.

    Short: 97.5 % of the gradient lies below the middle of all paths. Shorter, long: by its mean length.
    """
    exact = result.exact[result.modes[0]]
    middle = exact.num_plain + exact.num_residual / 2
    if not np.isfinite(exact.mean_length[0]):
        return "none"
    if exact.effective[0, 1] <= middle:
        return "short"
    return "shorter" if exact.mean_length[0] < middle - 0.5 else "long"


_HEADLINES = {
    "short": "The gradient of {} comes through short paths",
    "shorter": "The gradient of {} comes through paths that are shorter than most, though not short",
    "long": "The gradient of {} comes through paths as long as most, or longer",
    "none": "The gradient of {} is zero or not finite on these examples",
}


def finding(results: Results) -> Finding:
    """Whose gradient comes through short paths."""
    parts = []
    for kind, text in _HEADLINES.items():
        labels = [label for label, r in results.items() if verdict(r) == kind]
        if not labels:
            continue
        part = text.format(join(labels))
        if kind != "none":
            ranges = [_range(results[label]) for label in labels]
            part += f" ({'; '.join(ranges)})"
        parts.append(part)
    points = [_point(label, r) for label, r in results.items() if verdict(r) != "none"]
    return Finding("; ".join(parts) + ".", points)


def _range(result: PathGradients) -> str:
    exact = result.exact[result.modes[0]]
    units = exact.num_plain + exact.num_residual
    return f"{between(tuple(exact.effective[0]))} of {units} units"


def _point(label: str, result: PathGradients) -> str:
    mode = result.modes[0]
    exact, sample = result.exact[mode], result.sample[mode]
    share = share_between(sample.num_residual, *sample.effective, sample.num_plain)
    text = f"{label}: {_fall(sample)}"
    text += (
        f" Number of paths × mean norm, as in the paper, puts 95 % of the gradient at "
        f"{between(sample.effective)} units (mean {sample.mean_length:.1f}"
        f"{_around(sample.mean_length_interval, 'draws')}; {_ends(sample)}), the lengths of "
        f"{factor(100 * share)} % of all {number_of_paths(sample.num_residual)} paths. The exact sum of all "
        f"paths of each length puts it at {between(tuple(exact.effective[0]))} (mean "
        f"{exact.mean_length[0]:.1f}{_around(exact.mean_length_interval, 'batches')})"
    )
    top = int(np.nanargmax(sample.share))
    together = float(result.alignment(mode)[top])
    ends = result.alignment_interval(mode)[:, top]
    unrelated = float(np.exp(-log_path_counts(sample.num_residual, sample.num_plain)[top] / 2))
    text += (
        f": at length {sample.length[top]}, where the product is largest, paths cancel to "
        f"{factor(together)}{around(tuple(ends))} of what they would be if all pointed one way (unrelated "
        f"directions would leave {factor(unrelated)})."
    )
    for other in result.modes[1:]:
        more, spectrum = result.sample[other], result.exact[other]
        text += (
            f" With {other} instead of {mode}: g = {factor(more.attenuation)}"
            f"{around(tuple(more.attenuation_interval))}, {between(more.effective)} by the product "
            f"({_ends(more)}), {between(tuple(spectrum.effective[0]))} exactly."
        )
    return text


def _fall(sample: PathSample) -> str:
    g = sample.attenuation
    if np.isnan(g):
        return "too few lengths have a gradient for a rate of attenuation to be told."
    way = "shrinks" if g < 1 else "grows"
    low, high = sample.attenuation_interval
    straight = "exponential" if sample.r_squared >= STRAIGHT else "not exponential"
    return (
        f"the gradient through one path {way} to g = {g:.3f} ({low:.3f} to {high:.3f}) of itself with each "
        f"branch that it crosses; that is {straight} (R² = {sample.r_squared:.3f}{_straight(sample)})."
    )


def _straight(sample: PathSample) -> str:
    low, high = sample.r_squared_interval
    return "" if np.isnan(low) else f", {low:.3f} to {high:.3f} over draws"


def _ends(sample: PathSample) -> str:
    """Intervals of the first and the last length."""
    first, last = (between(tuple(ends)) for ends in sample.effective_interval.T)
    return f"the ends are {first} and {last} over draws"


def _around(ends: tuple[ArrayLike, ArrayLike], what: str) -> str:
    low, high = (float(np.ravel(end)[0]) for end in ends)
    return "" if np.isnan(low) else f", {low:.1f} to {high:.1f} over {what}"


def table(results: Results) -> Table:
    """One row a length, run and mode."""
    rows = [
        (
            label,
            mode,
            str(k),
            number(sample.mean[i]),
            f"{number(sample.mean_interval[0, i])} to {number(sample.mean_interval[1, i])}",
            number(sample.median[i]),
            f"{number(100 * sample.share[i])} %",
            f"{number(100 * exact.share[0, i])} %",
            f"{number(100 * exact.mean_contribution[0, i])} %",
        )
        for label, r in results.items()
        for mode in r.modes
        for exact, sample in [(r.exact[mode], r.sample[mode])]
        for i, k in enumerate(sample.length)
    ]
    columns = ("network", "BatchNorm", "length", "one path: mean norm", "95 % interval", "median")
    return Table((*columns, "number × mean", "exact: norm", "exact: contribution"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """Effective lengths and the attenuation."""
    return {
        label: {
            "effective path lengths": _range(r),
            "g, left by a branch": factor(r.sample[r.modes[0]].attenuation),
        }
        for label, r in results.items()
    }


STUDY = Study(
    name="paths",
    title="The gradient by path length",
    question=(
        "Which paths train the network: the many long ones or the few short ones? Random single paths are "
        "followed backwards, as in the paper; then the gradients of all paths of a length are summed exactly."
    ),
    code=(
        "images, labels = run.examples('train', 128)\n"
        "resjax.analysis.measure_paths(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                               draws=20, batch_size=16)"
    ),
    result=PathGradients,
    unsuited=one_path,
    run=_run,
    plot=path_gradients.plot,
    finding=finding,
    table=table,
    summary=summary,
)
