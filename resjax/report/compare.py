"""Results of several networks side by side: one finding, one table, one short table.

A study describes one result; these functions describe several, {label: result}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from resjax.studies.study import Study
from resjax.studies.words import capital, join


class Finding(NamedTuple):
    """What the numbers say: a headline, and the points that support it, usually one for each network."""

    headline: str
    points: Sequence[str]


class Table(NamedTuple):
    """Numbers behind a figure; every row has one cell for each column, as text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def finding(study: Study, results: Mapping[str, Any]) -> Finding:
    """The finding of ``study`` for ``results``, {label: result}."""
    text = study.headline(results) if study.headline else _clauses(study, results)
    points = [point for label, result in results.items() for point in study.points(label, result)]
    return Finding(_sentence(text, results), [*points, *study.notes(results)])


def _clauses(study: Study, results: Mapping[str, Any]) -> str:
    """One clause for each verdict, or for each network, in the order of ``study.says``."""
    assert study.verdict is not None
    verdicts = {label: study.verdict(result) for label, result in results.items()}
    clauses: list[str] = []
    for verdict, clause in study.says.items():
        labels = [label for label in results if verdicts[label] == verdict]
        if callable(clause):
            clauses += [clause(label, results[label]) for label in labels]
        elif labels:
            clauses.append(clause.format(join(labels)))
    return "; ".join(clauses)


def _sentence(text: str, labels: Mapping[str, Any]) -> str:
    """Capitalizes the first letter, unless a label starts the text, and adds a full stop."""
    starts_with_label = any(text.startswith(label) for label in labels if label)
    return (text if starts_with_label else capital(text)).removesuffix(".") + "."


def table(study: Study, results: Mapping[str, Any]) -> Table:
    """The tables of all results, one below the other; a dash stands for each cell that a result lacks."""
    tables = {label: _with_initial(study, result) for label, result in results.items()}
    columns = tuple(dict.fromkeys(column for own in tables.values() for column in own))
    rows = []
    for label, own in tables.items():
        length = len(next(iter(own.values()), []))
        cells = [own.get(column, ["–"] * length) for column in columns]
        rows += [(label, *row) for row in zip(*cells, strict=True)]
    return Table((study.labels, *columns), rows)


def _with_initial(study: Study, result: Any) -> dict[str, list[str]]:
    """The table of one result. A column that differs at initialization is followed by its values there."""
    own = {column: list(cells) for column, cells in study.table(result).items()}
    if result.initial is None:
        return own
    there = {column: list(cells) for column, cells in study.table(result.initial).items()}
    both: dict[str, list[str]] = {}
    for column, cells in own.items():
        both[column] = cells
        if there.get(column, cells) != cells:
            both[f"{column}, at init"] = there[column]
    return both


def summary(study: Study, results: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{label: {row: cell}} for the short table; labels without a row are left out."""
    short = {label: dict(study.summary(result)) for label, result in results.items()}
    return {label: rows for label, rows in short.items() if rows}
