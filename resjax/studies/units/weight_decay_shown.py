"""How the weight-decay experiment is shown; numbers are those of ``resjax.studies.units.weight_decay``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.old_study import Claim, Finding, Table
from resjax.studies.units import weight_decay
from resjax.studies.units.weight_decay import PLACEMENTS, WeightDecay, decay_alone
from resjax.studies.words import factor, join, number, percent

Results = Mapping[str, WeightDecay]

# Findings speak of the step at which kernels are down to this share.
KERNEL_LEFT = 0.05
# A branch that is then smaller than this share of its size at first has decayed, one above STAYS has not.
DECAYED, STAYS = 0.1, 0.9


def _run(smoke: bool, seed: int, progress: Progress | None) -> dict[str, WeightDecay]:
    results = {}
    for i, placement in enumerate(PLACEMENTS):
        if progress:
            progress(i, len(PLACEMENTS))
        options = {"draws": 2, "width": 4, "size": 4} if smoke else {}
        results[f"{placement}-activation unit"] = decay_alone(placement, seed=seed, **options)
    if progress:
        progress(len(PLACEMENTS), len(PLACEMENTS))
    return results


def moment(result: WeightDecay) -> int:
    """Index of the first point at which all kernels are down to ``KERNEL_LEFT``, or the last point."""
    small = np.flatnonzero((result.kernel <= KERNEL_LEFT).all(0))
    return int(small[0]) if len(small) else len(result.step) - 1


def left(result: WeightDecay) -> np.ndarray:
    """[case], the share of the branch's first size that is left at that moment."""
    return result.branch[:, moment(result)] / result.branch[:, 0]


def _verdict(share: float) -> str:
    return "decays to" if share < DECAYED else "stays away from" if share > STAYS else "nears"


def finding(results: Results) -> Finding:
    """In which cases decay alone makes the unit an identity."""
    clauses = []
    for label, r in results.items():
        by_verdict: dict[str, list[str]] = {}
        for case, share in zip(r.case, left(r), strict=True):
            by_verdict.setdefault(_verdict(float(share)), []).append(f"“{case}”")
        said = [f"{verdict} the identity with {join(c)}" for verdict, c in by_verdict.items()]
        clauses.append(f"the {label} {join(said)}")
    return Finding(f"Under weight decay alone, {'; '.join(clauses)}.", _points(results))


def _points(results: Results) -> list[str]:
    points = []
    for label, r in results.items():
        t = moment(r)
        shares = [
            f"{factor(share)} ({case}; closed form {factor(r.closed_form[i, t] / r.branch[i, 0])})"
            for i, (case, share) in enumerate(zip(r.case, left(r).tolist(), strict=True))
        ]
        points.append(
            f"{label}: after {r.step[t]:,} steps {percent(r.kernel[:, t].mean())} of the kernels' norm is "
            f"left, in closed form {percent((1 - r.rate * r.decay) ** r.step[t])}, and the branch has of its "
            f"first size {join(shares)}."
        )
        ends = [
            f"{factor(end)} times ({case})"
            for case, end in zip(r.case, (r.branch / r.closed_form)[:, -1].tolist(), strict=True)
            if abs(np.log(end)) > np.log(1.05)
        ]
        if ends:
            points.append(
                f"{label}: at the last step, {r.step[-1]:,}, the branch has {join(ends)} its closed form. "
                "That leaves out BatchNorm's ε = 1e-5, which counts once the variance in front is as small."
            )
    return points


def table(results: Results) -> Table:
    """One row a unit and case."""
    rows = []
    for label, r in results.items():
        for i, case in enumerate(r.case):
            low, high = r.branch_interval[i, moment(r)]
            rows.append(
                (
                    label,
                    case,
                    ("constant", "ρᵗ", "ρ²ᵗ")[r.power[i]],
                    number(r.branch[i, 0]),
                    f"{r.step[moment(r)]:,}",
                    f"{number(r.branch[i, moment(r)])} ({number(low)} – {number(high)})",
                    number(r.closed_form[i, moment(r)]),
                )
            )
    columns = ("unit", "case", "closed form", "‖f‖/‖x‖ at first", "step", "‖f‖/‖x‖ then")
    return Table((*columns, "in closed form"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """What is left of the branch, by case."""
    return {
        label: {
            f"branch left, {case}": percent(float(share))
            for case, share in zip(r.case, left(r), strict=True)
        }
        for label, r in results.items()
    }


CLAIM = Claim(
    name="weight_decay",
    title="Weight decay and the identity",
    question=(
        "Does weight decay turn residual blocks into identities? Real units get no gradient from data, only "
        "weight decay, and the size of their branch beside their input is measured: without BatchNorm, with "
        "it, and with its γ decayed too."
    ),
    code="resjax.analysis.decay_alone('post'), resjax.analysis.decay_alone('pre')",
    result=WeightDecay,
    run=_run,
    plot=weight_decay.plot,
    finding=finding,
    table=table,
    summary=summary,
)
