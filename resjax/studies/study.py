"""What a study is: one analysis in one file, with its result, its measuring function, its figure and its
texts.

A study describes *one* result. The report puts the results of several networks side by side, groups their
labels, and adds the column "network" (``resjax.report.compare``). A new study is one file with a ``STUDY``,
and a line in ``resjax.studies.catalogue``; CONTRIBUTING.md has the recipe.

Two rules separate measurement from presentation. Functions that measure call no function that plots or writes
text; both are named only in ``STUDY``. So kept results are recomputed only if code that ``measure`` reaches
changes. Figures and texts are made from results alone, so results of several runs, or results read from JSON,
are shown in the same way.

A *claim* is a study that needs no run of the user's: it makes its own networks, or trains its own small ones,
and returns one result for each of them (``python -m resjax.claims``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from resjax.network import Network, Variables
from resjax.network.refusal import Refusal
from resjax.studies.batches import Inference, Progress, Running, part
from resjax.studies.costs import Cost, again, nothing
from resjax.studies.initial import REFERENCE, at_initialization, described
from resjax.studies.options import ClaimOptions, Options
from resjax.studies.result import Result
from resjax.studies.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Clause = str | Callable[[str, Any], str]
"""The clause for all networks with one verdict. In a string, ``{}`` stands for their labels: "the error of {}
rises". A function returns one clause for each network, given its label and its result."""
Stored = Callable[[Subject, bool], Any]
"""(network, whether it is a control at initialization) → the scores that are known of it, for ``Bench``."""
Columns = Mapping[str, Iterable[str]]
"""A table: {name of the column: cells from top to bottom}."""


@dataclasses.dataclass
class Bench:
    """A run or a given network, with everything that a study needs to measure it. What a study uses is
    recorded in ``choices``, which ``Study.run`` adds to the choices of the result."""

    run: Subject
    options: Options
    progress: Progress | None = None
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    # The result of an earlier measurement that differs in ``Study.adds`` alone, whose parts need not be
    # measured again; None where there is none.
    earlier: Any = None
    # What is known of the network's scores before its first study (``resjax.studies.lesions.known``); None
    # for nothing.
    stored: Callable[[], Any] | None = None

    @property
    def running(self) -> Running:
        """How examples are run: the run's loss, the batch size, the progress."""
        return Running(loss=self.run.loss, batch_size=self.options.batch_size, progress=self.progress)

    @property
    def how(self) -> Inference:
        """``running`` and the run's metric, for studies that measure an error."""
        return Inference(**self.running, metric=self.run.metric)

    def network(self) -> tuple[Network, Variables]:
        """The network and its newest variables."""
        self.choices["network"] = self.run.told
        return self.run.network, self.run.variables

    def evaluation(self, most: int | None = None) -> tuple[Network, Variables, Any, Any]:
        """Network, variables, inputs and labels: the evaluation set, at most ``most`` of its examples and at
        most ``options.max_examples``."""
        run = self.run
        there = run.count(run.split)
        count = self.options.at_most("max_examples", there if most is None else min(there, most))
        inputs, labels = run.examples(run.split, count)
        self.choices["data"] = f"{len(labels):,} {run.split} examples, {run.as_they_are}"
        return *self.network(), inputs, labels

    def reference(self) -> Any:
        """Training inputs for estimating BatchNorm statistics, prepared as in training unless
        ``options.plain_reference``."""
        plain, run = self.options.plain_reference, self.run
        inputs, labels = run.examples("train", self.options.reference, augmented=not plain)
        how = run.as_they_are if plain else run.augmentation or run.as_they_are
        self.choices["reference images"] = f"the first {len(labels):,} training images, {how}"
        return inputs

    def training(self, most: int) -> tuple[Any, Any]:
        """Inputs and labels of the first ``most`` training examples.

        Raises:
          Refusal: there are none.
        """
        return self.run.examples("train", most)

    def data(self, most: int) -> tuple[Any, Any]:
        """The data of a study: the first training examples, or evaluation examples if there are no others."""
        run = self.run
        split = "train" if run.has_training_examples else run.split
        inputs, labels = run.examples(split, most)
        if run.has_training_examples:
            told = f"the first {len(labels):,} training examples, {run.as_they_are}"
        else:
            told = f"{len(labels):,} {split} examples, because no training examples were given"
        self.choices["data"] = told
        return inputs, labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One analysis of a run.

    Give either ``verdict`` and ``says``, or ``headline`` where networks are compared with each other.
    """

    name: str  # of the study everywhere: command line, module, function, page, JSON
    title: str  # of its section in the report
    question: str  # what it asks, in one or two sentences for a newcomer
    code: str  # how to compute it in Python, given run = load_run(workdir)
    result: type[Result]
    measure: Callable[[Bench], Any]
    cost: Callable[[Subject, Options], Cost]  # what ``measure`` takes, without the control
    plot: Callable[[Mapping[str, Any]], Figure]  # {label: result} → figure, in the current theme
    points: Callable[[str, Any], Sequence[str]]  # (label, result) → the numbers behind the finding
    table: Callable[[Any], Columns]  # of one result
    verdict: Callable[[Any], str] | None = None  # result → a key of ``says``
    says: Mapping[str, Clause] = dataclasses.field(default_factory=dict)
    headline: Callable[[Mapping[str, Any]], str] | None = None  # {label: result} → a sentence
    summary: Callable[[Any], Mapping[str, str]] = lambda result: {}  # result → {row: cell}
    notes: Callable[[Mapping[str, Any]], Sequence[str]] = lambda results: ()  # points on all results
    # {label: results of all seeds} → headline and notes, where some label has several seeds; None to say in
    # how many seeds the headline of single runs holds.
    over_seeds: Callable[[Mapping[str, Sequence[Any]]], tuple[str, Sequence[str]]] | None = None
    unsuited: Callable[[Subject], str | None] = lambda run: None  # why a run does not allow it, or None
    labels: str = "network"  # what the labels of results name, for the first column of tables
    control: bool = False  # whether the same is measured at initialization, see ``resjax.studies.initial``
    adds: tuple[str, ...] = ()  # options whose larger values only add to the result, see ``Bench.earlier``

    def run(
        self,
        run: Subject,
        options: Options,
        progress: Progress | None = None,
        earlier: Any = None,
        stored: Stored | None = None,
    ) -> Any:
        """The result for ``run``, with the choices that its bench recorded, and with ``control`` also the
        result of its network at initialization. ``earlier`` is as of ``Bench``."""
        known = stored and functools.partial(stored, run, False)
        if not self.control or run.step == 0:
            return self._measured(run, options, progress, earlier, known)
        result = self._measured(run, options, part(progress, 0, 2), earlier, known)
        try:
            size = options.batch_size  # one network for all studies, so they share what they find of it
            untrained = run.once(("at initialization", size), lambda: at_initialization(run, size))
            before = None if earlier is None else earlier.initial
            known = stored and functools.partial(stored, untrained, True)
            initial = self._measured(untrained, options, part(progress, 1, 2), before, known)
        except Refusal as error:
            result.choices["at initialization"] = f"not measured: {error}"
            return result
        result.choices["at initialization"] = initial.choices["network"] = described(run)
        return dataclasses.replace(result, initial=initial)

    def estimate(self, run: Subject, options: Options) -> Cost:
        """What ``run`` will take, counted before it; with ``control`` the same at initialization.

        Raises:
          Refusal: the run lacks what the study needs.
        """
        own = self.cost(run, options)
        initial = run.initially if self.control and run.step else None
        if initial is None:
            return own
        statistics = REFERENCE if jax.tree.leaves(initial.variables["batch_stats"]) else 0
        return own + again(self.cost(initial, options)) + Cost(forward=statistics)

    def _measured(
        self,
        run: Subject,
        options: Options,
        progress: Progress | None,
        earlier: Any,
        stored: Callable[[], Any] | None,
    ) -> Any:
        bench = Bench(run, options, progress, earlier=earlier, stored=stored)
        result = self.measure(bench)
        result.choices.update(bench.choices)
        named = [name for name in result.choices if "BatchNorm" in name]
        if named and not jax.tree.leaves(run.variables.get("batch_stats", {})):  # no choice was made about it
            for name in named:
                del result.choices[name]
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim(Study):
    """One statement about networks in general, shown on networks that it makes itself."""

    measure: Callable[[ClaimOptions, Progress | None], Mapping[str, Any]]  # type: ignore[assignment]
    """(options, progress) → {label: result}."""
    cost: Callable[[Subject, Options], Cost] = nothing  # its networks are its own: it has no estimate
