"""Writes a report: report.html, figures as PNG and PDF, one JSON file for each study."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from resjax.data.files import read_json
from resjax.discovery import Found
from resjax.report import compare
from resjax.report import found as units
from resjax.report import page as html
from resjax.report.compare import Finding
from resjax.report.compute import KEPT
from resjax.report.figures import picture, save
from resjax.report.overlay import draw
from resjax.report.seeds import Groups, Pooled, explained, pool
from resjax.studies.result import Result
from resjax.studies.study import Claim, Study
from resjax.workdir import atomic
from resjax.workdir.stopping import phase

Results = Mapping[str, Result]
"""{label of the run: result}."""
Summary = dict[str, dict[str, str]]
"""{label: {row: cell}}."""
_LONGEST = 1 << 28  # bytes of a study's file, which holds the results of all runs


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of a report."""

    title: str
    results: Sequence[tuple[Study, Results]]  # in order; each has one result or more
    runs: Mapping[str, Mapping[str, str]]  # {label: {fact: text}}; empty for claims
    configs: Mapping[str, Mapping[str, Any]]  # {label: configuration and starts of the run, as JSON}
    groups: Mapping[str, str]  # {study: chapter}
    left_out: Sequence[str]  # sentences: studies that runs do not allow, and why
    failed: Sequence[str]  # sentences: studies that ended with an error
    made: Mapping[str, str]  # {fact: text} of the analysis itself
    provenance: Mapping[str, Any]  # the same, as JSON
    command: Mapping[str, str]  # {study: the command that reproduces its section}
    seeds: Groups = dataclasses.field(default_factory=dict)  # groups of runs that are shown as one
    found: Found | None = None  # in a given network
    opening: str = "run = resjax.analysis.load_run(workdir)"  # what Python needs before a study's code
    look: html.Look | None = None  # how much was measured; None: as the options say
    to_come: Sequence[str] = ()  # titles of the studies that are not finished yet

    @property
    def shown(self) -> list[tuple[Study, Pooled]]:
        """``results`` with one entry for each group."""
        return [(study, pool(results, self.seeds)) for study, results in self.results]

    @property
    def findings(self) -> list[Finding]:
        """One finding for each study."""
        return [compare.finding(study, pooled) for study, pooled in self.shown]

    @property
    def summary(self) -> dict[str, dict[str, str]]:
        """{label: {row: cell}} of all studies, for the short table."""
        return self.merged([compare.summary(study, pooled) for study, pooled in self.shown])

    def merged(self, summaries: Iterable[Summary]) -> Summary:
        """The summaries of studies as one."""
        grouped = {run: label for label, runs in self.seeds.items() for run in runs}
        merged: Summary = {grouped.get(run, run): {} for run in self.runs}
        for summary in summaries:
            for label, rows in summary.items():
                merged.setdefault(label, {}).update(rows)
        heads = {label: f"{label}, n = {len(runs)} seeds" for label, runs in self.seeds.items()}
        return {heads.get(label, label): rows for label, rows in merged.items()}


@dataclasses.dataclass
class Drawn:
    """What is drawn of a report, so that one which grows study by study draws each of them once."""

    studies: dict[str, tuple[html.Section, Summary]] = dataclasses.field(default_factory=dict)
    found: html.FoundSection | None = None


def write(report: Report, out: Path, drawn: Drawn | None = None) -> Path:
    """Writes everything under ``out``, each file whole or not at all; returns the path of report.html.

    Args:
      drawn: what an earlier call with a part of the same studies has drawn, which is not repeated; this call
        adds what it draws.
    """
    with phase("the report was written", KEPT):
        return _write(report, out, Drawn() if drawn is None else drawn)


def _write(report: Report, out: Path, drawn: Drawn) -> Path:
    for (study, results), (_, pooled) in zip(report.results, report.shown, strict=True):
        if study.name not in drawn.studies:
            section = _section(report, out, study, results, pooled)
            drawn.studies[study.name] = section, compare.summary(study, pooled)
    if report.found and not drawn.found:
        drawn.found = _found(report.found, out)
    shown = [drawn.studies[study.name] for study, _ in report.results]
    page = html.Page(
        title=report.title,
        runs=report.runs,
        summary=report.merged(summary for _, summary in shown),
        sections=[section for section, _ in shown],
        left_out=report.left_out,
        failed=report.failed,
        made=report.made,
        seeds=explained(report.seeds),
        found=drawn.found,
        look=report.look,
        to_come=report.to_come,
    )
    path = out / "report.html"
    atomic.write(path, html.render(page))
    return path


def _section(report: Report, out: Path, study: Study, results: Results, pooled: Pooled) -> html.Section:
    """Writes the figures and the data of a study, and shows them."""
    finding, drawn = compare.finding(study, pooled), partial(draw, study, pooled)
    table = compare.table(study, pooled)
    figures = save(drawn, out / "figures", study.name)
    data = out / f"{study.name}.json"
    atomic.write(data, json.dumps(_data(report, study, results), indent=1) + "\n")
    return html.Section(
        study=study,
        finding=finding,
        picture=picture(drawn, f"{study.title}. {finding.headline}", table, compare.labels_of_rows(pooled)),
        table=table,
        choices={label: result.choices for label, result in results.items()},
        group=report.groups[study.name],
        command=report.command[study.name],
        code=study.code if isinstance(study, Claim) else f"{report.opening}\n{study.code}",
        files=[path.relative_to(out).as_posix() for path in (data, *figures)],
    )


def _found(found: Found, out: Path) -> html.FoundSection:
    """Writes found.json and the figure of the units, and shows them."""
    draw, said = partial(units.plot, found), Finding(units.headline(found), units.points(found))
    data = out / "found.json"
    atomic.write(data, json.dumps(units.to_json(found), indent=1) + "\n")
    files = [data, *save(draw, out / "figures", "found")]
    table = units.table(found)
    return html.FoundSection(
        finding=said,
        picture=picture(draw, f"{html.FOUND}. {said.headline}", table, {}),
        table=table,
        files=[path.relative_to(out).as_posix() for path in files],
    )


def _data(report: Report, study: Study, results: Results) -> dict[str, Any]:
    return {
        "study": study.name,
        "made": report.provenance,
        "seeds": {label: [run for run in runs if run in results] for label, runs in report.seeds.items()},
        "runs": {
            label: {**report.configs.get(label, {}), "result": result.to_json()}
            for label, result in results.items()
        },
    }


def read(path: Path, study: Study) -> dict[str, Result]:
    """The results in a study's JSON file, by label of the run.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it belongs to another study, or is damaged.
    """
    try:
        remedy = "Make it again with python -m resjax.analyze or resjax.claims"
        data = read_json(path, dict, remedy, _LONGEST)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} does not exist; make it with python -m resjax.analyze or resjax.claims"
        ) from error
    if data.get("study") != study.name:
        raise ValueError(f"{path} holds the study {data.get('study')!r}, not {study.name!r}")
    return {label: study.result.from_json(run["result"]) for label, run in data["runs"].items()}
