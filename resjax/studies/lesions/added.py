"""Variants that an earlier result has already: random sets or orders to which more are added.

The first draws of a seed are the same however many there are. So a result with more draws contains the rows
of one with fewer, and ``deletions`` and ``reorder`` measure only the others. The values of a row depend on no
other row, except ``spared``: the share of resampled examples may differ by the resampling, about 0.01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resjax.network import Network
from resjax.studies import counts
from resjax.studies.scores import Scores

VALUES = ("error", "loss", "kl", "agreement", "spared")
COMPARED = ("intact_error", "intact_loss", "num_examples", "num_classes")


def fields_of(scores: Scores, intact: Scores) -> dict[str, Any]:
    """``VALUES`` and ``COMPARED`` of a result from the scores of its rows and of the intact network."""
    spared = counts.spared_share(scores.wrong, intact.wrong[0])
    return {**scores.means, "spared": spared, **intact.as_intact}


def add_to(
    earlier: Any,
    has: np.ndarray,
    rows: np.ndarray,
    network: Network,
    count: int,
    measure: Callable[[np.ndarray], Mapping[str, Any]],
) -> dict[str, Any]:
    """``fields_of`` the variants ``rows`` [m, units], those of an earlier result where it has the same row.

    Args:
      earlier: of this network on the same ``count`` examples.
      has: its rows [k, units].
      measure: some of ``rows`` → ``fields_of`` them.

    Raises:
      ValueError: an earlier result of other units or of another number of examples.
    """
    names = tuple(unit.name for unit in network.units)
    if earlier.unit != names or earlier.num_examples != count:
        raise ValueError(
            f"the earlier result is of {len(earlier.unit)} units and {earlier.num_examples:,} examples; "
            f"allowed: one of this network, with {len(names)} units, on the same {count:,} examples"
        )
    place = {row.tobytes(): i for i, row in enumerate(has.astype(rows.dtype))}
    at = np.array([place.get(row.tobytes(), -1) for row in rows])
    new = at < 0
    found = {name: getattr(earlier, name) for name in COMPARED}
    added = measure(rows[new]) if new.any() else {}
    for name in VALUES:
        found[name] = getattr(earlier, name)[at]
        if new.any():
            found[name][new] = added[name]
    return found
