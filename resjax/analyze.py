"""Take trained networks apart: ``python -m resjax.analyze --workdir=DIR[,DIR2…] [--studies=lesion,…]``.

Looks at finished or running runs of ``resjax.train``, several of them side by side, and writes a report with
findings, figures and tables (report.html, one file that holds everything), and beside it the figures as
PNG and PDF and the numbers as JSON. What a network does not allow is left out, and named.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from resjax import command
from resjax.analysis.result import Result
from resjax.analysis.run import Run, load_runs
from resjax.provenance import provenance
from resjax.report import STUDIES, Options, Study
from resjax.report.facts import facts_of, facts_of_report, title_of
from resjax.report.html import rows_of
from resjax.report.write import Report, write


def analyze(
    workdirs: Sequence[str | Path],
    studies: Sequence[str] = (),
    out: str | Path | None = None,
    options: Options | None = None,
) -> Path:
    """Runs studies on one or more runs and writes the report.

    Args:
      workdirs: of the runs, which are compared in the order given.
      studies: names, see ``resjax.report.STUDIES``; none for all.
      out: folder of the report; None for ``analysis`` in the first workdir.
      options: choices for all studies.

    Returns:
      The path of report.html.

    Raises:
      ValueError: an unknown study, a workdir twice, or nothing that could be done.
      FileNotFoundError: a workdir without a run, a checkpoint or its data.
    """
    unknown = sorted(set(studies) - set(STUDIES))
    if unknown:
        raise ValueError(f"studies={', '.join(unknown)}; allowed: {', '.join(STUDIES)}")
    chosen = [study for name, study in STUDIES.items() if not studies or name in studies]
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    runs = load_runs(list(workdirs))
    results, left_out = run_studies(runs, chosen, options or Options(), console)
    sets = {run.label: run.config.data.name for run in runs}
    if len(set(sets.values())) > 1:
        named = ", ".join(f"{label}: {name}" for label, name in sets.items())
        left_out.append(
            f"The runs saw different data ({named}), so their errors can't be compared."
        )
    if not results:
        raise ValueError("nothing could be done: " + " ".join(left_out))
    made = provenance()
    folders = ",".join(str(workdir) for workdir in workdirs)
    report = Report(
        title=title_of([run.label for run in runs]),
        results=results,
        runs={run.label: facts_of(run, runs[0]) for run in runs},
        configs={
            run.label: {"step": run.step, "config": run.config.to_dict(), "starts": run.starts}
            for run in runs
        },
        left_out=left_out,
        made=facts_of_report(made),
        provenance=made,
        command={
            study.name: f"python -m resjax.analyze --workdir={folders} --studies={study.name}"
            for study in chosen
        },
    )
    path = write(report, Path(out) if out else runs[0].workdir / "analysis")
    _print(report, Console(highlight=False))
    return path


def run_studies(
    runs: Sequence[Run], studies: Sequence[Study], options: Options, console: Console
) -> tuple[list[tuple[Study, dict[str, Result]]], list[str]]:
    """Every study on every run that allows it.

    Returns:
      (study, {label: result}) for each study that was possible, and sentences on what was left out.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} batches"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    done, left_out = [], []
    with bar:
        for study in studies:
            results: dict[str, Result] = {}
            for run in runs:
                if reason := study.unsuited(run):
                    left_out.append(f"{study.title}, of {run.label}: {reason}.")
                    console.print(f"left out: {left_out[-1]}", markup=False)
                    continue
                console.print(f"{study.title}: {run.label}", markup=False)
                task = bar.add_task(run.label, total=None)

                def tell(batches: int, of: int, task: int = task) -> None:
                    bar.update(task, completed=batches, total=of)  # type: ignore[arg-type]

                results[run.label] = study.run(run, options, tell)
                bar.remove_task(task)
            if results:
                done.append((study, results))
    return done, left_out


def _print(report: Report, console: Console) -> None:
    """The short table and the findings, for the terminal."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("")
    for label in report.runs:
        table.add_column(label, justify="right")
    for row in rows_of(report.summary):
        table.add_row(*row)
    console.print(table)
    for finding in report.findings:
        console.print(f"• {finding.headline}", markup=False)


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    options = Options(
        max_examples=_MAX_EXAMPLES.value, batch_size=_BATCH_SIZE.value, seed=_SEED.value
    )
    report = analyze(_WORKDIR.value or [], _STUDIES.value or [], _OUT.value, options)
    print(f"report: {report}")


if __name__ == "__main__":
    _DEFAULT = Options()
    _WORKDIR = flags.DEFINE_list("workdir", None, "folders of one or more runs, with commas")
    _STUDIES = flags.DEFINE_list("studies", [], f"of {', '.join(STUDIES)}; default all")
    _OUT = flags.DEFINE_string(
        "out", None, "folder of the report; default: <first workdir>/analysis"
    )
    _MAX_EXAMPLES = flags.DEFINE_integer(
        "max_examples", _DEFAULT.max_examples, "most examples of the evaluation set"
    )
    _BATCH_SIZE = flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "examples at a time")
    _SEED = flags.DEFINE_integer("seed", _DEFAULT.seed, "of everything that is drawn")
    flags.mark_flags_as_required(["workdir"])
    command.run(_main)
