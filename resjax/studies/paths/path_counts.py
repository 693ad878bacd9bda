"""Number and lengths of the paths through a network, in closed form.

*Question.* A residual unit y = x + f(x) can be crossed in two ways, by its shortcut or through its branch.
Veit, Wilber & Belongie (2016, §3) unravel a network of n such units into 2ⁿ paths. How long are they, which
remain when units are deleted, and which could carry a gradient?

*Method.* The *length* of a path is the number of branches that it crosses. A plain unit has no shortcut, so
every path crosses its branch. With p plain and r residual units,

    paths of length k:                  C(r, k − p), so lengths are p + Binomial(r, ½)
    share left after d deletions:       C(r − d, k − p) / C(r, k − p)           (ibid., §6, Fig. 7)
    total gradient of length k, if each branch multiplies a path's gradient by g
    and no two paths cancel:            ∝ C(r, k − p) gᵏ, so p + Binomial(r, g/(1 + g))

The last line turns one number, the attenuation g, into a range of *effective* lengths: for 54 units, g = ¼
gives the paper's 5 to 17.

*Protocol.* Units that change the shape have a shortcut and count as any other. The *effective range* is the
central 95 %, which excludes at most 2.5 % at either end; the paper does not define "almost all".

*Reading it.* The counts hold for any network of this structure, trained or not; ``paths`` measures gradients.
2ⁿ paths are not 2ⁿ networks: the gradient is a sum over paths, the output is not a sum of models.

*Cost.* Negligible: exact integer arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np

from resjax.network import Network
from resjax.studies import style
from resjax.studies.costs import nothing
from resjax.studies.paths.path_lengths import (
    attenuated_shares,
    central_range,
    count_units,
    path_lengths,
    path_shares,
    share_between,
    surviving_share,
)
from resjax.studies.result import Result
from resjax.studies.study import Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import count, factor, join, superscript

# The deletions of Veit et al. 2016, Fig. 7 and §6, as shares of their 54 units.
_DELETED = (1 / 54, 10 / 54, 20 / 54)
_ATTENUATIONS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)


@dataclasses.dataclass(frozen=True)
class PathCounts(Result):
    """The paths of one network."""

    length: Annotated[np.ndarray, "length"]  # int, branches crossed
    share: Annotated[np.ndarray, "length"]  # of all paths
    deleted: Annotated[np.ndarray, "deletion"]  # int, number of deleted residual units
    surviving: Annotated[np.ndarray, "deletion", "length"]  # share of the paths that remain
    attenuation: Annotated[np.ndarray, "g"]
    effective: Annotated[np.ndarray, "g", "end"]  # central 95 % of the total gradient for each g
    num_residual: int  # units with a shortcut
    num_plain: int  # units without one

    @property
    def central(self) -> tuple[float, float]:
        """First and last length of the central 95 % of all paths."""
        return central_range(self.length, self.share)


def path_counts(
    network: Network,
    *,
    deleted: Sequence[int] | None = None,
    attenuations: Sequence[float] = _ATTENUATIONS,
) -> PathCounts:
    """Counts the paths of a network, without running it; Veit et al. 2016, Fig. 6a and 7.

    Args:
      network: any; a plain network has one path.
      deleted: numbers of residual units to delete; None scales the paper's 1, 10 and 20 of 54 to this depth.
      attenuations: values of g for which the effective range is computed.
    """
    network.check_chain()
    residual, plain = count_units(network)
    if deleted is None:
        deleted = sorted({min(max(1, round(share * residual)), residual) for share in _DELETED})
    length = path_lengths(residual, plain)
    ranges = [central_range(length, attenuated_shares(residual, g, plain)) for g in attenuations]
    return PathCounts(
        length=length,
        share=path_shares(residual, plain),
        deleted=np.array(deleted, int),
        surviving=np.array([surviving_share(residual, d, plain) for d in deleted]),
        attenuation=np.array(attenuations, float),
        effective=np.array(ranges),
        num_residual=residual,
        num_plain=plain,
        choices={
            "length of a path": "branches crossed; units that change the shape count as any other",
            "range": "central 95 %",
        },
    )


# --- what the report shows ---


def plot(results: Mapping[str, PathCounts]) -> style.Figure:
    """Left: the lengths of all paths, with their central 95 % as a band. Right: the share of the paths of
    each length that is left after deletions. Networks with the same paths share a line."""
    fig, (left, right) = style.panels(2)
    alike: dict[tuple[int, int], list[str]] = {}
    for label, result in results.items():
        alike.setdefault((result.num_residual, result.num_plain), []).append(label)
    for i, labels in enumerate(alike.values()):
        label, result = ", ".join(labels), results[labels[0]]
        color, units = style.color(i), result.num_residual + result.num_plain
        name, dots = f"{label}, {units} units" if label else "", style.marker(i) + "-"
        left.plot(result.length, 100 * result.share, dots, color=color, label=name)
        low, high = result.central
        left.axvspan(low - 0.5, high + 0.5, color=color, alpha=0.12, lw=0)
        for d, surviving in enumerate(result.surviving):
            line = style.LINES[d % len(style.LINES)]
            name = f"{result.deleted[d]} of {result.num_residual} deleted"
            right.plot(result.length, 100 * surviving, line, color=color, label=name)
    left.set(ylabel="share of all paths (%)")
    right.set(ylabel="paths left (%)", ylim=(-3, 104))
    right.legend(fontsize=8, loc="upper right")
    show_lengths(fig, left, right)
    return fig


def show_lengths(fig: style.Figure, *axes: style.Axes) -> None:
    """Labels the x axes of curves by length, and adds a legend for the labeled curves of the first axes."""
    for ax in axes:
        ax.set_xlabel("length (branches crossed)")
        style.integer_ticks(ax)
    if any(axes[0].get_legend_handles_labels()[1]):
        style.legend_above(fig, axes[0])


def one_path(run: Subject) -> str | None:
    """Why path lengths say nothing about a network, or None."""
    reason = "no unit of this network has a shortcut, so there is one path only, through every unit"
    return None if run.residual else reason


def between(ends: Sequence[float] | np.ndarray) -> str:
    """'5 to 17', or '–' where there is no range."""
    low, high = ends
    if np.isnan([low, high]).any():
        return "–"
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def headline(results: Mapping[str, PathCounts]) -> str:
    """The central 95 % of the path lengths of each network."""
    parts = []
    for label, r in results.items():
        units = r.num_residual + r.num_plain
        parts.append(f"{between(r.central)} of {units} units in {label}")
    return f"95 % of all paths cross {join(parts)}"


def points(label: str, r: PathCounts) -> list[str]:
    """The number of paths, the share that remains after deletions, and the effective lengths for some g."""
    middle = r.num_plain + r.num_residual // 2
    shares = zip(r.surviving[:, r.num_residual // 2], r.deleted.tolist(), strict=True)
    left = [f"{factor(100 * share)} % after {count(d, 'deletion')}" for share, d in shares]
    left[0] = left[0].replace(" after ", " are left after ")
    units = count(r.num_residual, "residual unit")
    plain = f", and {count(r.num_plain, 'unit')} that every path crosses" if r.num_plain else ""
    text = (
        f"{label}: 2{superscript(r.num_residual)} paths through {units}{plain}. Of the paths that cross "
        f"{middle}, {join(left)}."
    )
    ends = {g: between(own) for g, own in zip(r.attenuation, r.effective, strict=True)}
    ranges = [f"{ends[g]} units if g = {factor(g)}" for g in ends if g in (0.25, 0.5, 1.0)]
    if ranges:
        text += (
            " If each branch multiplies the gradient by g and paths do not cancel, 95 % of the gradient "
            f"comes through paths of {join(ranges)}."
        )
    return [text]


def table(r: PathCounts) -> Columns:
    share = (share_between(r.num_residual, low, high, r.num_plain) for low, high in r.effective)
    return {
        "g, left by a branch": map(factor, r.attenuation),
        "effective lengths": map(between, r.effective),
        "share of all paths": (f"{factor(100 * part)} %" for part in share),
    }


STUDY = Study(
    name="path_counts",
    title="How many paths, and how long",
    question=(
        "A residual unit can be crossed by its shortcut or through its branch, so n units make 2ⁿ paths from "
        "the output back to the input. How many branches do they cross, and which remain when units "
        "are deleted? The numbers are computed from the architecture, not measured."
    ),
    code="resjax.analysis.path_counts(run.network)",
    result=PathCounts,
    unsuited=one_path,
    measure=lambda bench: path_counts(bench.run.network),
    cost=nothing,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
