"""The HTML report: one self-contained file, for screens of any size, light or dark."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from resjax.report.compare import Finding, Table
from resjax.studies.study import Study

Facts = Mapping[str, str]
FOUND = "What was found"
# The page's script shows it where there are figures that answer the pointer.
HINT = (
    "Point at a unit in a figure, or tap it: a box shows its numbers, and all figures highlight this unit. "
    "In brackets are 95 % intervals. A click keeps the highlight until the next click or Escape. With the "
    "keyboard, Tab chooses a figure and the arrow keys choose a unit."
)


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
    code: str  # the same in Python
    files: Sequence[str]  # figure and data files, relative to the report


@dataclasses.dataclass(frozen=True)
class FoundSection:
    """What was found in a given network, as the report shows it."""

    finding: Finding
    picture: str  # HTML of the figure
    table: Table
    files: Sequence[str]  # figure and data files, relative to the report


@dataclasses.dataclass(frozen=True)
class Look:
    """How much was measured: all that there is, or what some minutes allow."""

    headline: str  # 'Quick look (5 minutes)'
    notes: Sequence[str]  # what is too coarse
    table: Table  # the sizes of each study


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
    found: FoundSection | None = None  # of a given network
    look: Look | None = None  # None: the sizes were given
    to_come: Sequence[str] = ()  # titles of the studies that are not finished yet


def render(page: Page) -> str:
    """The page as HTML; it links only to the data and figure files beside it."""
    css, script = map(_file, ("report.css", "pointed.js"))
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
{_found_headline(page.found) if page.found else ""}
{"".join(_headlines(group, own) for group, own in groups)}</nav>
{_facts(page.summary) if page.summary else ""}
{f'<p class="seeds">{_prose(page.seeds)}</p>' if page.seeds else ""}
{_state(page)}<p class="hint" hidden>{HINT}</p>
</header>
{_found(page.found) if page.found else ""}
{"".join(_chapter(group, own) for group, own in groups)}
<section id="runs">
<h2>What was run</h2>
{_facts(page.runs) if page.runs else ""}
{_list("Left out", page.left_out)}
{_list("Failed", page.failed)}
{_sizes(page.look) if page.look else ""}
<h3>This report</h3>
{_facts({"": page.made})}
</section>
</main>
<script type="module">
{script}</script>
</body>
</html>
"""


def _file(name: str) -> str:
    return resources.files("resjax.report").joinpath(name).read_text("utf-8")


def _state(page: Page) -> str:
    """Which look it is, and what is not finished yet."""
    texts = [f"{page.look.headline}. {' '.join(page.look.notes)}"] if page.look else []
    if page.to_come:
        texts.append(f"Not finished yet: {', '.join(page.to_come)}.")
    return "".join(f'<p class="look">{_prose(text.strip())}</p>\n' for text in texts)


def _sizes(look: Look) -> str:
    return f"<h3>How much was measured: {escape(look.headline)}</h3>{_table(look.table)}"


def _list(title: str, sentences: Sequence[str]) -> str:
    points = "".join(f"<li>{escape(text)}</li>\n" for text in sentences)
    return f"<h3>{title}</h3><ul>{points}</ul>" if points else ""


def _found_headline(found: FoundSection) -> str:
    return _linked(FOUND, [("found", found.finding.headline)])


def _headlines(group: str, sections: Sequence[Section]) -> str:
    return _linked(group, [(s.study.name, s.finding.headline) for s in sections])


def _linked(group: str, headlines: Sequence[tuple[str, str]]) -> str:
    """A chapter's headlines, each a link to its section: (id of the section, text)."""
    points = "".join(f'<li><a href="#{name}">{_prose(text)}</a></li>\n' for name, text in headlines)
    return f"<h2>{escape(group)}</h2>\n<ul>\n{points}</ul>\n"


def _chapter(group: str, sections: Sequence[Section]) -> str:
    return f'<h2 class="group">{escape(group)}</h2>\n{"".join(map(_section, sections))}'


def _found(found: FoundSection) -> str:
    return f"""<section id="found">
<h2>{FOUND}</h2>
<p class="question">The residual units of the function, from the input to the logits. All studies below take
the network apart at these units, so check first that they are those of your network.</p>
<figure>
{found.picture}
</figure>
<p class="finding">{_prose(found.finding.headline)}</p>
{_points(found.finding.points)}
{_table(found.table, "units")}
<p class="files">{_links(found.files)}</p>
</section>
"""


def _section(section: Section) -> str:
    study, finding = section.study, section.finding
    choices = merge_choices(section.choices)
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in choices.items())
    return f"""<section id="{study.name}">
<h3>{escape(study.title)}</h3>
<p class="question">{escape(study.question)}</p>
<figure>
{section.picture}
</figure>
<p class="finding">{_prose(finding.headline)}</p>
{_points(finding.points)}
<details><summary>The numbers</summary>
{_table(section.table)}
</details>
<details><summary>Choices, files, and how to reproduce it</summary>
<dl>{listed}</dl>
<p class="files">{_links(section.files)}</p>
<pre><code>{escape(section.command)}</code></pre>
<p>In Python:</p>
<pre><code>{escape(section.code)}</code></pre>
</details>
</section>
"""


def _points(points: Sequence[str]) -> str:
    listed = "".join(f"<li>{_prose(point)}</li>\n" for point in points)
    return f'<ul class="points">\n{listed}</ul>'


def _links(files: Sequence[str]) -> str:
    return " · ".join(f'<a href="{escape(f)}">{escape(f)}</a>' for f in files)


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


def _table(table: Table, kind: str = "numbers") -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>"
    )
