"""How gradients of weights by path length are shown; see ``resjax.studies.paths.path_parameters``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.paths import path_parameters
from resjax.studies.paths.path_counts_shown import between, one_path
from resjax.studies.paths.path_parameters import PathParameters
from resjax.studies.run import Run
from resjax.studies.words import join, number

Results = Mapping[str, PathParameters]


def _run(run: Run, options: Options, progress: Progress | None) -> PathParameters:
    size = min(run.config.train.batch_size, 32)
    images, labels = run.examples("train", size * options.gradient_batches)
    result = path_parameters.parameter_spectra(
        run.network,
        run.variables,
        images,
        labels,
        loss=run.loss,
        batch_size=size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = f"the first {len(images):,} training examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def ratio(result: PathParameters) -> float:
    """Mean effective length ÷ mean length of all paths, in the median over the first half of the units.

    Close to the loss there are too few units behind for a difference. NaN without a gradient.
    """
    half = max(len(result.unit) // 2, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (result.mean_length / result.expected_length)[:half]
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if len(ratios) else float("nan")


def _verdict(result: PathParameters) -> str:
    value = ratio(result)
    if np.isnan(value):
        return "none"
    return "short" if value < 0.75 else ("long" if value > 1.05 else "like")


_HEADLINES = {
    "short": "The weights of {} are taught through paths shorter than most",
    "like": "The weights of {} are taught through paths about as long as most",
    "long": "The weights of {} are taught through paths longer than most",
    "none": "The weights of {} get no gradient on these examples, or none that is finite",
}


def finding(results: Results) -> Finding:
    """Whether units are taught through shorter paths than most."""
    parts = []
    for kind, text in _HEADLINES.items():
        labels = [label for label, r in results.items() if _verdict(r) == kind]
        if labels:
            parts.append(text.format(join(labels)))
    points = [_point(label, r) for label, r in results.items() if _verdict(r) != "none"]
    return Finding("; ".join(parts) + ".", points)


def _point(label: str, r: PathParameters) -> str:
    first = int(np.flatnonzero(np.isfinite(r.mean_length))[0])
    return (
        f"{label}: 95 % of the gradient of {r.unit[first]} has crossed "
        f"{between(tuple(r.effective[first]))} of the {len(r.unit) - 1 - first} units behind it "
        f"(mean {r.mean_length[first]:.1f}; all paths there: {r.expected_length[first]:.1f}). Over the first "
        f"half of the units, the mean is {ratio(r):.2f} times that of all paths."
    )


def table(results: Results) -> Table:
    """One row a unit and run."""
    rows = []
    for label, r in results.items():
        signed = r.contribution.mean(0) @ r.length
        for i, unit in enumerate(r.unit):
            rows.append(
                (
                    label,
                    unit,
                    number(r.total[:, i].mean()),
                    number(r.mean_length[i]),
                    between(tuple(r.effective[i])),
                    number(signed[i]),
                    number(r.expected_length[i]),
                )
            )
    columns = ("network", "unit", "norm of its gradient", "mean length behind", "effective lengths")
    return Table((*columns, "mean length by contribution", "all paths"), rows)


STUDY = Study(
    name="path_parameters",
    title="Which paths teach a unit",
    question=(
        "The gradient of a unit's own weights has crossed some of the units between it and the loss. How "
        "many? It is split exactly by that number, for every unit."
    ),
    code=(
        "images, labels = run.examples('train', 128)\n"
        "resjax.analysis.parameter_spectra(run.network, run.variables, images, labels, loss=run.loss)"
    ),
    result=PathParameters,
    unsuited=one_path,
    run=_run,
    plot=path_parameters.plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
