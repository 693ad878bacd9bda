"""What the report shows of ``resjax.studies.units.identity``: its figure, its sentences and its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resjax.studies import pointing, style
from resjax.studies.initial import drawn, less
from resjax.studies.judged import MET, MISSED, UNDECIDED, all_of, judged
from resjax.studies.study import Columns
from resjax.studies.units.identity_result import Identity
from resjax.studies.words import factor, join, numbers, percent, with_ends

NAMES = {
    "ratio": "size ‖F‖/‖x‖",
    "cosine": "cosine with ∂L/∂x",
    "novelty": "novelty",
    "estimation": "distance from the stage's last output",
}
COLUMNS = dict(
    zip(NAMES, ("‖F‖/‖x‖", "cosine", "novelty", "distance from last"), strict=True)
)  # of the table
NEAR_0 = 0.1  # a mean of at most this share of its deviation is near 0
_FILLS = {"nothing": "full", "place": "left", "place and stage": "none"}


def plot(results: Mapping[str, Identity]) -> style.Figure:
    """Each measure unit by unit, and its rank correlation with the damage, if lesions were given.

    Bands are intervals over images, bars over units. Correlations with more held fixed have emptier markers.
    """
    narrow = style.is_narrow()
    ranked = any(r.correlation is not None for r in results.values())
    cells = [*NAMES, *["damage"] * ranked]
    rows = [[k] for k in [*cells, *cells[4:]]]  # the correlations are twice as high
    rows = rows if narrow else [cells[:2], cells[2:4], *[cells[4:] * 2] * ranked]
    fig, axes = style.mosaic(rows)
    fig.set_figheight((0.5 if narrow else 0.62) * fig.get_figheight() * len(rows))
    on_axis = [name.replace("from the ", "from\n") for name in NAMES.values()]
    for k, (measure, label_of_axis) in enumerate(zip(NAMES, on_axis, strict=True)):
        ax = axes[measure]
        for i, label, r, look in drawn(results):
            look |= {"ms": 3.5, "color": style.color(i), "label": label}
            unit = 1 + np.arange(len(r.unit))
            ax.plot(unit, r.measured(measure), style.marker(i) + "-", **look)
            band = np.where(np.isfinite(r.measured(measure))[:, None], r.interval[k], np.nan)
            ax.fill_between(unit, *band.T, color=style.color(i), alpha=0.15, lw=0)
        for label, r in results.items():
            pointing.along(ax, label, r.unit, 1 + np.arange(len(r.unit)), columns=(COLUMNS[measure],))
        is_log = measure in ("ratio", "estimation")
        ax.set(xlabel="unit", ylabel=label_of_axis, yscale="log" if is_log else "linear")
        style.integer_ticks(ax)
    axes["cosine"].axhline(0, lw=1, color=style.ink())
    if ranked:
        _draw_correlations(axes["damage"], results, on_axis)
    style.legend_above(fig, axes["ratio"], 4)
    return fig


def _draw_correlations(ax: style.Axes, results: Mapping[str, Identity], names: list[str]) -> None:
    shown = [
        (i, r, j)
        for i, r in enumerate(results.values())
        if r.correlation is not None
        for j in range(len(r.given))
    ]
    place = np.arange(len(names))
    for row, (i, r, j) in enumerate(shown):
        assert r.correlation is not None and r.low is not None and r.high is not None
        # The bootstrap interval may exclude the estimate itself.
        sides = np.clip([r.correlation[j] - r.low[j], r.high[j] - r.correlation[j]], 0, None)
        look: dict[str, Any] = {"fmt": style.marker(i), "color": style.color(i), "lw": 1.2}
        y = place + 0.7 / len(shown) * (row - (len(shown) - 1) / 2)
        ax.errorbar(r.correlation[j], y, xerr=sides, fillstyle=_FILLS[r.given[j]], **look)
    ax.axvline(0, lw=1, color=style.ink())
    ax.set_yticks(place, names)
    ax.set(xlim=(-1.03, 1.03), ylim=(len(place) - 0.5, -0.5))
    held = "raw (full), place held fixed (half),", "place and stage (empty)"
    parts = "rank correlation with the damage (ρ):", *held
    ax.set_xlabel(("\n" if style.is_narrow() else " ").join(parts))


def _signs(ends: np.ndarray, at: float = 0.0) -> np.ndarray:
    """[..., end] → 1 where the interval lies above ``at``, −1 where below, 0 where undecided or unknown."""
    return np.where(ends[..., 0] > at, 1, 0) - np.where(ends[..., 1] < at, 1, 0)


def downhill(r: Identity) -> tuple[int, int]:
    """Units whose mean cosine is negative, with its whole interval, of those that have one."""
    known = np.isfinite(r.cosine)
    return int(np.sum(_signs(r.interval[1][known]) < 0)), int(known.sum())


def openings(r: Identity) -> tuple[int, int]:
    """Stages whose first unit is the largest of the stage, of those with three units or more."""
    known = r.lead[np.isfinite(r.lead)]
    return int(np.sum(known > 1)), len(known)


def refining(r: Identity) -> tuple[int, int]:
    """Stages along which the estimation error never grows, of those with three units or more."""
    found = [r.estimation[r.stage == stage] for stage in np.unique(r.stage)]
    found = [own for own in found if len(own) >= 3 and np.isfinite(own).all()]
    return sum(bool(np.all(np.diff(own) <= 0)) for own in found), len(found)


def faster(r: Identity) -> np.ndarray:
    """[stage]: 1 where less is left of the first distance than at initialization, −1 where more is, 0 where
    the intervals do not decide, or where one of the two is unknown."""
    there = r.initial
    ends = less(r.remaining, r.remaining_interval, there.remaining, there.remaining_interval)
    return -_signs(ends)


def near_0(r: Identity) -> str:
    """Whether all means of the estimation error are near 0, at most ``NEAR_0`` of their deviation: 'met',
    'missed' or 'undecided', the last also where there is none."""
    ends = r.bias_interval[np.isfinite(r.bias)].tolist()
    return all_of(judged(low, high, least=-NEAR_0, most=NEAR_0) for low, high in ends)


def _median(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return factor(float(np.median(known))) if len(known) else "–"


def size(r: Identity) -> str:
    """'0.25', or '0.25 (at init 0.41)'."""
    there = "" if r.initial is None else f" (at init {_median(r.initial.ratio)})"
    return _median(r.ratio) + there


def points(label: str, r: Identity) -> list[str]:
    found = [_direction(r), _size(r), _refinement(r), *_ranks(r)]
    return [f"{label}, {text}" for text in found if text]


def _share(r: Identity) -> str:
    """'96 % (92 % to 100 %)'."""
    low, high = r.below_interval
    return percent(r.below) + (f" ({percent(low)} to {percent(high)})" if np.isfinite(low) else "")


def _direction(r: Identity) -> str:
    known = np.isfinite(r.cosine)
    if not known.any():
        return ""
    signs = _signs(r.interval[1][known])
    text = (
        f"direction: the mean cosine is negative in {_share(r)} of {known.sum()} units; with its interval "
        f"over images in {np.sum(signs < 0)}, and positive so in {np.sum(signs > 0)}."
    )
    there = r.initial
    if there is None or not np.isfinite(there.below):
        return text
    low, high = less(r.below, r.below_interval, there.below, there.below_interval)
    change = f"{100 * (r.below - there.below):+.0f} points, {100 * low:+.0f} to {100 * high:+.0f}"
    says = (
        "training changed the share" if low > 0 or high < 0 else "it is undecided whether training changed it"
    )
    return f"{text} At initialization it is negative in {_share(there)}: {says} ({change})."


def _size(r: Identity) -> str:
    text = f"size: the median unit adds {size(r)} times the norm of its input, and its novelty is "
    text += _median(r.novelty) + ("." if r.initial is None else f" ({_median(r.initial.novelty)}).")
    known = np.isfinite(r.lead)
    if not known.any():
        return text
    signs = _signs(r.lead_interval[known], 1)
    text += f" The first unit of a stage adds most in {np.sum(signs > 0)} of {len(signs)} stages"
    if undecided := np.sum(signs == 0):
        text += f", undecided in {undecided}"
    if r.initial is not None and np.isfinite(r.initial.lead).any():
        own = _signs(r.initial.lead_interval[np.isfinite(r.initial.lead)], 1)
        text += f"; at initialization in {np.sum(own > 0)} of {len(own)}"
    return f"{text}."


def _refinement(r: Identity) -> str:
    told = [*([_shrinkage(r)] if refining(r)[1] else []), *_means(r)]
    return f"refinement: {' '.join(told)}" if told else ""


def _shrinkage(r: Identity) -> str:
    """How fast the distance from the stage's last output shrinks, beside initialization."""
    steadily, there = "the distance from the stage's last output never grows in {} of {} stages", r.initial
    known = np.isfinite(r.remaining)
    left = f"between the ends of each stage, {_list(r.remaining[known])} of its first distance are left"
    text = steadily.format(*refining(r))
    if there is None or not np.isfinite(there.remaining).any():
        return f"{text}; {left}."
    signs = faster(r)[known]
    counts = [np.sum(signs == sign) for sign in (1, -1, 0)]
    return (
        f"{text}, at initialization in "
        + "{} of {}; ".format(*refining(there))
        + f"{left}, {_list(there.remaining[known])} at initialization: it shrinks faster than there in "
        f"{counts[0]} of {len(signs)} stages, slower in {counts[1]}, undecided in {counts[2]}."
    )


def size_of(ends: np.ndarray) -> np.ndarray:
    """The interval of |x| from that of x: it begins at 0 where x may be 0."""
    low, high = np.sort(np.abs(ends))
    return np.array([0.0 if ends[0] <= 0 <= ends[1] else low, high])


def _means(r: Identity) -> list[str]:
    """Greff's criterion."""
    bias = np.abs(r.bias)
    if not np.isfinite(bias).any():
        return []
    worst = int(np.nanargmax(bias))
    ends = size_of(r.bias_interval[worst])
    there = "" if r.initial is None else _largest(r.initial)
    says = {
        MET: "all are near 0",
        MISSED: "they are not all near 0",
        UNDECIDED: "undecided whether all are near 0",
    }
    known, among = np.sum(bias <= NEAR_0), np.isfinite(bias).sum()
    own = f" ({factor(ends[0])} to {factor(ends[1])})" if np.isfinite(ends).all() else ""
    return [
        f"The mean of a_i − a_last is at most {NEAR_0:g} of its deviation in {known} of {among} units; the "
        f"largest is {factor(bias[worst])}{own} of it, in {r.unit[worst]}{there}: "
        f"{says[near_0(r)]}."
    ]


def _largest(r: Identity) -> str:
    known = np.abs(r.bias[np.isfinite(r.bias)])
    return f", at initialization {factor(known.max())}" if len(known) else ""


def _list(values: np.ndarray) -> str:
    return join([factor(float(v)) for v in values])


_HELD = {"nothing": "raw", "place": "place held fixed", "place and stage": "place and stage held fixed"}


def _ranks(r: Identity) -> list[str]:
    """How the measures rank with the damage: with an interval above 0, below 0, or around it."""
    if r.correlation is None or r.low is None or r.high is None:
        return []
    found, there = [], r.initial
    for m, name in enumerate(r.measure):
        own = zip(r.given, r.correlation[:, m], r.low[:, m], r.high[:, m], strict=True)
        told = [f"{_HELD[g]} {v:+.2f} ({a:+.2f} to {b:+.2f})" for g, v, a, b in own if np.isfinite(v)]
        if told and there is not None and there.correlation is not None:
            rho = there.correlation[0, m]
            told += [f"raw at initialization {rho:+.2f}"] if np.isfinite(rho) else []
        found += [f"{NAMES[name]}: {', '.join(told)}"] if told else []
    if not found:
        return ["rank correlation: too few units were measured to rank them against the damage."]
    text = f"rank correlation of the damage with the {'; '.join(found)}."
    # The strictest of the correlations that were possible.
    last = np.array([np.flatnonzero(np.isfinite(v)).max(initial=0) for v in r.correlation.T])
    pick = last, np.arange(len(r.measure))
    signs = _signs(np.stack([r.low[pick], r.high[pick]], -1))
    raw = _signs(np.stack([r.low[0], r.high[0]], -1))
    names = np.array([NAMES[name] for name in r.measure])
    if (signs > 0).any():
        text += f" The damage rises with the {join(list(names[signs > 0]))}."
    if (signs < 0).any():
        text += f" The damage falls as the {join(list(names[signs < 0]))} grows."
    gone = (raw != 0) & (signs == 0)
    if gone.any():
        text += f" Held fixed, place and stage leave no clear correlation with the {join(list(names[gone]))}."
    return [text if (signs != 0).any() or gone.any() else f"{text} None of them predicts the damage."]


def table(r: Identity) -> Columns:
    damage = np.full(len(r.unit), np.nan) if r.damage is None else r.damage
    measured = zip(COLUMNS.items(), r.interval, strict=True)
    return {
        "unit": r.unit,
        **{column: with_ends(r.measured(name), ends.T) for (name, column), ends in measured},
        "mean ÷ deviation": numbers(r.bias),
        "damage (KL)": numbers(damage),
    }
