"""What the report shows of the study ``cut``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resjax.studies import counts, style, verdicts
from resjax.studies.cutting.cut_result import Cut
from resjax.studies.spread import style_errors
from resjax.studies.study import Columns
from resjax.studies.words import Number, count, join, percent, percents

NOTE = (
    "Errors are on evaluation examples. The time is that of a forward pass of one batch on this machine; in "
    "the table, its 95 % interval is over turns. The interval of the number of units is over examples. "
    "Numbers between two measured ones are not known."
)
# {what: (marker, line)}, in the order of the legend; without a line for what few sizes have.
_LOOKS = {
    "as cut": ("", "--"),
    "BatchNorm re-estimated": ("o", "-"),
    "random units": ("", ":"),
    "the last units": ("", "-."),
    "linear maps": ("x", ""),
    "trained on": ("^", ""),
    "from scratch": ("s", ""),
}


def plot(results: Mapping[str, Cut]) -> style.Figure:
    """Error against shares of time and of multiply-adds; against units where neither is known. Markers
    without a line: what was tried at some numbers of units only."""
    axes: list[tuple[str, Any]] = [
        ("time (share of the intact network's)", _times),
        ("multiply-adds (share of the intact network's)", _products),
    ]
    axes = [own for own in axes if any(np.isfinite(own[1](r)[0]).any() for r in results.values())]
    axes = axes or [("units cut", lambda r: (r.number, r.number))]
    fig, panels = style.panels(len(axes), sharey=True)
    chance = max(result.chance_error for result in results.values())
    for ax, (name, shares) in zip(panels, axes, strict=True):
        for i, result in enumerate(results.values()):
            _draw(ax, i, result, *shares(result))
        style_errors(ax, chance)
        ax.set(xlabel=name, xlim=(0, None))
    if not style.is_narrow():
        for ax in panels[1:]:
            ax.set_ylabel("")
    _legend(fig, results)
    return fig


def _times(result: Cut) -> tuple[np.ndarray, np.ndarray]:
    return result.time_share(result.seconds)[0], result.time_share(result.mapped_seconds)[0]


def _products(result: Cut) -> tuple[np.ndarray, np.ndarray]:
    return result.saved_share(result.multiply_adds), result.saved_share(result.mapped_multiply_adds)


def _errors(result: Cut) -> dict[str, np.ndarray]:
    """Means over seeds and medians over draws, [size], of all that ``_LOOKS`` names."""
    return {
        "as cut": result.error,
        "BatchNorm re-estimated": result.recalibrated,
        "random units": _over(np.nanmedian, result.random),
        "the last units": result.last,
        "linear maps": result.mapped,
        "trained on": _over(np.mean, result.trained),
        "from scratch": _over(np.mean, result.scratch),
    }


def _over(statistic: Any, values: np.ndarray) -> np.ndarray:
    """[size] of [size, …]; NaN where there is nothing."""
    return np.array([statistic(row) if np.isfinite(row).any() else np.nan for row in values])


def _draw(ax: style.Axes, i: int, result: Cut, shares: np.ndarray, mapped: np.ndarray) -> None:
    for what, error in _errors(result).items():
        if np.isnan(error).all():
            continue
        marker, line = _LOOKS[what]
        x = mapped if what == "linear maps" else shares
        main = what in ("as cut", "BatchNorm re-estimated")
        look: dict[str, Any] = {"lw": 1.8 if main else 1.2, "alpha": 1.0 if main else 0.85}
        if what == "from scratch":
            look["mfc"] = "none"
        ax.plot(x, 100 * error, marker=marker, ls=line or "none", color=style.color(i), **look)


def _legend(fig: style.Figure, results: Mapping[str, Cut]) -> None:
    from matplotlib.lines import Line2D

    def line(**look: Any) -> Line2D:
        return Line2D([], [], **look)

    entries = [(line(color=style.color(i), lw=2.2), label) for i, label in enumerate(results) if label]
    shown = [what for what in _LOOKS if any(np.isfinite(_errors(r)[what]).any() for r in results.values())]
    for what in shown:
        marker, ls = _LOOKS[what]
        look: dict[str, Any] = {"mfc": "none"} if what == "from scratch" else {}
        entries.append((line(color=style.ink(), marker=marker, ls=ls or "none", **look), what))
    handles, labels = zip(*entries, strict=True)
    columns = 2 if style.is_narrow() else 4
    fig.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9)


def verdict(result: Cut) -> str:
    """Whether at least one unit can be cut for at most one point of error."""
    if verdicts.untrained(result):
        return "untrained"
    return "some" if result.found else "none"


def some(label: str, result: Cut) -> str:
    ends = [int(result.number[i]) for i in result.found_ends]
    units = f"{result.number[result.found]} of {result.pool} units{counts.between((ends[0], ends[1]))}"
    time = result.time_share(result.seconds)[0]
    saved = (
        ""
        if np.isnan(time).all()
        else f", and a forward pass then takes {_of_ends(result, time)} of the time"
    )
    return f"{units} of {label} can be cut together for at most one point of error{_mended(result)}{saved}"


def none(label: str, result: Cut) -> str:
    return (
        f"not even {count(int(result.number[1]), 'unit')} of {label} can be cut for at most one point of "
        f"error{_mended(result)}"
    )


def _mended(result: Cut) -> str:
    return "" if np.isnan(result.recalibrated).all() else " with BatchNorm re-estimated"


def _of_ends(result: Cut, share: np.ndarray) -> str:
    """'0.60 (0.57 to 0.66)': the share at the number of units found, and at the ends of its interval."""
    least, most = result.found_ends
    return f"{share[result.found]:.2f} ({share[most]:.2f} to {share[least]:.2f})"


def points(label: str, result: Cut) -> list[str]:
    error = _errors(result)
    names = join([result.unit[u] for u in result.order[:5]])
    texts = [
        f"{label}: {percent(result.intact_error)} error when intact. First to go: {names}."
        f"{verdicts.left_out(result.left_out, 'Never cut')}"
    ]
    at = min(result.found + 1, len(result.number) - 1)
    which = "the first measured number that costs more than a point" if at > result.found else "the most"
    said = {what: percent(own[at]) for what, own in error.items() if np.isfinite(own[at])}
    seeds, scratch = (count(own.shape[1], "seed") for own in (result.trained, result.scratch))
    words = {
        "as cut": "as cut",
        "BatchNorm re-estimated": "with BatchNorm re-estimated",
        "linear maps": f"with linear maps of rank {result.map_rank}",
        "trained on": f"trained on for {result.training} ({seeds})",
        "random units": "without as many random units (median)",
        "the last units": "without the last ones",
        "from scratch": f"of a network of that depth trained from scratch ({scratch})",
    }
    told = join([f"{said[what]} {text}" for what, text in words.items() if what in said])
    texts.append(
        f"{label} without {count(int(result.number[at]), 'unit')}, {which}, has these errors: {told}."
    )
    if result.trained.size and (kept := _kept(label, result)):
        texts.append(kept)
    return texts


def _kept(label: str, result: Cut) -> str:
    """How many units may go when the rest is trained on; '' where that was tried at none."""
    error = _over(np.mean, result.trained)
    tried = np.flatnonzero(np.isfinite(result.trained).any(1))
    if not len(tried):
        return ""
    spared = tried[verdicts.spared(error[tried], result.intact_error)]
    share = result.time_share(result.seconds)[0]
    if not len(spared):
        return (
            f"{label} trained on for {result.training}: none of the numbers that were tried "
            f"({join([str(result.number[i]) for i in tried])}) costs at most one point."
        )
    most = int(spared[-1])
    time = "" if np.isnan(share[most]) else f", in {share[most]:.2f} of the time"
    return (
        f"{label} trained on for {result.training}: {result.number[most]} units may go for at most one point "
        f"({count(result.trained.shape[1], 'seed')}){time}; tried were "
        f"{join([str(result.number[i]) for i in tried])}."
    )


def table(r: Cut) -> Columns:
    errors, (middle, low, high) = _errors(r), r.time_share(r.seconds)
    intact = np.array([1.0] if len(middle) and np.isfinite(middle[0]) else [np.nan])
    shares = [_share(own) for own in np.concatenate([intact, middle[1:]])]
    ends = [
        "" if np.isnan(b) or not i else f" ({a:.2f} to {b:.2f})"
        for i, (a, b) in enumerate(zip(low, high, strict=True))
    ]
    columns = {
        "units cut": [str(k) for k in r.number],
        "time": [own + end for own, end in zip(shares, ends, strict=True)],
        "multiply-adds": [_share(own) for own in r.saved_share(r.multiply_adds)],
        "as cut": percents(r.error),
        "BatchNorm re-estimated": percents(r.recalibrated),
        "linear maps": percents(r.mapped),
        "time with maps": [_share(own) for own in r.time_share(r.mapped_seconds)[0]],
        "trained on": percents(errors["trained on"]),
        "random units: median": percents(errors["random units"]),
        "the last units": percents(r.last),
        "from scratch": percents(errors["from scratch"]),
    }
    return {name: cells for name, cells in columns.items() if any(cell != "–" for cell in cells)}


def _share(value: float) -> str:
    """'0.60'; '–' where it is not known."""
    return Number.of("–" if np.isnan(value) else f"{value:.2f}", value, _share)


def summary(result: Cut) -> dict[str, str]:
    if verdicts.untrained(result):
        return {}
    least, most = (int(result.number[i]) for i in result.found_ends)
    told = f"{result.number[result.found]} of {result.pool}{counts.between((least, most))}"
    rows = {f"units that can be cut together{_mended(result)}": told}
    time = result.time_share(result.seconds)[0]
    if not np.isnan(time).all():
        rows["share of the time that is left"] = _of_ends(result, time)
    return rows
