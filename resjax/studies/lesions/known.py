"""Scores of deletions that several studies need: each set of units is measured once on the same examples.

``lesion`` and ``recalibrate`` delete each unit alone, ``deletions`` deletes random sets and each unit alone,
``pruning`` the first of the same random sets and a chain of sets. Whoever comes first measures a set, and the
others take its scores. A score depends on the network, the examples and the set alone, so the results are
those of each study by itself. (Up to rounding: ``lesion`` computes all single deletions in one program, and
``deletions`` runs unit by unit.)

*Memory.* One byte an example for each set, 4 MB for 400 sets and 10,000 examples; eight with a metric of
floats. Nothing is kept between processes; what finished studies keep on disk are their results.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Inference
from resjax.studies.lesions.prefixes import deleting, measure_places
from resjax.studies.scores import Scores
from resjax.studies.study import Bench


class KnownDeletions:
    """Scores of one network without sets of units, all on the same examples."""

    def __init__(self) -> None:
        self._found: dict[bytes, Scores] = {}
        self._intact: Scores | None = None

    def missing(self, deleted: np.ndarray) -> np.ndarray:
        """bool [m]: which of the sets, bool [m, units], are not known."""
        return np.array([row.tobytes() not in self._found for row in deleted], bool)

    def add(self, deleted: np.ndarray, scores: Scores, intact: Scores) -> None:
        """Keeps scores of sets, bool [m, units], and of the intact network; those that are known stay."""
        if self._intact is None:
            self._intact = intact
        for i in np.flatnonzero(self.missing(deleted)):
            self._found[deleted[i].tobytes()] = scores.take(slice(i, i + 1))

    def take(self, deleted: np.ndarray) -> tuple[Scores, Scores]:
        """Scores of sets that are all known, and of the intact network (m = 1)."""
        assert self._intact is not None
        return Scores.join([self._found[row.tobytes()] for row in deleted]), self._intact

    def measure(
        self,
        network: Network,
        variables: Variables,
        images: Any,
        labels: ArrayLike,
        deleted: np.ndarray,
        **how: Unpack[Inference],
    ) -> tuple[Scores, Scores]:
        """What ``measure_places`` finds without the sets bool [m, units], m ≥ 1, of which it runs those that
        are not known. The other arguments must be the same in every call, up to ``progress``."""
        new = self.missing(deleted)
        if new.any():
            own = deleted[new]
            self.add(own, *measure_places(network, variables, images, labels, deleting(own), **how))
        elif progress := how.get("progress"):
            progress(1, 1)
        return self.take(deleted)


def known_deletions(bench: Bench, examples: int) -> KnownDeletions:
    """Those of the bench's network on so many examples of the evaluation set, empty at first."""
    key = "deletions", bench.run.split, examples, bench.options.batch_size
    return bench.run.once(key, KnownDeletions)
