"""How path lengths along training are shown; numbers: ``resjax.studies.paths.path_growth``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.paths import path_growth
from resjax.studies.paths.path_counts_shown import between, one_path
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.run import Run
from resjax.studies.signals.gradients import moment
from resjax.studies.words import join, number

Results = Mapping[str, PathSpectrum]


def _run(run: Run, options: Options, progress: Progress | None) -> PathSpectrum:
    size = min(run.config.train.batch_size, 32)
    images, labels = run.examples("train", size * max(2, options.gradient_batches // 2))
    steps = sorted({*([] if run.imported else [0]), *run.steps, run.step})
    result = path_growth.path_spectra(
        run.network,
        steps,
        run.at,
        images,
        labels,
        loss=run.loss,
        batch_size=size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = f"the first {len(images):,} training examples, not augmented"
    return result


def verdict(result: PathSpectrum) -> str:
    """'longer', 'shorter', 'same' or 'none', from the first moment to the last.

    'same' where the intervals over batches overlap, or the means differ by less than half a unit.
    """
    first, last = result.mean_length[[0, -1]]
    if len(result.step) < 2 or not np.isfinite([first, last]).all():
        return "none"
    low, high = result.mean_length_interval
    apart = not (low[0] <= high[-1] and low[-1] <= high[0])  # also where there is no interval
    if not apart or abs(last - first) < 0.5:
        return "same"
    return "longer" if last > first else "shorter"


_HEADLINES = {
    "longer": "The paths that train {} grow longer while it learns",
    "shorter": "The paths that train {} grow shorter while it learns",
    "same": "The paths that train {} stay about as long while it learns",
    "none": "Of {} there are not two moments with a gradient to compare",
}


def finding(results: Results) -> Finding:
    """Whether the effective paths grow longer, as Littwin & Wolf 2016 argue."""
    parts = []
    for kind, text in _HEADLINES.items():
        labels = [label for label, r in results.items() if verdict(r) == kind]
        if labels:
            many = len(labels) > 1
            part = text.format(join(labels))
            parts.append(part.replace("it learns", "they learn") if many else part)
    kinds = {verdict(r) for r in results.values()}
    if kinds == {"shorter"}:
        parts[-1] += ", against the prediction of Littwin & Wolf (2016)"
    elif kinds == {"longer"}:
        parts[-1] += ", as Littwin & Wolf (2016) predict"
    return Finding("; ".join(parts) + ".", [_point(label, r) for label, r in results.items()])


def _point(label: str, r: PathSpectrum) -> str:
    units = r.num_plain + r.num_residual
    parts = []
    for t in sorted({0, len(r.step) - 1}):
        if np.isnan(r.mean_length[t]):
            parts.append(f"{moment(int(r.step[t]))} the gradient is zero or not finite")
            continue
        low, high = (float(end[t]) for end in r.mean_length_interval)
        around = "" if np.isnan(low) else f" ({low:.1f} to {high:.1f} over batches)"
        parts.append(
            f"{moment(int(r.step[t]))} the mean effective length is {r.mean_length[t]:.1f}{around} of "
            f"{units} units, and 95 % lies at {between(tuple(r.effective[t]))}"
        )
    most = int(np.nanargmax(r.mean_length)) if np.isfinite(r.mean_length).any() else 0
    text = f"{label}: {'; '.join(parts)}."
    if 0 < most < len(r.step) - 1:
        text += f" It is longest {moment(int(r.step[most]))}, {r.mean_length[most]:.1f}."
    return text


def table(results: Results) -> Table:
    """One row a moment and run."""
    rows = []
    for label, r in results.items():
        low, high = r.mean_length_interval
        for t, step in enumerate(r.step):
            rows.append(
                (
                    label,
                    moment(int(step)),
                    number(r.mean_length[t]),
                    f"{number(low[t])} to {number(high[t])}",
                    between(tuple(r.effective[t])),
                    number(float(r.mean_contribution[t] @ r.length)),
                    number(r.total[t].mean()),
                )
            )
    columns = ("network", "moment", "mean effective length", "95 % interval", "effective lengths")
    return Table((*columns, "mean length by contribution", "norm of the gradient"), rows)


STUDY = Study(
    name="path_growth",
    title="Path lengths while the network learns",
    question=(
        "Does the network begin as a shallow one and deepen? At every checkpoint the gradient is split "
        "exactly by the number of branches that it has crossed."
    ),
    code=(
        "images, labels = run.examples('train', 128)\n"
        "resjax.analysis.path_spectra(run.network, (0, *run.steps), run.at, images, labels,\n"
        "                             loss=run.loss)"
    ),
    result=PathSpectrum,
    unsuited=one_path,
    run=_run,
    plot=path_growth.plot,
    finding=finding,
    table=table,
    summary=lambda results: {
        label: {
            "mean effective length, first → last": " → ".join(
                number(round(float(r.mean_length[t]), 1)) for t in sorted({0, len(r.step) - 1})
            )
        }
        for label, r in results.items()
    },
)
