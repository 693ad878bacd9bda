"""The HTML report: one self-contained file, for screens of any size, light or dark."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from resjax.report.compare import Finding, Table
from resjax.studies.study import Claim, Study

Facts = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Section:
    """One study as the report shows it."""

    study: Study
    finding: Finding
    picture: str  # HTML of the figure
    table: Table
    choices: Mapping[str, Mapping[str, Any]]  # {label of the run: {choice: value}}
    group: str  # the chapter
    command: str  # reproduces this section
    files: Sequence[str]  # figure and data files, relative to the report


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    runs: Mapping[str, Facts]  # {label: {fact: text}}
    summary: Mapping[str, Facts]  # {label: {row: cell}}, the short table
    sections: Sequence[Section]
    left_out: Sequence[str]  # sentences
    failed: Sequence[str]  # sentences
    made: Facts  # date, commit, versions and device of the analysis
    seeds: str = ""  # how groups of runs are shown, if there are any


def render(page: Page) -> str:
    """The page as HTML; it links only to the data and figure files beside it."""
    css = resources.files("resjax.report").joinpath("report.css").read_text("utf-8")
    groups = [(g, list(own)) for g, own in itertools.groupby(page.sections, lambda s: s.group)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(page.title)}</title>
<style>
{css}</style>
</head>
<body>
<main>
<header>
<p class="kind">resjax report</p>
<h1>{escape(page.title)}</h1>
<nav class="findings">
{"".join(_headlines(group, own) for group, own in groups)}</nav>
{_facts(page.summary) if page.summary else ""}
{f'<p class="seeds">{_prose(page.seeds)}</p>' if page.seeds else ""}
</header>
{"".join(_chapter(group, own) for group, own in groups)}
<section id="runs">
<h2>What was run</h2>
{_facts(page.runs) if page.runs else ""}
{_list("Left out", page.left_out)}
{_list("Failed", page.failed)}
<h3>This report</h3>
{_facts({"": page.made})}
</section>
</main>
</body>
</html>
"""


def _list(title: str, sentences: Sequence[str]) -> str:
    points = "".join(f"<li>{escape(text)}</li>\n" for text in sentences)
    return f"<h3>{title}</h3><ul>{points}</ul>" if points else ""


def _headlines(group: str, sections: Sequence[Section]) -> str:
    points = "".join(
        f'<li><a href="#{s.study.name}">{_prose(s.finding.headline)}</a></li>\n' for s in sections
    )
    return f"<h2>{escape(group)}</h2>\n<ul>\n{points}</ul>\n"


def _chapter(group: str, sections: Sequence[Section]) -> str:
    return f'<h2 class="group">{escape(group)}</h2>\n{"".join(map(_section, sections))}'


def _section(section: Section) -> str:
    study, finding = section.study, section.finding
    opening = "" if isinstance(study, Claim) else "run = resjax.analysis.load_run(workdir)\n"
    code = opening + study.code
    choices = merge_choices(section.choices)
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in choices.items())
    files = " · ".join(f'<a href="{escape(f)}">{escape(f)}</a>' for f in section.files)
    points = "".join(f"<li>{_prose(point)}</li>\n" for point in finding.points)
    return f"""<section id="{study.name}">
<h3>{escape(study.title)}</h3>
<p class="question">{escape(study.question)}</p>
<figure>
{section.picture}
</figure>
<p class="finding">{_prose(finding.headline)}</p>
<ul class="points">
{points}</ul>
<details><summary>The numbers</summary>
{_table(section.table)}
</details>
<details><summary>Choices, files, and how to reproduce it</summary>
<dl>{listed}</dl>
<p class="files">{files}</p>
<pre><code>{escape(section.command)}</code></pre>
<p>In Python:</p>
<pre><code>{escape(code)}</code></pre>
</details>
</section>
"""


def _prose(text: str) -> str:
    """Text as HTML, with a no-break space between a number and its percent sign."""
    return escape(text).replace(" %", "\u00a0%")


def merge_choices(choices: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """{choice: text}: once where all runs agree, else with the label of each run."""
    merged = {}
    for name in dict.fromkeys(k for own in choices.values() for k in own):
        values = {label: str(own[name]) for label, own in choices.items() if name in own}
        if len(set(values.values())) == 1:
            merged[name] = next(iter(values.values()))
        else:
            merged[name] = "; ".join(f"{label}: {value}" for label, value in values.items())
    return merged


def rows_of(facts: Mapping[str, Facts]) -> list[tuple[str, ...]]:
    """{label: {fact: text}} as rows (fact, text of the first label, …); a missing text is a dash."""
    names = dict.fromkeys(name for own in facts.values() for name in own)
    return [(name, *(own.get(name, "–") for own in facts.values())) for name in names]


def _facts(facts: Mapping[str, Facts]) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label in facts)
    head = f"<thead><tr><th></th>{head}</tr></thead>" if any(facts) else ""
    rows = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"
        for name, *cells in rows_of(facts)
    )
    return f'<div class="scroll"><table class="facts">{head}<tbody>{rows}</tbody></table></div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>"
    )
