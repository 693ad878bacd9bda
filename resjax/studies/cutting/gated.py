"""Errors of networks without some units, as cut and mended, by gates of 0: no network is made for them."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from resjax.network import Network, Variables
from resjax.network.refusal import Refusal
from resjax.studies.batches import Inference, Progress, part
from resjax.studies.lesions.batch_statistics import measure_recalibrated
from resjax.studies.lesions.prefixes import deleting, measure_places


class Wrong(NamedTuple):
    """The metric of each example [m, N] of m networks."""

    as_cut: np.ndarray
    mended: np.ndarray  # the same where BatchNorm's statistics can't be re-estimated


@dataclasses.dataclass
class Gated:
    """A network and its examples.

    Attributes:
      how: of ``Inference``, without ``progress``.
      not_mended: why BatchNorm's statistics can't be re-estimated, as soon as it is known.
    """

    network: Network
    variables: Variables
    images: Any
    labels: np.ndarray
    reference: Any
    how: Inference
    num_classes: int = 0
    not_mended: str = ""

    def measure(self, gone: np.ndarray, progress: Progress | None) -> Wrong:
        """Of the networks without the units in each row of ``gone``, bool [m, units]."""
        as_cut = self._as_cut(gone, part(progress, 0, 2))
        mended = self._mended(gone, part(progress, 1, 2))
        return Wrong(as_cut, as_cut if mended is None else mended)

    def measure_mended(self, gone: np.ndarray, progress: Progress | None) -> np.ndarray:
        """``Wrong.mended`` alone."""
        mended = self._mended(gone, progress)
        return self._as_cut(gone, progress) if mended is None else mended

    def _as_cut(self, gone: np.ndarray, progress: Progress | None) -> np.ndarray:
        scores, _ = measure_places(*self._given, deleting(gone), **self._how(progress))
        self.num_classes = scores.num_classes
        return scores.wrong

    def _mended(self, gone: np.ndarray, progress: Progress | None) -> np.ndarray | None:
        """None where BatchNorm's statistics can't be re-estimated."""
        if self.not_mended:
            return None
        gates = {"gates": 1 - gone.astype(np.float32)}
        try:
            scores, _, _ = measure_recalibrated(*self._given, gates, self.reference, **self._how(progress))
        except Refusal as error:
            self.not_mended = str(error)
            return None
        return scores.wrong

    @property
    def _given(self) -> tuple[Network, Variables, Any, np.ndarray]:
        return self.network, self.variables, self.images, self.labels

    def _how(self, progress: Progress | None) -> Inference:
        return Inference(**{**self.how, "progress": progress})
