"""Scores that several studies need: each network is measured once on each example.

``lesion`` and ``recalibrate`` delete each unit alone, ``deletions`` deletes random sets and each unit alone,
``pairs`` deletes all pairs, ``influence`` runs of neighbours, ``pruning`` the first of the same random sets
and a chain of sets, ``reorder`` changes the order. Each of these networks is a row of *places*
(``resjax.studies.lesions.prefixes``). Whoever comes first measures a row, and the others take its scores.

*More examples.* Subsets of the evaluation set are nested (``resjax.studies.examples.evenly_spread``), and
what is kept of a row are the outcomes on each example. So a study with more examples than another measures
the row on the additional ones alone, and a study with fewer takes the first of those that are known.

*More draws.* The first draws of a seed are the same however many there are, so more draws measure only the
rows that are new.

The outcome on one example depends on the network, the example and the row alone, so the results are those of
each study by itself. (Up to rounding: ``lesion`` computes all single deletions in one program, the others run
unit by unit, and examples that are added run in batches of another size.)

*Memory.* That of ``Scores``. ``resjax.report.kept_scores`` keeps them on disk for later processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Inference, within
from resjax.studies.examples import checked_examples, take
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.scores import Outcomes, Scores
from resjax.studies.study import Bench


class KnownScores:
    """Scores of networks that run the units of one network at other places, all on the same examples.

    All calls must have the same network, variables, loss, metric and order of examples; some may have more
    of these examples than others.
    """

    def __init__(self, found: Iterable[tuple[np.ndarray, Outcomes]] = ()) -> None:
        """``found``: rows of places, and what is known of each: arrays [examples]."""
        self._found = {_key(row): own for row, own in found}

    @property
    def rows(self) -> dict[bytes, Outcomes]:
        """What is known: {a row of places, int64: its outcomes [examples]}; do not change it."""
        return self._found

    @property
    def size(self) -> int:
        """How many outcomes are known, over all rows."""
        return sum(len(own.loss) for own in self._found.values())

    def count(self, row: np.ndarray) -> int:
        """On how many of the first examples a row is known."""
        own = self._found.get(_key(row))
        return 0 if own is None else len(own.loss)

    def missing(self, places: np.ndarray, examples: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """What must be measured so that the rows [m, units] are known on so many examples: the first example,
        the one behind the last, and bool [m], the rows of which these are unknown."""
        known = np.array([min(self.count(row), examples) for row in places])
        for first, end in itertools.pairwise(sorted({*known.tolist(), examples})):
            yield first, end, known <= first

    def add(self, places: np.ndarray, scores: Scores, first: int = 0) -> None:
        """Adds the scores of rows [m, units] on examples from ``first`` on; what is known stays."""
        for i, row in enumerate(places):
            old, known = self._found.get(_key(row)), self.count(row)
            if known < first + scores.num_examples:
                assert known >= first, "there is a gap between the known examples and the new ones"
                # Copies: a view would keep the outcomes of all rows.
                new = Outcomes(*(np.array(values[i, known - first :]) for values in scores.each))
                self._found[_key(row)] = new if old is None else Outcomes(*map(np.append, old, new))

    def take(self, places: np.ndarray, labels: np.ndarray, num_classes: int) -> Scores:
        """The scores of rows [m, units] that are all known on the examples of ``labels`` [N, …]."""
        found = [Outcomes(*(v[: len(labels)] for v in self._found[_key(row)])) for row in places]
        each = Outcomes(*(np.stack(values) for values in zip(*found, strict=True)))
        return Scores(each, labels, num_classes)

    def measure(
        self,
        network: Network,
        variables: Variables,
        images: Any,
        labels: ArrayLike,
        places: np.ndarray,
        **how: Unpack[Inference],
    ) -> tuple[Scores, Scores]:
        """What ``measure_places`` finds of rows [m, units], m ≥ 1, of which it runs those that are not known
        on the examples on which they are not."""
        images, labels, num_classes = checked_examples(network, variables, images, labels)
        work = list(self.missing(places, len(labels)))
        steps = [(end - first) * int(new.sum()) for first, end, new in work]
        progress, whole = how.get("progress"), intact_places(network)
        for i, (first, end, new) in enumerate(work):
            how["progress"] = within(progress, sum(steps[:i]), steps[i], sum(steps))
            some = take(images, slice(first, end)), labels[first:end]
            scores, intact = measure_places(network, variables, *some, places[new], **how)
            self.add(places[new], scores, first)
            self.add(whole, intact, first)
        if progress and not work:
            progress(1, 1)
        return self.take(places, labels, num_classes), self.take(whole, labels, num_classes)


def intact_places(network: Network) -> np.ndarray:
    """int [1, units]: every unit at its own place."""
    return np.arange(network.num_units)[None]


def known_scores(bench: Bench) -> KnownScores:
    """Those of the bench's network on its evaluation set; at first what an earlier process has kept."""
    return bench.run.once(("scores", bench.options.batch_size), bench.stored or KnownScores)


def _key(row: np.ndarray) -> bytes:
    return row.astype(np.int64).tobytes()
