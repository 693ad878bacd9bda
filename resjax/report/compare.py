"""Results of several networks side by side: one finding, one table, one short table.

A study describes one result; these functions describe several, {label: result}. Where a label stands for a
group of runs that differ in their seed only (``resjax.report.seeds``), they say in how many of the seeds a
finding holds, and give means with intervals over seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from resjax.report.seeds import Pooled, Seeds, by_run, have_seeds, runs_in
from resjax.report.texts import merge, pool_cells
from resjax.studies.study import Study
from resjax.studies.words import capital, join

AT_INIT = ", at init"  # ends the name of a table's column with values at initialization


class Finding(NamedTuple):
    """What the numbers say: a headline, and the points that support it, usually one for each network."""

    headline: str
    points: Sequence[str]


class Table(NamedTuple):
    """Numbers behind a figure; every row has one cell for each column, as text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def finding(study: Study, results: Pooled) -> Finding:
    """The finding of ``study`` for ``results``, {label: result or ``Seeds``}."""
    if study.over_seeds and have_seeds(results):
        text, notes = study.over_seeds({k: list(by_run(k, r).values()) for k, r in results.items()})
    else:
        text = _compared(study, results) if study.headline else _clauses(study, results)
        said = [study.notes(own) for own in _one_seed_each(results)]
        notes = said[0] if len(said) == 1 else [text for text, _ in merge([n for own in said for n in own])]
    points = [point for label, result in results.items() for point in _points(study, label, result)]
    return Finding(_sentence(text, results), [*points, *notes])


def _clauses(study: Study, results: Pooled) -> str:
    """One clause for each verdict, or for each network, in the order of ``study.says``."""
    assert study.verdict is not None
    verdicts = {run: study.verdict(result) for run, result in runs_in(results).items()}
    clauses: list[str] = []
    for verdict, clause in study.says.items():
        labels = []
        for label, result in results.items():
            own = by_run(label, result)
            said = [one for run, one in own.items() if verdicts[run] == verdict]
            if said and callable(clause):
                texts = merge([clause(_SLOT, one) for one in said])
                clauses += [text.replace(_SLOT, _counted(label, n, len(own))) for text, n in texts]
            elif said:
                labels.append(_counted(label, len(said), len(own)))
        if labels and not callable(clause):
            clauses.append(clause.format(join(labels)))
    return "; ".join(clauses)


_SLOT = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for a label while numbers in a text are compared


def _counted(label: str, count: int, of: int) -> str:
    """The label; of a group, with the number of its seeds for which something holds."""
    return label if of == 1 else f"{label} ({count} of {of} seeds)"


def _compared(study: Study, results: Pooled) -> str:
    """The headline; with groups, one clause for each that the first, the second, … seeds give."""
    assert study.headline is not None
    texts = [study.headline(own) for own in _one_seed_each(results)]
    if not have_seeds(results):
        return texts[0]
    said = merge([_within(text) for text in texts])
    return "; ".join(f"in {n} of {len(texts)} seeds, {text}" for text, n in said)


def _within(text: str) -> str:
    """A sentence as a part of another."""
    first, space, rest = text.removesuffix(".").partition(" ")
    return f"{first.lower() if first in _USUAL else first}{space}{rest}"


_USUAL = ("The", "At", "In", "After", "No")  # first words that are no names


def _one_seed_each(results: Pooled) -> Iterator[dict[str, Any]]:
    """{label: result} of the first seed of each group, of the second, …, while all groups have one; single
    runs take part in all."""
    columns = {label: list(by_run(label, result).values()) for label, result in results.items()}
    sizes = [len(own) for own in columns.values() if len(own) > 1]
    for k in range(min(sizes, default=1)):
        yield {label: own[k if len(own) > 1 else 0] for label, own in columns.items()}


def _points(study: Study, label: str, result: Any) -> Iterator[str]:
    """The points of each run; of a group, first the means of its cells in the short table."""
    own = by_run(label, result)
    if isinstance(result, Seeds) and (means := _mean_summary(study, result)):
        told = "; ".join(f"{row} {cell}" for row, cell in means.items())
        yield f"{label}, mean over {len(own)} seeds with its 95 % interval: {told}."
    for run, one in own.items():
        yield from study.points(run, one)


def _sentence(text: str, labels: Mapping[str, Any]) -> str:
    """Capitalizes the first letter, unless a label starts the text, and adds a full stop."""
    starts_with_label = any(re.match(rf"{re.escape(label)}(?!\w)", text) for label in labels if label)
    return (text if starts_with_label else capital(text)).removesuffix(".") + "."


Cells = dict[str, list[str]]
"""{name of the column: cells from top to bottom}."""


def table(study: Study, results: Pooled) -> Table:
    """The tables of all results, one below the other; a dash stands for each cell that a result lacks.

    Where the tables of a group have the same rows, by their first column, one table holds the means over
    seeds; otherwise, each run has its own.
    """
    tables: dict[str, Cells] = {}
    for label, result in results.items():
        of_runs = {run: _cells(study, one) for run, one in by_run(label, result).items()}
        if len(of_runs) > 1 and _same_rows(list(of_runs.values())):
            tables[_of_seeds(label, of_runs)] = _pooled(list(of_runs.values()))
        else:
            tables.update(of_runs)
    columns = tuple(dict.fromkeys(column for own in tables.values() for column in own))
    rows = []
    for label, own in tables.items():
        length = len(next(iter(own.values()), []))
        cells = [own.get(column, ["–"] * length) for column in columns]
        rows += [(label, *row) for row in zip(*cells, strict=True)]
    return Table((study.labels, *columns), rows)


def labels_of_rows(results: Pooled) -> dict[str, list[str]]:
    """{label in a figure: labels in ``table``}: its own one, that of its group, and those of its runs; the
    table has some of them."""
    found: dict[str, list[str]] = {}
    for label, result in results.items():
        runs = by_run(label, result)
        group = [_of_seeds(label, runs)] if isinstance(result, Seeds) else []
        found |= {run: [run, *group] for run in runs}
        found[label] = list(dict.fromkeys([label, *group, *runs]))
    return found


def _of_seeds(label: str, runs: Mapping[str, Any]) -> str:
    return f"{label} ({len(runs)} seeds)"


def _cells(study: Study, result: Any) -> Cells:
    """The table of one result. A column that differs at initialization is followed by its values there."""
    own = {column: list(cells) for column, cells in study.table(result).items()}
    if result.initial is None:
        return own
    there = {column: list(cells) for column, cells in study.table(result.initial).items()}
    both: Cells = {}
    for column, cells in own.items():
        both[column] = cells
        if there.get(column, cells) != cells:
            both[f"{column}{AT_INIT}"] = there[column]
    return both


def _same_rows(tables: Sequence[Cells]) -> bool:
    first = tables[0]
    return all(list(own) == list(first) for own in tables) and all(
        next(iter(own.values()), []) == next(iter(first.values()), []) for own in tables
    )


def _pooled(tables: Sequence[Cells]) -> Cells:
    return {
        column: [pool_cells(cells) for cells in zip(*(own[column] for own in tables), strict=True)]
        for column in tables[0]
    }


def summary(study: Study, results: Pooled) -> dict[str, dict[str, str]]:
    """{label: {row: cell}} for the short table; labels without a row are left out."""
    short = {}
    for label, result in results.items():
        group = isinstance(result, Seeds)
        short[label] = _mean_summary(study, result) if group else dict(study.summary(result))
    return {label: rows for label, rows in short.items() if rows}


def _mean_summary(study: Study, seeds: Seeds) -> dict[str, str]:
    """The rows that all seeds have, each with its mean over seeds."""
    own = [study.summary(result) for result in seeds.values()]
    rows = [row for row in own[0] if all(row in one for one in own)]
    return {row: pool_cells([one[row] for one in own]) for row in rows}
