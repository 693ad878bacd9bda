"""Runs studies and claims: shows progress, can be stopped, and does not repeat finished work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exc
from typing import NamedTuple

from rich.console import Console

from resjax.cpu.memory import ENOUGH, forget_programs
from resjax.network.refusal import Refusal
from resjax.report import kept
from resjax.report.kept_scores import KeptScores
from resjax.report.plan import Plan
from resjax.report.progress import progress
from resjax.studies.options import ClaimOptions, Options, Recorded
from resjax.studies.result import Result
from resjax.studies.study import Claim, Study
from resjax.studies.subject import Subject
from resjax.studies.words import join
from resjax.workdir.failures import explained

KEPT = "finished results are kept; the same command continues"
Shown = list[tuple[Study, dict[str, Result]]]
"""The contents of a report: (study or claim, {label: result})."""


class Done(NamedTuple):
    """The outcome of ``run_studies``."""

    shown: Shown  # each study that was possible, with its results
    left_out: list[str]  # sentences: studies that a run does not allow
    failed: list[str]  # sentences: studies that ended with an error


def run_studies(
    runs: Sequence[Subject],
    studies: Sequence[Study],
    options: Options,
    console: Console,
    *,
    plan: Plan | None = None,
    finished: Callable[[Done, Sequence[Study]], None] = lambda done, to_come: None,
) -> Done:
    """Runs every study on every run, or given network, that allows it. Finished results are loaded; if one
    study fails, the others still run.

    Args:
      options: of all studies that ``plan`` does not name.
      plan: the options of each study, and its estimated time.
      finished: is called with what is done and the studies to come, after each study that has a result but
        the last one.

    Raises:
      Stopped: SIGTERM or Ctrl-C; finished results are kept.
    """
    planned = plan.studies if plan else {}
    total = sum(sum(one.seconds.values()) for one in planned.values())
    done: Shown = []
    left_out: list[str] = []
    failed: list[str] = []
    stored = KeptScores(options.batch_size)
    with progress(console, KEPT, total) as task:
        for i, study in enumerate(studies):
            one = planned.get(study.name)
            own = one.options if one else options
            results: dict[str, Result] = {}
            refused: dict[str, list[str]] = {}  # {reason: labels}, because seeds share their reasons
            for run in runs:
                name = f"{study.title}: {run.label}"
                try:
                    if reason := study.unsuited(run):
                        raise Refusal(reason)
                    result = kept.load(run, study, own)
                    if result is not None:
                        console.print(f"{name} (done before)", markup=False)
                    else:
                        recorded, before = Recorded(own), kept.earlier(run, study, own)
                        with task(name, one.seconds.get(run.label, 0.0) if one else 0.0) as tell:
                            result = study.run(run, recorded, tell, before, stored)
                        # Scores first, so that whoever finds the result finds them, too.
                        with _saving("scores", console):
                            stored.save(run.kept)
                        with _saving("result", console):
                            kept.save(run, study, own, result, recorded.read)
                except Refusal as error:
                    refused.setdefault(str(error).rstrip("."), []).append(run.label)
                    console.print(f"left out: {name}: {error}", markup=False)
                except Exception as error:
                    # A ValueError of a study is a fault of its code: what users can mend is a Refusal.
                    said = None if isinstance(error, ValueError) else explained(error, "--batch_size")
                    what = said or f"{type(error).__name__}: {error}"
                    failed.append(f"{study.title}, of {run.label}: {what.rstrip('.')}.")
                    trace = "" if said else format_exc()
                    console.print(f"{trace}failed: {failed[-1]}", markup=False)
                else:
                    results[run.label] = result
                forget_programs(ENOUGH)  # also where the study failed
            left_out += [f"{study.title}, of {join(labels)}: {reason}." for reason, labels in refused.items()]
            if results:
                done.append((study, results))
                if to_come := studies[i + 1 :]:
                    finished(Done(done, left_out, failed), to_come)
    return Done(done, left_out, failed)


@contextmanager
def _saving(what: str, console: Console) -> Iterator[None]:
    """Where a file can't be written, as in another user's folder, a line says so, and the work goes on."""
    try:
        yield
    except OSError as error:
        console.print(f"{what} not saved: {explained(error)}", markup=False)


def run_claims(claims: Sequence[Claim], options: ClaimOptions, out: Path, console: Console) -> Shown:
    """Runs every claim in turn; finished results are loaded from ``out``, the folder of the report.

    Raises:
      Stopped: SIGTERM or Ctrl-C; finished results are kept.
    """
    done: Shown = []
    with progress(console, KEPT) as task:
        for claim in claims:
            results = kept.load_claim(out, claim, options)
            if results is not None:
                console.print(f"{claim.title} (done before)", markup=False)
            else:
                with task(claim.title) as tell:
                    results = dict(claim.measure(options, tell))
                kept.save_claim(out, claim, options, results)
            done.append((claim, results))
    return done
