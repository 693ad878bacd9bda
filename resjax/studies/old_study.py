"""What a study is: one analysis, and how the report shows it.

A new study is a module of this package with a ``STUDY``, and a line in ``resjax.report.STUDIES``; the command
line, the report and the summary then have it. A study computes in ``run`` only; what it says and draws is
made from results alone, so that results of several runs, or read back from JSON, are shown the same way.

A *claim* is shown like a study but needs no run of the user's: it makes its own networks or trains its own
small ones (``python -m resjax.claims``). It is a module with a ``CLAIM``, and a line in
``resjax.report.CLAIMS``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from resjax.studies.batches import Progress
from resjax.studies.options import Options
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resjax.studies.run import Run


class Finding(NamedTuple):
    """What the numbers say: one sentence, and the points behind it, usually one a run."""

    headline: str
    points: Sequence[str]


class Table(NamedTuple):
    """Numbers behind a figure; every row has one cell a column, as text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Presentation:
    """How results are shown. ``results`` are always {label of the run, or of the network: result}.

    Attributes:
      name: for the command line and file names.
      title: of the section.
      question: what it asks, in one or two sentences for a newcomer.
      code: how to compute it in Python (of a study: given ``run = load_run(workdir)``).
      result: the type of the results.
      plot: results → figure, in the current theme.
      finding: results → what they say; computed, so it says the opposite when the numbers do.
      table: results → the numbers.
      summary: results → {label: {column: text}}, for the short table; {} where there is nothing short.
    """

    name: str
    title: str
    question: str
    code: str
    result: type[Result]
    plot: Callable[[Mapping[str, Any]], Figure]
    finding: Callable[[Mapping[str, Any]], Finding]
    table: Callable[[Mapping[str, Any]], Table]
    summary: Callable[[Mapping[str, Any]], dict[str, dict[str, str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Presentation):
    """One analysis of a run.

    Attributes:
      unsuited: run → why it can't be done there, or None.
      run: (run, options, progress) → result.
    """

    unsuited: Callable[[Run], str | None]
    run: Callable[[Run, Options, Progress | None], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim(Presentation):
    """One statement about networks in general, shown on networks that it makes itself.

    Attributes:
      run: (smoke, seed, progress) → {label: result}; smoke makes it small and quick.
    """

    run: Callable[[bool, int, Progress | None], Mapping[str, Any]]
