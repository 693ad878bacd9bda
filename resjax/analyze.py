"""Take trained networks apart: ``python -m resjax.analyze --workdir=DIR[,DIR2…] [--studies=lesion,…]``.

Analyzes finished or running runs of ``resjax.train``, several side by side, and writes a report: findings,
figures and tables in one file (report.html), the figures as PNG and PDF, and the numbers as JSON. Runs that
differ only in their seed are shown as one, with means and intervals over seeds: ``--workdir='a/seed*'``, see
``resjax.report.seeds``. The report names each study that a network does not allow, with the reason, and each
study that failed; the others still run. The command can be stopped and restarted: it continues, and finished
studies are not repeated (``resjax.report.kept``).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from rich.console import Console
from rich.table import Table

from resjax import command
from resjax import config as configs
from resjax.report.compute import run_studies
from resjax.report.facts import facts_of, facts_of_report, title_of
from resjax.report.page import rows_of
from resjax.report.seeds import groups_of
from resjax.report.write import Report, write
from resjax.studies.catalogue import GROUPS, STUDIES
from resjax.studies.options import Options
from resjax.studies.run import load_runs
from resjax.training.cores import share_cores_to_analyse
from resjax.workdir.provenance import provenance
from resjax.workdir.workdir import find


def analyze(
    workdirs: Sequence[str | Path],
    studies: Sequence[str] = (),
    out: str | Path | None = None,
    options: Options | None = None,
) -> Path:
    """Runs studies on one or more runs and writes the report.

    Args:
      workdirs: folders of the runs, which are compared in this order; ``a/seed*`` stands for all runs that
        match. Runs that differ in their seed only form a group (``resjax.report.seeds``).
      studies: names, see ``resjax.studies.catalogue.STUDIES``; empty for all.
      out: folder of the report; None for ``analysis`` in the first workdir.
      options: options of all studies.

    Returns:
      The path of report.html, which also names the studies that failed.

    Raises:
      ValueError: an unknown study, a repeated workdir, or no study that could be run.
      FileNotFoundError: a workdir without a run, a checkpoint or its data, or a pattern without a match.
    """
    unknown = sorted(set(studies) - set(STUDIES))
    if unknown:
        raise ValueError(f"studies={', '.join(unknown)}; allowed: {', '.join(STUDIES)}")
    chosen = [study for name, study in STUDIES.items() if not studies or name in studies]
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    runs = load_runs(list(workdirs))
    results, left_out, failed = run_studies(runs, chosen, options or Options(), console)
    sets = {run.label: run.config.data.name for run in runs}
    if len(set(sets.values())) > 1:
        named = ", ".join(f"{label}: {name}" for label, name in sets.items())
        left_out.append(f"The runs used different data ({named}), so their errors can't be compared.")
    if not results:
        raise ValueError("no study could be run: " + " ".join([*left_out, *failed]))
    made, groups = provenance(), groups_of(runs)
    grouped = {label: group for group, own in groups.items() for label in own}
    report = Report(
        title=title_of(list(dict.fromkeys(grouped.get(run.label, run.label) for run in runs))),
        results=results,
        runs={run.label: facts_of(run, runs[0]) for run in runs},
        configs={
            run.label: {"step": run.step, "config": run.config.to_dict(), "starts": run.starts}
            for run in runs
        },
        groups=GROUPS,
        left_out=left_out,
        failed=failed,
        made=facts_of_report(made),
        provenance=made,
        command={study.name: command_of(workdirs, study.name, options or Options()) for study in chosen},
        seeds=groups,
    )
    path = write(report, Path(out) if out else runs[0].workdir / "analysis")
    print_findings(report, Console(highlight=False))
    return path


def command_of(workdirs: Sequence[str | Path], study: str, options: Options) -> str:
    """The command that reproduces one study's numbers, with all options that differ from their defaults."""
    folders = shlex.quote(",".join(str(workdir) for workdir in workdirs))
    command = f"python -m resjax.analyze --workdir={folders} --studies={study}"
    return " ".join([command, *options.arguments()])


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
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    if _WORKDIR.value:
        share_cores_to_analyse(configs.load(find(_WORKDIR.value)[0]))
    options = command.chosen(Options, _OPTIONS)
    report = analyze(_WORKDIR.value or [], _STUDIES.value or [], _OUT.value, options)
    print(f"report: {report}")


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_list(
        "workdir", None, "folders of runs, separated by commas; 'a/seed*' for all that match"
    )
    _STUDIES = flags.DEFINE_list("studies", [], f"any of {', '.join(STUDIES)}; default: all")
    _OUT = flags.DEFINE_string("out", None, "folder of the report; default: <first workdir>/analysis")
    _OPTIONS = command.define_options(Options)
    flags.mark_flags_as_required(["workdir"])
    command.run(_main)
