"""Deletes given sets of units and measures the remaining network; see ``deletions``."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Inference
from resjax.studies.counts import fields_of
from resjax.studies.lesions.batch_statistics import measure_recalibrated
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.known import KnownScores
from resjax.studies.lesions.prefixes import count_passes, deleting
from resjax.studies.lesions.subsets import candidates


def delete_subsets(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    subsets: np.ndarray,
    *,
    recalibrate_on: Any = None,
    known: KnownScores | None = None,
    **how: Unpack[Inference],
) -> Deletions:
    """Deletes each of the given sets of units and measures the remaining network.

    Args: those of every analysis (``Inference``), and
      subsets: bool [deletion, unit], True where a unit is deleted; at least one row.
      recalibrate_on: float [M, H, W, C], training images for re-estimating BatchNorm statistics for each
        set, including an empty one; None for running statistics, as in the paper.
      known: scores on the same examples, as of ``lesion``; without ``recalibrate_on`` alone.

    Raises:
      ValueError: also if no unit can be deleted, if ``subsets`` has a wrong shape or dtype or deletes a unit
        that can't be deleted, and with ``recalibrate_on`` for a network without BatchNorm.
    """
    subsets, n = np.asarray(subsets), network.num_units
    if subsets.ndim != 2 or subsets.shape[1] != n or not len(subsets) or subsets.dtype != bool:
        raise ValueError(
            f"subsets must be bool [m, {n}], m ≥ 1: one column for each unit; got {subsets.dtype} "
            f"{list(subsets.shape)}"
        )
    allowed, never = candidates(network, variables, images)
    if wrong := sorted({network.units[u].name for u in np.flatnonzero(subsets.any(0) & ~allowed)}):
        raise ValueError(f"subsets delete {', '.join(wrong)}: {never[wrong[0]]}")
    given = network, variables, images, labels
    choices = {
        "plain units": "replaced by their input where shapes agree",
        "further training": "none",
    }

    if recalibrate_on is None:
        scores = (known or KnownScores()).measure(*given, deleting(subsets), **how)
    else:
        gates = {"gates": 1 - subsets.astype(np.float32)}
        lesioned, intact, chosen = measure_recalibrated(*given, gates, recalibrate_on, **how)
        scores = lesioned, intact
        choices.update(chosen)
    if recalibrate_on is None:
        places = deleting(subsets)
        passes = (
            f"{count_passes(places):.1f} instead of {len(places) + 1}, counted in units that run: equal "
            "beginnings run once, deleted branches not at all"
        )
        choices |= {
            "BatchNorm": "running statistics of training, not re-estimated after the deletion",
            "forward passes": passes
            if network.chained
            else f"{len(np.unique(places, axis=0)) + 1}, because other connections bypass units, so that no "
            "beginnings are shared",
        }
    return Deletions(
        **fields_of(*scores),
        unit=tuple(unit.name for unit in network.units),
        deleted=subsets,
        left_out=never,
        choices=choices,
    )
