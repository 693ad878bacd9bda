"""What a study is: one analysis, and how the report shows it.

A new study is a module of this package with a ``STUDY``, and a line in ``resjax.report.STUDIES``; the command
line, the report and the summary then have it. A study computes in ``run`` only; what it says and draws is
made from results alone, so that results of several runs, or read back from JSON, are shown the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from resjax.analysis.batches import Progress
from resjax.analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resjax.analysis.run import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose for all studies.

    Attributes:
      max_examples: most examples of the evaluation set; a part is spread evenly over it.
      batch_size: examples at a time in inference; results do not depend on it.
      gradient_batches: training batches that gradients are measured on.
      seed: of everything that a study draws.
    """

    max_examples: int = 10_000
    batch_size: int = 128
    gradient_batches: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_examples", "batch_size", "gradient_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; allowed: 1 or more")


class Finding(NamedTuple):
    """What the numbers say: one sentence, and the points behind it, usually one a run."""

    headline: str
    points: Sequence[str]


class Table(NamedTuple):
    """Numbers behind a figure; every row has one cell a column, as text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Study:
    """One analysis and its presentation. ``results`` are always {label of the run: result}.

    Attributes:
      name: for the command line and file names.
      title: of the section.
      question: what it asks, in one or two sentences for a newcomer.
      code: how to compute it in Python, given ``run = load_run(workdir)``.
      result: the type of the results.
      unsuited: run → why it can't be done there, or None.
      run: (run, options, progress) → result.
      plot: results → figure, in the current theme.
      finding: results → what they say; computed, so it says the opposite when the numbers do.
      table: results → the numbers.
      summary: results → {label: {column: text}}, for the short table.
    """

    name: str
    title: str
    question: str
    code: str
    result: type[Result]
    unsuited: Callable[[Run], str | None]
    run: Callable[[Run, Options, Progress | None], Any]
    plot: Callable[[Mapping[str, Any]], Figure]
    finding: Callable[[Mapping[str, Any]], Finding]
    table: Callable[[Mapping[str, Any]], Table]
    summary: Callable[[Mapping[str, Any]], dict[str, dict[str, str]]]
