"""Take trained networks apart: ``python -m resjax.analyze --workdir=DIR[,DIR2…] [--studies=lesion,…]``.

Analyzes finished or running runs of ``resjax.train``, several side by side, and writes a report: findings,
figures and tables in one file (report.html), the figures as PNG and PDF, and the numbers as JSON. Runs that
differ only in their seed are shown as one, with means and intervals over seeds: ``--workdir='a/seed*'``, see
``resjax.report.seeds``. The report names each study that a network does not allow, with the reason, and each
study that failed; the others still run. The command can be stopped and restarted: it continues, and finished
studies are not repeated (``resjax.report.kept``).

Before the first study, a table says what each of them will do and how long it will take on this machine. By
default, numbers of examples and of random draws are chosen so that all studies together take about five
minutes: ``--minutes=M`` gives them another time, ``--full`` everything. A rerun with more minutes refines
what is there. The report is written after every study, so it can be read while the others run; it says how
much was measured, and what became too coarse.

A run whose configuration names a network that is none of resjax is opened with ``--allow_code=NAME``, which
imports and runs the module of that name.

``python -m resjax.analyze --network=package.module:make --out=DIR`` takes apart a network that somebody else
made and trained: ``make()`` returns its function, its variables and evaluation examples, as a dictionary or a
``resjax.analysis.Given``. The units that were found in it are printed first.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from resjax import command
from resjax import config as configs
from resjax.models import runs_code
from resjax.report.compute import Done, run_studies
from resjax.report.facts import facts_of, facts_of_report, record_of, title_of
from resjax.report.page import rows_of
from resjax.report.plan import left_out as without
from resjax.report.plan import look, plan, show
from resjax.report.progress import progress
from resjax.report.seeds import Groups, groups_of
from resjax.report.write import Drawn, Report, write
from resjax.studies.budget import MINUTES, Budget
from resjax.studies.catalogue import GROUPS, STUDIES
from resjax.studies.given import Given, load_network
from resjax.studies.options import Options
from resjax.studies.run import Run, load_runs
from resjax.studies.study import Study
from resjax.studies.subject import Subject
from resjax.training.cores import share_cores_to_analyse
from resjax.workdir.paths import split, writable
from resjax.workdir.provenance import provenance
from resjax.workdir.workdir import find
from resjax.workdir.writers import missing


def analyze(
    workdirs: Sequence[str | Path],
    studies: Sequence[str] = (),
    out: str | Path | None = None,
    options: Options | None = None,
    *,
    budget: Budget | None = None,
    allow_code: Sequence[str] = (),
) -> Path:
    """Runs studies on one or more runs and writes the report.

    Args:
      workdirs: folders of the runs, which are compared in this order; ``a/seed*`` stands for all runs that
        match. Runs that differ in their seed only form a group (``resjax.report.seeds``).
      studies: names, see ``resjax.studies.catalogue.STUDIES``; empty for all.
      out: folder of the report; None for ``analysis`` in the first workdir.
      options: options of all studies.
      budget: minutes for all studies together, in which ``options`` are the largest sizes; None to use them
        as they are, without an estimate of the time (``resjax.studies.budget``).
      allow_code: builders outside of resjax that the runs may name, see ``load_run``.

    Returns:
      The path of report.html, which also names the studies that failed.

    Raises:
      ValueError: an unknown study, a repeated workdir, a builder that is not allowed, or no study that could
        be run.
      FileNotFoundError: a workdir without a run, a checkpoint or its data, or a pattern without a match.
    """
    chosen = _chosen(studies)
    folder = writable(out, "--out") if out else None
    runs = load_runs(list(workdirs), allow_code=allow_code)
    where = folder or writable(runs[0].workdir / "analysis", "--out")
    sets = {run.label: run.config.data.name for run in runs}
    notes = []
    if len(set(sets.values())) > 1:
        named = ", ".join(f"{label}: {name}" for label, name in sets.items())
        notes.append(f"The runs used different data ({named}), so their errors can't be compared.")
    notes += filter(None, map(_unreadable, runs))
    for text in notes:
        print(text, file=sys.stderr)
    notes += [text for run in runs for text in run.damaged]  # printed when they were loaded
    own = list(dict.fromkeys(name for run in runs if runs_code(name := run.config.model.name)))
    return _report(
        runs,
        chosen,
        where,
        options or Options(),
        budget,
        arguments_of(workdirs),
        *command.allowing(own),
        left_out=notes,
        seeds=groups_of(runs),
        opening=f"run = resjax.analysis.load_run(workdir{f', allow_code={own}' if own else ''})",
    )


def _unreadable(run: Run) -> str:
    """A sentence on damaged or missing lines of a run's log, or ''."""
    lines, log = run.records.unreadable, run.workdir / "metrics.jsonl"
    listed = ", ".join(map(str, lines[:5])) + (" …" if len(lines) > 5 else "")
    what, are = ("Lines", "are") if len(lines) > 1 else ("Line", "is")
    damaged = f"{what} {listed} of {log} can't be read and {are} left out." if lines else ""
    lacks = missing(log, run.records.last, run.step)
    return " ".join(filter(None, [damaged, lacks and f"In {run.workdir}, {lacks}."]))


def analyze_network(
    network: str | Given | Mapping[str, Any],
    studies: Sequence[str] = (),
    *,
    out: str | Path,
    options: Options | None = None,
    budget: Budget | None = None,
) -> Path:
    """Finds the units of a network that somebody else made and trained, prints them, runs studies on it and
    writes the report, which begins with the units.

    Args:
      network: what ``resjax.analysis.load_network`` takes; given as 'package.module:make', the report's
        commands repeat it.
      studies: names, see ``resjax.studies.catalogue.STUDIES``; empty for all.
      out: folder of the report, in which finished results are kept, too.
      options, budget: as for ``analyze``.

    Returns:
      The path of report.html, which also names the studies that failed.

    Raises:
      ValueError: an unknown study, a network of a wrong form, no units in it, or no study that could be run.
    """
    chosen, folder = _chosen(studies), writable(out, "--out")
    subject = load_network(network, out)
    print(subject.found, flush=True)
    source = subject.source or "package.module:make"
    return _report(
        [subject],
        chosen,
        folder,
        options or Options(),
        budget,
        f"--network={shlex.quote(source)}",
        f"--out={shlex.quote(str(out))}",
        found=subject.found,
        opening=f'run = resjax.analysis.load_network("{source}")',
    )


def _chosen(studies: Sequence[str]) -> list[Study]:
    command.refuse_unknown("studies", studies, STUDIES)
    return [study for name, study in STUDIES.items() if not studies or name in studies]


def _report(
    runs: Sequence[Subject],
    chosen: Sequence[Study],
    out: Path,
    options: Options,
    budget: Budget | None,
    *arguments: str,
    left_out: Sequence[str] = (),
    seeds: Groups | None = None,
    **more: Any,
) -> Path:
    """Runs studies and writes their report, after each of them.

    Args:
      arguments: of the command, before the name of a study.
      left_out: sentences for the report beside those of the studies.
      seeds: groups of runs that differ in their seed only.
      more: further fields of the report.
    """
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    planned = None
    if budget:
        with progress(console) as task, task("estimate of the time") as tell:
            planned = plan(runs, chosen, options, budget, tell)
        show(planned, console)
        omitted = [study for study, _ in planned.left_out]
        chosen = [study for study in chosen if study not in omitted]
        left_out = [*left_out, *without(planned)]
    own = planned.studies if planned else {}
    made, groups = provenance(), seeds or {}
    grouped = {label: group for group, own in groups.items() for label in own}
    empty = Report(
        title=title_of(list(dict.fromkeys(grouped.get(run.label, run.label) for run in runs))),
        results=[],
        runs={run.label: facts_of(run, runs[0]) for run in runs},
        configs={run.label: record_of(run) for run in runs},
        groups=GROUPS,
        left_out=left_out,
        failed=[],
        made=facts_of_report(made),
        provenance=made,
        command={
            study.name: command_of(
                study.name, own[study.name].options if study.name in own else options, *arguments
            )
            for study in chosen
        },
        seeds=groups,
        look=look(planned) if planned else None,
        **more,
    )
    drawn = Drawn()

    def report_of(done: Done, to_come: Sequence[Study] = ()) -> Report:
        return dataclasses.replace(
            empty,
            results=done.shown,
            left_out=[*done.left_out, *left_out],
            failed=done.failed,
            to_come=[study.title for study in to_come],
        )

    def finished(done: Done, to_come: Sequence[Study]) -> None:
        write(report_of(done, to_come), out, drawn)

    done = run_studies(runs, chosen, options, console, plan=planned, finished=finished)
    report = report_of(done)
    if not report.results:
        raise ValueError("no study could be run: " + " ".join([*report.left_out, *report.failed]))
    path = write(report, out, drawn)
    print_findings(report, Console(highlight=False))
    return path


def arguments_of(workdirs: Sequence[str | Path]) -> str:
    """The command's arguments for these workdirs: one, or one for each where a name has a comma."""
    names = [str(workdir) for workdir in workdirs]
    if not any("," in name for name in names):
        names = [",".join(names)]
    return " ".join(f"--workdir={shlex.quote(name)}" for name in names)


def command_of(study: str, options: Options, *arguments: str) -> str:
    """The command that reproduces one study's numbers: with all options that differ from their defaults, and
    with --full, so that no other is chosen."""
    first, *others = arguments
    words = ["python -m resjax.analyze", first, f"--studies={study}", *others, *options.arguments(), "--full"]
    return " ".join(words)


def print_findings(report: Report, console: Console) -> None:
    """The short table and the findings, for the terminal."""
    rows = rows_of(report.summary)
    if rows:  # some studies have no row in the short table
        table = Table("", show_edge=False, pad_edge=False)
        for label in report.summary:
            table.add_column(label, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for finding in report.findings:
        console.print(f"• {finding.headline}", markup=False)
    for text in report.failed:
        console.print(f"failed: {text}", markup=False)


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    workdirs, network, out = split(_WORKDIR.value or []), _NETWORK.value or "", _OUT.value or ""
    if bool(workdirs) == bool(network):
        raise command.Misuse(
            "name either --workdir=DIR, runs of resjax.train, or --network=package.module:make, a network of "
            f"your own{', not both' if workdirs else ''}"
        )
    if network and not out:
        raise command.Misuse("--network needs --out=DIR, the folder of the report")
    options, studies = command.chosen(Options, _OPTIONS), _STUDIES.value or []
    _chosen(studies)  # a wrong name is told before a missing folder
    budget = _budget()
    if network:
        report = analyze_network(network, studies, out=out, options=options, budget=budget)
    else:
        allow_code = _ALLOW_CODE.value or []
        share_cores_to_analyse(configs.load(find(workdirs)[0], allow_code))
        report = analyze(workdirs, studies, out or None, options, budget=budget, allow_code=allow_code)
    print(f"report: {report}")


def _budget() -> Budget:
    """The minutes that the command line gives, and the options that it fixes."""
    if _FULL.value and _MINUTES.present:
        raise command.Misuse("give either --minutes=M, or --full for everything, not both")
    fixed = frozenset(name for name, flag in _OPTIONS.items() if flag.present)
    try:
        return Budget(math.inf if _FULL.value else _MINUTES.value, fixed)
    except ValueError as error:
        raise command.Misuse(error) from error


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_multi_string(
        "workdir",
        None,
        "folders of runs, separated by commas, or each with a --workdir of its own; 'a/seed*' for all that "
        "match",
    )
    _NETWORK = flags.DEFINE_string(
        "network",
        None,
        "'package.module:make', a function that returns a network with examples, instead of runs",
    )
    _STUDIES = flags.DEFINE_list("studies", [], f"any of {', '.join(STUDIES)}; default: all")
    _OUT = flags.DEFINE_string("out", None, "folder of the report; default: <first workdir>/analysis")
    _MINUTES = flags.DEFINE_float(
        "minutes",
        MINUTES,
        "about how long all studies together may take, on this machine: the numbers of examples and of "
        "random draws are chosen so that they fit; an option that is given is kept",
    )
    _FULL = flags.DEFINE_bool("full", False, "everything, with no regard to the time: options as listed here")
    _ALLOW_CODE = command.define_allow_code()
    _OPTIONS = command.define_options(Options)
    command.run(_main)
