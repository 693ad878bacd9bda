"""How near-identity measures are shown; the numbers are those of ``resjax.studies.units.identity``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress, part
from resjax.studies.lesions.lesion import lesion
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.units import identity
from resjax.studies.units.identity import Identity, measure_identity
from resjax.studies.words import capital, factor, join, number

Results = Mapping[str, Identity]

EXAMPLES = 256
NAMES = {
    "ratio": "size ‖F‖/‖x‖",
    "cosine": "cosine with ∂L/∂x",
    "novelty": "novelty",
    "estimation": "distance from the stage's last output",
}


def _unsuited(run: Run) -> str | None:
    if run.network.deletable(run.variables, run.image_shape).any():
        return None
    return "no unit of this network has a shortcut or keeps its shape, so none can be near the identity"


def _run(run: Run, options: Options, progress: Progress | None) -> Identity:
    images, labels = run.examples("train", min(EXAMPLES, options.max_examples))
    loss, size = run.loss, options.batch_size
    lesions = lesion(
        run.network,
        run.variables,
        images,
        labels,
        loss=loss,
        batch_size=size,
        progress=part(progress, 0, 2),
    )
    result = measure_identity(
        run.network,
        run.variables,
        images,
        labels,
        lesions=lesions,
        loss=loss,
        batch_size=size,
        seed=options.seed,
        progress=part(progress, 1, 2),
    )
    result.choices["data"] = f"the first {len(images):,} training examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def downhill(r: Identity) -> tuple[int, int]:
    """Units whose mean cosine is negative beyond two standard errors, of those that have one."""
    known = np.isfinite(r.cosine)
    return int(np.sum(r.cosine[known] < -2 * r.cosine_error[known])), int(known.sum())


def predictors(r: Identity) -> tuple[list[str], list[str]]:
    """The measures that rank with the damage (the interval of ρ is above 0), and against it (below 0)."""
    assert r.low is not None and r.high is not None
    rows = list(zip(r.measure, r.low, r.high, strict=True))
    return [name for name, low, _ in rows if low > 0], [name for name, _, high in rows if high < 0]


def _stages(r: Identity) -> list[np.ndarray]:
    """The units of each stage that has three or more."""
    found = [np.flatnonzero(r.stage == stage) for stage in np.unique(r.stage)]
    return [units for units in found if len(units) >= 3]


def openings(r: Identity) -> tuple[int, int]:
    """Stages whose first unit is the largest of the stage, of those with three units or more."""
    stages = [u for u in _stages(r) if np.isfinite(r.ratio[u]).all()]
    return sum(int(r.ratio[u].argmax() == 0) for u in stages), len(stages)


def refining(r: Identity) -> tuple[int, int]:
    """Stages along which the estimation error never grows, of those with three units or more."""
    stages = [u for u in _stages(r) if np.isfinite(r.estimation[u]).all()]
    return sum(int(np.all(np.diff(r.estimation[u]) <= 0)) for u in stages), len(stages)


def finding(results: Results) -> Finding:
    """How near the identity each network's units are, and what that tells."""
    parts = []
    for label, r in results.items():
        middle = float(np.nanmedian(r.ratio))
        if r.residual.any():
            parts.append(
                f"half of the units of {label} add at most {factor(middle)} times what passes by"
            )
        else:
            parts.append(
                f"units of {label} change their input by {factor(middle)} times itself (median)"
            )
    text = "; ".join(parts)
    return Finding(f"{capital(text)}.", [_point(*item) for item in results.items()])


def _point(label: str, r: Identity) -> str:
    down, known = downhill(r)
    down_text = (
        f"{down} of {known} units step against the gradient (mean cosine below 0 by two errors)"
    )
    first, stages = openings(r)
    shrinking, of = refining(r)
    text = (
        f"{label}: {down_text}; novelty is {factor(float(np.nanmedian(r.novelty)))} in the median."
    )
    if stages:
        text += f" The first unit is the largest of its stage in {first} of {stages} stages."
    if of:
        text += (
            f" The distance from the stage's last output shrinks steadily in {shrinking} of {of}."
        )
    if r.correlation is not None and r.low is not None and r.high is not None:
        rows = zip(r.measure, r.correlation, r.low, r.high, strict=True)
        rho = [
            f"{NAMES[name]} {value:+.2f} ({low:+.2f} to {high:+.2f})"
            for name, value, low, high in rows
            if np.isfinite(value)
        ]
        up, down_with = ([NAMES[name] for name in names] for names in predictors(r))
        text += f" Rank correlation with the damage: {', '.join(rho)}." if rho else ""
        text += f" It rises with the {join(up)}." if up else ""
        text += f" It falls as the {join(down_with)} grows." if down_with else ""
        text += " None of them predicts it." if not up + down_with else ""
    return text


def table(results: Results) -> Table:
    """One row a unit and run."""
    fields = (*identity.MEASURES, "estimation_mean", "damage")
    rows = []
    for label, r in results.items():
        columns = [getattr(r, field) for field in fields]
        for i, unit in enumerate(r.unit):
            rows.append((label, unit, *("–" if c is None else number(c[i]) for c in columns)))
    heads = ("‖F‖/‖x‖", "cosine", "novelty", "distance from last", "mean of it", "damage (KL)")
    return Table(("network", "unit", *heads), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The median size of what a unit adds."""
    return {
        label: {"‖F‖/‖x‖, median unit": factor(float(np.nanmedian(r.ratio)))}
        for label, r in results.items()
    }


STUDY = Study(
    name="identity",
    title="How near to the identity is each unit?",
    question=(
        "A unit that adds little can be missed, with or without an ensemble. How large is what each unit "
        "adds, does it point downhill in the loss, is it new, how far is the stage's result still away, and "
        "does any of this predict what deleting the unit costs?"
    ),
    code=(
        f"images, labels = run.examples('train', {EXAMPLES})\n"
        "lesions = resjax.analysis.lesion(run.network, run.variables, images, labels, loss=run.loss)\n"
        "resjax.analysis.measure_identity(run.network, run.variables, images, labels, lesions=lesions,\n"
        "                                 loss=run.loss)"
    ),
    result=Identity,
    unsuited=_unsuited,
    run=_run,
    plot=identity.plot,
    finding=finding,
    table=table,
    summary=summary,
)
