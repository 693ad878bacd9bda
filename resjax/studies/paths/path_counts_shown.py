"""How the numbers of paths are shown; the numbers are those of ``resjax.studies.paths.path_counts``."""

from __future__ import annotations

from collections.abc import Mapping

from resjax.studies.batches import Progress
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.paths import path_counts
from resjax.studies.paths.path_counts import PathCounts
from resjax.studies.paths.path_lengths import share_between
from resjax.studies.run import Run
from resjax.studies.words import count, factor, join

Results = Mapping[str, PathCounts]


def one_path(run: Run) -> str | None:
    """Why path lengths say nothing about a network, or None."""
    if run.residual:
        return None
    return "no unit of this network has a shortcut, so there is one path only, through every unit"


def _run(run: Run, options: Options, progress: Progress | None) -> PathCounts:
    del options, progress
    return path_counts.count_paths(run.network)


def between(ends: tuple[float, float]) -> str:
    """'5 to 17', or '–' where there is no range."""
    low, high = ends
    if low != low or high != high:
        return "–"
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def number_of_paths(num_residual: int) -> str:
    """'2⁵⁴'."""
    return "2" + str(num_residual).translate(_SUPERSCRIPT)


_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def finding(results: Results) -> Finding:
    """How long most paths are, and what deletions leave."""
    parts = [
        f"{between(r.central)} of {r.num_residual + r.num_plain} units in {label}"
        for label, r in results.items()
    ]
    headline = f"Of all paths, 95 % cross {join(parts)}."
    return Finding(headline, [_point(label, r) for label, r in results.items()])


def _point(label: str, r: PathCounts) -> str:
    middle = r.num_plain + r.num_residual // 2
    left = [
        f"{factor(100 * surviving[r.num_residual // 2])} % after {count(int(d), 'deletion')}"
        for d, surviving in zip(r.deleted, r.surviving, strict=True)
    ]
    left[0] = left[0].replace(" after ", " are left after ")
    units = count(r.num_residual, "residual unit")
    plain = f", and {count(r.num_plain, 'unit')} that every path crosses" if r.num_plain else ""
    text = (
        f"{label}: {number_of_paths(r.num_residual)} paths through {units}{plain}. Of the paths that cross "
        f"{middle}, {join(left)}."
    )
    ranges = [
        f"{between((low, high))} units if g = {factor(float(g))}"
        for g, (low, high) in zip(r.attenuation, r.effective, strict=True)
        if g in (0.25, 0.5, 1.0)
    ]
    if ranges:
        text += (
            " If a branch leaves g of a gradient and paths do not cancel, 95 % of it comes through paths "
            f"of {join(ranges)}."
        )
    return text


def table(results: Results) -> Table:
    """One row an attenuation and network."""
    rows = [
        (
            label,
            factor(float(g)),
            between(tuple(ends)),
            f"{factor(100 * share_between(r.num_residual, ends[0], ends[1], r.num_plain))} %",
        )
        for label, r in results.items()
        for g, ends in zip(r.attenuation, r.effective, strict=True)
    ]
    columns = ("network", "g, left by a branch", "effective lengths", "share of all paths")
    return Table(columns, rows)


STUDY = Study(
    name="path_counts",
    title="How many paths, and how long",
    question=(
        "A residual unit can be passed by its shortcut or through its branch, so n units make 2ⁿ paths from "
        "the output back to the input. How many branches do they cross, and which of them are left when "
        "units are deleted? This is counted, not measured."
    ),
    code="resjax.analysis.count_paths(run.network)",
    result=PathCounts,
    unsuited=one_path,
    run=_run,
    plot=path_counts.plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
