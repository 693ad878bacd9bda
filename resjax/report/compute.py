"""Running studies and claims: with progress, stoppable, and without doing finished work again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from resjax.analysis.batches import Progress
from resjax.analysis.result import Result
from resjax.analysis.run import Run
from resjax.report import kept
from resjax.report.study import Claim, Options, Presentation, Study
from resjax.stopping import Stopped, StopRequest

Shown = list[tuple[Presentation, dict[str, Result]]]
"""What there is to show: (study or claim, {label: result})."""


def run_studies(
    runs: Sequence[Run], studies: Sequence[Study], options: Options, console: Console
) -> tuple[Shown, list[str]]:
    """Every study on every run that allows it; finished ones are read back.

    Returns:
      (study, {label: result}) for each study that was possible, and sentences on what was left out.

    Raises:
      Stopped: a signal came; what was finished is kept.
    """
    done: Shown = []
    left_out = []
    with _progress(console) as task:
        for study in studies:
            results: dict[str, Result] = {}
            for run in runs:
                name = f"{study.title}: {run.label}"
                try:
                    if reason := study.unsuited(run):
                        raise ValueError(reason)
                    result = kept.load(run, study, options)
                    if result is not None:
                        console.print(f"{name} (done before)", markup=False)
                    else:
                        with task(name) as tell:
                            result = study.run(run, options, tell)
                        try:
                            kept.save(run, study, options, result)
                        except OSError as error:  # such as somebody else's run
                            console.print(f"not kept: {error}", markup=False)
                except ValueError as error:  # what an analysis refuses; the others go on
                    left_out.append(f"{study.title}, of {run.label}: {str(error).rstrip('.')}.")
                    console.print(f"left out: {left_out[-1]}", markup=False)
                else:
                    results[run.label] = result
            if results:
                done.append((study, results))
    return done, left_out


def run_claims(claims: Sequence[Claim], smoke: bool, seed: int, console: Console) -> Shown:
    """Every claim in turn.

    Raises:
      Stopped: a signal came.
    """
    done: Shown = []
    with _progress(console) as task:
        for claim in claims:
            with task(claim.title) as tell:
                done.append((claim, dict(claim.run(smoke, seed, tell))))
    return done


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], AbstractContextManager[Progress]]]:
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with StopRequest() as stop, bar:
        yield lambda name: _task(name, bar, console, stop)


@contextmanager
def _task(name: str, bar: Bar, console: Console, stop: StopRequest) -> Iterator[Progress]:
    console.print(name, markup=False)
    row = bar.add_task("", total=None)

    def tell(done: int, of: int) -> None:
        bar.update(row, completed=done, total=of)
        if stop.name:
            raise Stopped(f"{stop.name}: stopped in {name!r}; what was finished before is kept")

    try:
        yield tell
    finally:
        bar.remove_task(row)
