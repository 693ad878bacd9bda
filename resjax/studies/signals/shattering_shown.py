"""How the claim of shattered gradients is shown: ``resjax.studies.signals.shattering``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.old_study import Claim, Finding, Table
from resjax.studies.signals import shattering as analysis
from resjax.studies.signals.shattering import Shattering, shattered_gradients
from resjax.studies.words import count, factor, number

Results = Mapping[str, Shattering]

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": False, "norm": False},
    "plain, BatchNorm": {"shortcut": False, "norm": True},
    "residual": {"shortcut": True, "norm": False},
    "residual, BatchNorm": {"shortcut": True, "norm": True},
    "residual, BatchNorm, β = 0.1": {"shortcut": True, "norm": True, "beta": 0.1},
}
SMOKE: dict[str, Any] = {
    "width": 48,
    "depths": (1, 2, 3, 4, 6),
    "shown_depth": 6,
    "points": 24,
    "seeds": 4,
}
# The correlation with shortcuts that is called far above the one without.
FAR = 10.0
# A fit that explains so much of the log correlation is called a law.
GOOD_FIT = 0.98
# Balduzzi et al. 2017: each plain layer halves the correlation.
HALVING, TOLERANCE = float(np.log(2)), 0.25


def _run(smoke: bool, seed: int, progress: Progress | None) -> dict[str, Shattering]:
    results = {}
    for i, (label, kind) in enumerate(NETWORKS.items()):

        def tell(done: int, of: int, i: int = i) -> None:
            if progress:
                progress(i * of + done, len(NETWORKS) * of)

        size = SMOKE if smoke else {}
        results[label] = shattered_gradients(**kind, **size, seed=seed, progress=tell)
    return results


def at_shown_depth(r: Shattering) -> tuple[float, float, float]:
    """Correlation at the shown depth and its interval."""
    i = r.depth.tolist().index(r.shown_depth)
    low, high = r.interval
    return float(r.correlation.mean(0)[i]), float(low[i]), float(high[i])


def ratio(r: Shattering, other: Shattering) -> tuple[float, bool]:
    """How many times more alike gradients are in ``r`` at the shown depth; where the other's interval
    reaches 0, with its upper end instead, and True: at least so many times."""
    own, (value, low, high) = at_shown_depth(r)[0], at_shown_depth(other)
    noise = low <= 0
    below = max(abs(low), abs(high)) if noise else value
    return (own / below if below > 0 else np.inf), noise


def finding(results: Results) -> Finding:
    """Residual networks with BatchNorm against plain ones, with and without it, at the shown depth."""
    normed = {label: r for label, r in results.items() if r.residual and r.norm and r.beta == 1}
    plain = {label: r for label, r in results.items() if not r.residual}
    points = [_sentence(label, r) for label, r in results.items()]
    if not normed or not plain:
        return Finding(
            "There is no pair of networks with and without shortcuts to compare.", points
        )
    ((label, residual),) = normed.items()
    parts, far = [], []
    for name, other in plain.items():
        times, noise = ratio(residual, other)
        parts.append(f"{'at least ' if noise else ''}{factor(times)} times that of {name}")
        far.append(times > FAR)
    verdict = {
        True: "Shortcuts keep gradients alike",
        False: "Shortcuts do not keep gradients alike",
    }
    start = verdict[all(far)] if all(far) or not any(far) else "It depends on BatchNorm"
    headline = (
        f"{start}: at depth {residual.shown_depth} the correlation of gradients in {label} is "
        f"{' and '.join(parts)}."
    )
    return Finding(headline, points)


def _sentence(label: str, r: Shattering) -> str:
    value, low, high = at_shown_depth(r)
    text = f"{label}: correlation {factor(value)} ({factor(low)} to {factor(high)}) at depth {r.shown_depth}"
    (rate, fit), (power, fit_power) = r.exponential(), r.power()
    told = count(int(r.resolved.sum()), "depth")
    if np.isnan(rate):
        return f"{text}; it differs from 0 at {told} only, too few for a law."
    if max(fit, fit_power) < GOOD_FIT:
        kind = (
            f"; neither an exponential (rate {rate:.3f}, r² {fit:.3f}) nor a power law (exponent "
            f"{power:.2f}, r² {fit_power:.3f}) describes its course"
        )
    elif fit >= fit_power:
        way, sign = ("decays", "−") if rate > 0 else ("grows", "")
        kind = f"; it {way} exponentially, by exp({sign}{abs(rate):.3f}) a layer (r² {fit:.3f})"
        if rate <= 0:
            kind += ", where halving would be a decay"
        elif abs(rate / HALVING - 1) <= TOLERANCE:
            kind += f", within {100 * TOLERANCE:.0f} % of the ln 2 = {HALVING:.3f} of halving"
        else:
            kind += f", {factor(rate / HALVING)} times the ln 2 of halving"
    else:
        way, sign = ("decays", "−") if power > 0 else ("grows", "")
        kind = f"; it {way} like L^{sign}{abs(power):.2f} (r² {fit_power:.3f})"
    return f"{text}{kind}, over the {told} where it differs from 0."


def table(results: Results) -> Table:
    """One row a depth and network."""
    rows = []
    for label, r in results.items():
        low, high = r.interval
        for i, depth in enumerate(r.depth):
            values = (r.correlation[:, i].mean(), low[i], high[i], 0.5**depth)
            rows.append((label, str(depth), *(number(float(v)) for v in values)))
    columns = ("network", "depth", "correlation of all pairs", "from", "to", "half with each layer")
    return Table(columns, rows)


CLAIM = Claim(
    name="shattering",
    title="Shattered gradients",
    question=(
        "Do gradients at different inputs still point the same way in a deep network? Shown is how alike "
        "they are at initialization, in fully connected networks on a line of inputs, with and without "
        "shortcuts (Balduzzi et al. 2017)."
    ),
    code="resjax.analysis.shattered_gradients(shortcut=True, norm=True)",
    result=Shattering,
    plot=analysis.plot,
    run=_run,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
