"""What the report shows of ``resjax.studies.units.influence``: its figure, its sentences and its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resjax.studies import pointing, style, verdicts
from resjax.studies.initial import drawn
from resjax.studies.judged import MET, MISSED, judged
from resjax.studies.marks import plain_log_ticks
from resjax.studies.ranks import spearman
from resjax.studies.study import Columns
from resjax.studies.units.influence_result import DAMAGES, SCORES, Influence
from resjax.studies.words import correlation, count, factor, join, numbers, percent, percents

NAMES = {
    "influence": "block influence",
    "distance": "angular distance",
    "size": "size ‖F‖/‖x‖",
    "novelty": "novelty",
}
TELLS = 0.5  # a score tells what deletion does from this ρ on
JUDGED = ("influence", "distance")  # the scores by which layers are cut


def plot(results: Mapping[str, Influence]) -> style.Figure:
    """Block influence by unit; angular distance by the number of units; rise of the loss by influence; and
    rank correlations with it.

    Bands are intervals over examples, bars intervals over units. Below left, kinds of units that alternate
    differ in how markers are filled.
    """
    names = ["influence", "distance", "loss", "rho"]
    rows = [[name] for name in names] if style.is_narrow() else [names[:2], names[2:]]
    fig, axes = style.mosaic(rows)
    fig.set_figheight((0.75 if style.is_narrow() else 0.8) * fig.get_figheight() * len(rows))
    for i, label, r, look in drawn(results):
        look |= {"color": style.color(i), "ms": 3.5}
        unit, length = 1 + np.arange(len(r.unit)), 1 + np.arange(len(r.unit))
        ax = axes["influence"]
        ax.plot(unit, r.of("influence"), style.marker(i) + "-", label=label, **look)
        low, high = (np.diagonal(v[SCORES.index("influence")]) for v in (r.low, r.high))
        ax.fill_between(unit, low, high, color=style.color(i), alpha=0.15, lw=0)
        least = np.array([_least(r.of("distance", int(n))) for n in length])
        axes["distance"].plot(length, least, style.marker(i) + "-", **look)
    axes["loss"].set_xscale("log")
    axes["loss"].set_yscale("symlog", linthresh=0.01)
    for i, (label, r) in enumerate(results.items()):
        _draw_loss(axes["loss"], i, label, r)
        score, number = "block influence", 1 + np.arange(len(r.unit))
        pointing.along(axes["influence"], label, r.unit, number, columns=(score, "influence, 95 %"))
        place = r.of("influence"), np.diagonal(r.loss) - r.intact_loss
        shown = (score, "loss without it", "error without it")
        pointing.points(axes["loss"], label, r.unit, *place, columns=shown)
    axes["influence"].set(xlabel="unit", ylabel=NAMES["influence"], yscale="log")
    axes["distance"].set(xlabel="consecutive units", ylabel="least angular distance")
    for name in ("influence", "distance"):
        style.integer_ticks(axes[name])
    axes["loss"].set(xlabel="block influence of a unit", ylabel="rise of the loss without it")
    plain_log_ticks(axes["loss"].xaxis)
    if axes["loss"].get_legend_handles_labels()[0]:
        axes["loss"].legend(fontsize=7.5)
    _draw_rho(axes["rho"], results)
    style.legend_above(fig, axes["influence"], 3)
    return fig


def _least(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.min()) if len(known) else np.nan


def _draw_loss(ax: style.Axes, i: int, label: str, r: Influence) -> None:
    kinds = list(dict.fromkeys(r.kind))
    for k, kind in enumerate(kinds):
        own = np.array(r.kind) == kind
        rise = np.diagonal(r.loss)[own] - r.intact_loss
        name = f"{label}: {kind or 'other'}".removeprefix(": ") if len(kinds) > 1 else None
        look: dict[str, Any] = {"color": style.color(i), "fillstyle": style.fill(k), "ls": "", "label": name}
        ax.plot(r.of("influence")[own], rise, marker=style.marker(i), **look)


def _draw_rho(ax: style.Axes, results: Mapping[str, Influence]) -> None:
    """ρ with the rise of the loss; runs of more units have emptier markers."""
    shown = [(i, r, j) for i, r in enumerate(results.values()) for j in range(len(r.length))]
    place = np.arange(len(SCORES))
    for row, (i, r, j) in enumerate(shown):
        rho, low, high = (v[0, j] for v in (r.rho, r.rho_low, r.rho_high))
        sides = np.clip([rho - low, high - rho], 0, None)  # the interval may exclude the estimate itself
        y = place + 0.7 / len(shown) * (row - (len(shown) - 1) / 2)
        look: dict[str, Any] = {"color": style.color(i), "fmt": style.marker(i), "lw": 1.1, "ms": 3.5}
        ax.errorbar(rho, y, xerr=sides, fillstyle="full" if r.length[j] == 1 else "none", **look)
    ax.axvline(0, lw=1, color=style.ink())
    ax.axvline(TELLS, lw=1, ls=":", color=style.ink())
    ax.set_yticks(place, [name.replace(" ", "\n", 1) for name in NAMES.values()])
    ax.set(xlim=(-1.03, 1.03), ylim=(len(place) - 0.5, -0.5))
    lengths = sorted({int(n) for r in results.values() for n in r.length})
    ax.set_xlabel(f"ρ with the loss, runs of {', '.join(map(str, lengths))} (1: full)")


def verdict(r: Influence) -> str:
    """Whether both scores by which layers are cut rank single units as the loss does."""
    if verdicts.untrained(r):
        return "untrained"
    found = {_judged(r, name) for name in JUDGED}
    return {frozenset({MET}): "agree", frozenset({MISSED}): "disagree"}.get(frozenset(found), "undecided")


def _judged(r: Influence, score: str) -> str:
    if r.length[0] != 1:  # no single unit was deleted
        return "undecided"
    at = 0, 0, SCORES.index(score)
    return judged(float(r.rho_low[at]), float(r.rho_high[at]), least=TELLS)


def points(label: str, r: Influence) -> list[str]:
    found = [*_ranks(r), *_chosen(r), *_typical(r)]
    return [f"{label}: {text}" for text in found]


def _ranks(r: Influence) -> list[str]:
    """The rank correlations with the loss, for each length, and with the error for single units."""
    told = []
    for j, length in enumerate(r.length):
        runs = int(np.isfinite(np.diagonal(r.loss, int(length) - 1)).sum())
        what = count(runs, "unit") if length == 1 else f"{runs} runs of {length}"
        own = [f"{NAMES[name]} {_rho(r, 0, j, k)}" for k, name in enumerate(SCORES)]
        if np.isfinite(r.rho[0, j]).any():
            told.append(f"rank correlation with the rise of the loss, over {what}: {', '.join(own)}.")
    if not told:
        return ["too few units were deleted to rank them."]
    if r.length[0] == 1 and np.isfinite(r.rho[1, 0]).any():
        own = [f"{NAMES[name]} {_rho(r, DAMAGES.index('error'), 0, k)}" for k, name in enumerate(SCORES)]
        told.append(f"with the rise of the error of single units: {', '.join(own)}.")
    return told


def _rho(r: Influence, damage: int, length: int, score: int) -> str:
    """'+0.62 (+0.20 to +0.85)', and how the scores at initialization rank with the same damage."""
    at = damage, length, score
    text = _signed(r.rho[at])
    if np.isfinite(r.rho_low[at]):
        text += f" ({_signed(r.rho_low[at])} to {_signed(r.rho_high[at])})"
    if r.initial is not None and np.isfinite(before := _before(r, damage, int(r.length[length]), score)):
        text += f" [scores at init {_signed(before)}]"
    return text


def _before(r: Influence, damage: int, length: int, score: int) -> float:
    """ρ of the scores at initialization with the damage to the trained network; NaN for too few runs."""
    own = np.diagonal((r.loss, r.error)[damage], length - 1)
    rows = np.stack([np.diagonal(r.initial.value[score], length - 1), own])
    rows = rows[:, np.isfinite(rows).all(0)]
    return spearman(*rows) if rows.shape[1] >= 4 else np.nan


def _signed(value: float) -> str:
    return "–" if np.isnan(value) else ("+" if value >= 0 else "−") + correlation(abs(value))


def _chosen(r: Influence) -> list[str]:
    """What happens without the run that the angular distance chooses, and without the best one."""
    if verdicts.untrained(r):
        return []
    told = []
    for length in r.length.tolist():
        loss = np.diagonal(r.loss, length - 1)
        distance = np.where(np.isfinite(loss), r.of("distance", length), np.nan)
        if np.isfinite(distance).sum() < 2:
            continue
        pick, best = int(np.nanargmin(distance)), int(np.nanargmin(loss))
        error = np.diagonal(r.error, length - 1)
        same = "the best" if pick == best else f"the best, {_run(r, best, length)}, {percent(error[best])}"
        told.append(f"{_run(r, pick, length)}, {percent(error[pick])} ({same})")
    if not told:
        return []
    least = "error without the units that the least angular distance chooses, in brackets by the least loss"
    return [f"{percent(r.intact_error)} error when intact; {least}: {'; '.join(told)}."]


def _run(r: Influence, first: int, length: int) -> str:
    return r.unit[first] if length == 1 else f"{r.unit[first]} to {r.unit[first + length - 1]}"


def _typical(r: Influence) -> list[str]:
    """The median of each score over units, trained and untrained."""
    told = []
    for name in SCORES:
        there = "" if r.initial is None else f" (at init {factor(_median(r.initial.of(name)))})"
        told.append(f"{NAMES[name]} {factor(_median(r.of(name)))}{there}")
    return [f"scores of the median unit: {join(told)}."]


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def table(r: Influence) -> Columns:
    """A row for each unit."""
    low, high = (np.diagonal(v[SCORES.index("influence")]) for v in (r.low, r.high))
    ends = [f"{a} to {b}" for a, b in zip(numbers(low), numbers(high), strict=True)]
    return {
        "unit": r.unit,
        **({"kind": r.kind} if any(r.kind) else {}),
        "block influence": numbers(r.of("influence")),
        "influence, 95 %": [end.replace("– to –", "–") for end in ends],
        "angular distance": numbers(r.of("distance")),
        "size": numbers(r.of("size")),
        "novelty": numbers(r.of("novelty")),
        "loss without it": numbers(np.diagonal(r.loss)),
        "error without it": percents(np.diagonal(r.error)),
    }


def summary(r: Influence) -> dict[str, str]:
    return {"ρ of block influence and loss": _rho(r, 0, 0, 0)} if len(r.length) and r.length[0] == 1 else {}
