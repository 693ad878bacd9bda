"""What deletions of sets of units return: the result of ``deletions`` and of ``pairs``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from resjax.studies.result import Compared


@dataclasses.dataclass(frozen=True)
class Deletions(Compared):
    """Test performance after several deletions of some units each."""

    unit: tuple[str, ...]  # names of all units in order
    deleted: Annotated[np.ndarray, "deletion", "unit"]  # bool, True where a unit is deleted
    error: Annotated[np.ndarray, "deletion"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "deletion"]  # mean
    kl: Annotated[np.ndarray, "deletion"]  # mean KL(p_intact ‖ p_lesioned), nats
    agreement: Annotated[np.ndarray, "deletion"]  # share of predictions equal to the intact network's
    left_out: dict[str, str]  # {unit: why it is never deleted}
    # Share of resampled examples on which the error rises by at most one point; None in older results.
    spared: Annotated[np.ndarray | None, "deletion"] = None

    @property
    def number(self) -> np.ndarray:
        """int [deletion], the number of deleted units."""
        return self.deleted.sum(1)
