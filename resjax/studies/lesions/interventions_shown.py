"""How interventions are shown; the numbers are those of ``resjax.studies.lesions.interventions``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.lesions import interventions
from resjax.studies.lesions.interventions import Interventions, intervene_each
from resjax.studies.lesions.lesion_shown import LEARNED, MAY_GO
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import join, number, percent

Results = Mapping[str, Interventions]

# One forward pass for each unit and intervention: a part of the examples tells enough.
EXAMPLES, REFERENCE = 128, 512
ALPHAS, DRAWS = (0.0, 0.5, 2.0), 3


def _run(run: Run, options: Options, progress: Progress | None) -> Interventions:
    images, labels = run.examples(run.split, min(EXAMPLES, options.max_examples))
    reference, _ = run.examples("train", REFERENCE)
    result = intervene_each(
        run.network,
        run.variables,
        images,
        labels,
        initial=None if run.imported else run.initial.variables,
        reference=reference,
        alphas=ALPHAS,
        draws=min(DRAWS, options.draws),
        loss=run.loss,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def survived(result: Interventions, error: np.ndarray) -> tuple[int, int]:
    """Units that the intervention costs at most one percentage point, of those that allow it."""
    known = np.isfinite(error)
    return int(np.sum(error[known] <= result.intact_error + MAY_GO + 1e-9)), int(known.sum())


def critical(result: Interventions, error: np.ndarray) -> int:
    """Units without whose training the network is near chance (Zhang et al. 2022 call them critical)."""
    return int(np.sum(error[np.isfinite(error)] > LEARNED * result.chance_error))


def finding(results: Results) -> Finding:
    """What each network's units must be."""
    parts = []
    for label, r in results.items():
        if r.intact_error > LEARNED * r.chance_error:
            parts.append(f"{label} has learned too little for interventions to say anything")
            continue
        done = []
        for name, error, _ in r.lines():
            alive, of = survived(r, error)
            if of:
                done.append(f"{alive} of {of} {name}")
        parts.append(f"in {label}, {join(done)}")
    headline = "; ".join(parts)
    if headline.count("learned too little") < len(parts):
        headline = f"Units that can be changed alone for at most one percentage point: {headline}"
    return Finding(headline + ".", [_point(*item) for item in results.items()])


def _point(label: str, r: Interventions) -> str:
    parts = []
    for name, error, _ in r.lines():
        worst = int(np.nanargmax(error))
        parts.append(
            f"{name} {percent(float(np.nanmedian(error)))} (at worst {percent(error[worst])}, "
            f"{r.unit[worst]})"
        )
    text = (
        f"{label}: {percent(r.intact_error)} error when intact; in the median unit, {join(parts)}."
    )
    if len(reset := r.of("reset")):
        near = critical(r, reset[0])
        text += f" {near} of {len(r.unit)} units are critical: reset, they leave little but chance."
    inside = [i for i, alpha in enumerate(r.alpha) if alpha not in (0, 1)]
    if inside and np.isfinite(r.of("scale")).any():
        scaled = [
            f"times {r.alpha[i]:g}: {percent(float(np.nanmedian(r.of('scale')[i])))}"
            for i in inside
        ]
        text += f" A branch {', '.join(scaled)} in the median."
    if r.stack:
        rows = zip(r.stack, r.size, r.parallel_error, strict=True)
        runs = [f"{percent(error)} ({stack}, {size} units)" for stack, size, error in rows]
        text += f" With all units of a stack in parallel: {join(runs)}."
    if r.left_out:
        reasons = sorted(set(r.left_out.values()))
        text += f" Not scaled: {join(list(r.left_out))} ({'; '.join(reasons)})."
    return text


def table(results: Results) -> Table:
    """One row a unit, intervention and run; stacks in parallel behind."""
    rows = []
    for label, r in results.items():
        for i, unit in enumerate(r.unit):
            for j, name in enumerate(r.intervention):
                cells = percent(r.error[j, i]), number(r.kl[j, i]), percent(r.agreement[j, i])
                rows.append((label, unit, name, *cells))
        for k, stack in enumerate(r.stack):
            cells = (
                percent(r.parallel_error[k]),
                number(r.parallel_kl[k]),
                percent(r.parallel_agreement[k]),
            )
            rows.append((label, f"all {r.size[k]} of {stack}", "parallel", *cells))
    return Table(("network", "unit", "intervention", "error", "KL (nats)", "agreement"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """How many units may be reset to step 0."""
    rows = {}
    for label, r in results.items():
        if len(reset := r.of("reset")) and r.intact_error <= LEARNED * r.chance_error:
            alive, of = survived(r, reset[0])
            rows[label] = {"units that may be reset to step 0": f"{alive} of {of}"}
    return rows


STUDY = Study(
    name="interventions",
    title="Scale, freeze, reset, redraw, or run side by side",
    question=(
        "What does the network need of a unit? Each unit is changed alone: its branch is made weaker or "
        "stronger (α), frozen to its average output, put back to what it was before training, or replaced by "
        "a freshly drawn one. And the units of a stack are made to work side by side instead of in turn."
    ),
    code=(
        f"images, labels = run.examples(run.split, {EXAMPLES})\n"
        f"reference, _ = run.examples('train', {REFERENCE})\n"
        "resjax.analysis.intervene_each(run.network, run.variables, images, labels,\n"
        "                               initial=run.initial.variables, reference=reference,\n"
        f"                               alphas={ALPHAS}, draws={DRAWS}, loss=run.loss)"
    ),
    result=Interventions,
    unsuited=lambda run: None,
    run=_run,
    plot=interventions.plot,
    finding=finding,
    table=table,
    summary=summary,
)
