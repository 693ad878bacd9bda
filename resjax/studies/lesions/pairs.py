"""Deletions of all pairs of units, and of all runs of consecutive units: which units depend on each other.

*Question.* Does the harm of two deletions add up? Let rise(S) be the error (or the loss) without the
units of S minus that of the intact network. The interaction of two units is

    rise({i, j}) − rise({i}) − rise({j}).

Near 0, each unit contributes independently of the other. Above 0, one compensates for the other: the network
works without either, but not without both. Below 0, either the two contribute only together, so without one
the other is useless, or each deletion alone already breaks the network: an error can't rise to chance twice.
The rises tell these cases apart, and the loss has no such ceiling.

Removing a run of consecutive units makes a network shallower (Gromov et al. 2024 do so in language models).
Does a run cost as much as the same number of random units (``deletions``)?

*Protocol.* As for single deletions (``lesion``). A run with a unit that can't be deleted is left out.

*Reading it.* An interaction holds for these examples and this one network. The length of the longest run has
an interval over examples (``resjax.studies.counts``), an interaction has none. One example changes the error
by 1 ÷ (number of examples). The largest of n²/2 numbers is partly chance.

*Cost.* About n² deletions; because shared prefixes run once (``prefixes``), they take n³/3 unit evaluations.
Use few examples. With ``recalibrate_on``, and where other connections bypass units (``Network.chained``),
nothing is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import counts, pointing, style, verdicts
from resjax.studies.batches import Inference
from resjax.studies.costs import Cost, evaluated
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.known import KnownScores, known_scores
from resjax.studies.lesions.passes import of_rows
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.sets import delete_subsets
from resjax.studies.lesions.subsets import candidates, pairs_and_runs
from resjax.studies.options import Options
from resjax.studies.spread import intact_value
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import columns, count, percent


def pairs(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    recalibrate_on: Any = None,
    known: KnownScores | None = None,
    **how: Unpack[Inference],
) -> Deletions:
    """Deletes every pair of units, every run of consecutive units, and each unit alone; see ``pair_matrix``,
    ``run_matrix`` and ``interaction``. Arguments and errors are those of ``delete_subsets``."""
    allowed, _ = candidates(network, variables, images)
    given = network, variables, images, labels, pairs_and_runs(allowed)
    return delete_subsets(*given, recalibrate_on=recalibrate_on, known=known, **how)


def pair_matrix(result: Deletions, what: str = "error") -> np.ndarray:
    """[unit, unit], symmetric: i and j deleted; on the diagonal, i alone; NaN where not measured."""
    matrix = _by_ends(result, what, (result.number >= 1) & (result.number <= 2))
    return np.where(np.isnan(matrix), matrix.T, matrix)


def run_matrix(result: Deletions, what: str = "error") -> np.ndarray:
    """[first, last]: all units from first to last deleted; NaN below the diagonal."""
    first, last = _ends(result)
    return _by_ends(result, what, result.number == last - first + 1)


def interaction(result: Deletions, what: str = "error") -> np.ndarray:
    """rise({i, j}) − rise({i}) − rise({j}), [unit, unit], symmetric; the diagonal is NaN."""
    rise = pair_matrix(result, what) - intact_value(result, what)
    alone = np.diag(rise)
    together = rise - alone[:, None] - alone[None, :]
    np.fill_diagonal(together, np.nan)
    return together


def _ends(result: Deletions) -> tuple[np.ndarray, np.ndarray]:
    """int [deletion]: the first and the last deleted unit."""
    return result.deleted.argmax(1), len(result.unit) - 1 - result.deleted[:, ::-1].argmax(1)


def _by_ends(result: Deletions, what: str, chosen: np.ndarray) -> np.ndarray:
    """[first deleted unit, last] of the chosen deletions; NaN elsewhere."""
    matrix = np.full((len(result.unit), len(result.unit)), np.nan)
    first, last = _ends(result)
    matrix[first[chosen], last[chosen]] = getattr(result, what)[chosen]
    return matrix


# --- what the report shows ---


def plot(results: Mapping[str, Deletions]) -> style.Figure:
    """One row per network. Left: interaction of each pair of units; right: error without each run."""
    fig, cells = style.panels(2 * len(results), columns=2, height=1, wide=0.92)
    for (label, result), left, right in zip(results.items(), cells[::2], cells[1::2], strict=True):
        together, run = 100 * interaction(result), 100 * run_matrix(result)
        most = max(float(np.nanmax(np.abs(together), initial=0.0)), 1.0)
        name = f"{label}: " if label else ""
        _heat(left, together, "PuOr_r", (-most, most), f"{name}two units, interaction (points)")
        _heat(right, run.T, "viridis", (0, 100), f"{name}runs of neighbours, error (%)")
        at = 1 + np.arange(len(result.unit))
        pointing.cells(left, label, result.unit, at, together, "interaction (points)")
        pointing.cells(right, label, result.unit, at, run.T, "error (%)")
        left.set(xlabel="unit", ylabel="unit")
        right.set(xlabel="first deleted", ylabel="last deleted")
    return fig


def _heat(ax: style.Axes, values: np.ndarray, colors: str, limits: tuple[float, float], title: str) -> None:
    low, high = limits
    ends = (0.5, len(values) + 0.5)  # units are counted from 1
    image = ax.imshow(values, colors, vmin=low, vmax=high, extent=(*ends, *ends[::-1]))
    ax.set_title(title)
    ax.grid(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.9)
    bar.outline.set_visible(False)


# About n² deletions: enough examples to resolve one point of error, few enough to run quickly.
MOST_EXAMPLES, MOST_UNITS = 200, 150
MOST_PAIRS = 20  # of each network in the table
# A network is "additive" where this share of its pairs adds up to within one point.
ADDITIVE = 0.5


def additive(result: Deletions) -> float:
    """Share of pairs whose errors add up to within one percentage point; NaN without a pair."""
    together = interaction(result)
    together = together[~np.isnan(together)]
    return float(np.mean(np.abs(together) <= verdicts.MAY_GO + 1e-9)) if len(together) else float("nan")


def longest_run(result: Deletions) -> int:
    """Length of the longest run whose deletion costs at most one percentage point; 0 if there is none."""
    return _longest(result, verdicts.spared(result.error, result.intact_error))


def _longest(result: Deletions, harmless: np.ndarray) -> int:
    """Length of the longest run among the ``harmless`` deletions, bool [deletion]."""
    first, last = _ends(result)
    return int(np.max(result.number[harmless & (result.number == last - first + 1)], initial=0))


def _interval(result: Deletions) -> str:
    """' (3 to 6)', the interval of ``longest_run`` over test sets."""
    return counts.between(counts.ends(lambda harmless: _longest(result, harmless), result.spared))


def _best_run(result: Deletions, length: int) -> tuple[str, float] | None:
    """Name and error of the least harmful run of this length; None if no such run can be deleted."""
    error = np.diag(run_matrix(result), length - 1)
    if np.isnan(error).all():
        return None
    first = int(np.nanargmin(error))
    units = result.unit[first : first + length]
    return units[0] if length == 1 else f"{units[0]} to {units[-1]}", float(error[first])


def verdict(result: Deletions) -> str:
    """Whether the cost of two deletions is the sum of their costs."""
    if verdicts.untrained(result):
        return "untrained"
    if np.nanmedian(np.diag(pair_matrix(result))) > verdicts.LEARNED * result.chance_error:
        return "broken"
    return "additive" if additive(result) >= ADDITIVE else "dependent"


def points(label: str, result: Deletions) -> list[str]:
    together, error = interaction(result), pair_matrix(result)
    values = together[np.triu(~np.isnan(together))]
    text = f"{label}: {percent(result.intact_error)} error when intact. "
    if len(values):
        i, j = np.unravel_index(int(np.nanargmax(together)), together.shape)
        above = together[i, j] > 0
        most = "Largest excess over the sum" if above else "No pair costs more than its sum; closest"
        more = percent(float(np.mean(values > verdicts.MAY_GO + 1e-9)))
        text += (
            f"Errors add up to within one point in {percent(additive(result))} of "
            f"{count(len(values), 'pair')}; {more} cost more than that. {most}: {result.unit[i]} and "
            f"{result.unit[j]}, {percent(error[i, j])} without both, {percent(error[i, i])} and "
            f"{percent(error[j, j])} without one. "
        )
    length = longest_run(result)
    if not length or not (best := _best_run(result, length)):
        return [text + "No deletion costs at most one percentage point."]
    return [
        f"{text}The longest run that can be deleted at a cost of at most one percentage point has "
        f"length {length}{_interval(result)}: {best[0]}, {percent(best[1])}."
    ]


def table(result: Deletions) -> Columns:
    """The pairs with the largest interactions, and the least harmful run of each length."""
    together, error, n = interaction(result), pair_matrix(result), len(result.unit)
    i, j = np.nonzero(np.triu(~np.isnan(together)))
    order = np.argsort(-np.abs(together[i, j]), kind="stable")[:MOST_PAIRS]
    rows = [
        (
            f"{result.unit[a]} and {result.unit[b]}",
            percent(error[a, b]),
            f"{percent(error[a, a])}, {percent(error[b, b])}",
            f"{100 * together[a, b]:+.1f}",
        )
        for a, b in zip(i[order], j[order], strict=True)
    ]
    for length in range(2, n + 1):
        if best := _best_run(result, length):
            rows.append((f"best run of {length}: {best[0]}", percent(best[1]), "", ""))
    return columns(("deleted", "error", "each alone", "interaction (points)"), rows)


def summary(result: Deletions) -> dict[str, str]:
    if verdicts.untrained(result):
        return {}
    return {"neighbours that may go together": count(longest_run(result), "unit") + _interval(result)}


def unsuited(run: Subject) -> str | None:
    n = verdicts.num_deletable(run)
    if n == 1:
        return "only one unit of this network can be deleted"
    if n > MOST_UNITS:
        made = f"its {n} units make about {n**2:,} pairs and runs"
        return f"{made}; choose some, and use resjax.analysis.delete_subsets"
    return verdicts.cannot_delete(run)


def measure(bench: Bench) -> Deletions:
    given = bench.evaluation(MOST_EXAMPLES)
    result = pairs(*given, known=known_scores(bench), **bench.how)
    many = f"{len(result.error):,} deletions"
    bench.choices["data"] += f"; at most {MOST_EXAMPLES}, because of the {many}"
    return result


def cost(run: Subject, options: Options) -> Cost:
    count = evaluated(run, options, MOST_EXAMPLES)
    return Cost(evaluated=count) + of_rows(run.network, deleting(pairs_and_runs(run.deletable)), count)


STUDY = Study(
    name="pairs",
    title="Delete pairs, and runs of neighbours",
    question=(
        "Do units compensate for one another? Each pair of units is deleted together and compared with the "
        "single deletions. Each run of consecutive units is deleted from the trained network, too."
    ),
    code=f"resjax.analysis.pairs(*run.evaluation({MOST_EXAMPLES}), loss=run.loss)",
    result=Deletions,
    unsuited=unsuited,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "additive": "in {}, most pairs of units cost the sum of their single deletions, within one point",
        "dependent": "in {}, most pairs of units cost more or less than the sum of their single deletions",
        "broken": "one deleted unit already breaks {}, so a second can't add much",
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    table=table,
    summary=summary,
)
