"""Deletions and orders of units, evaluated with shared prefixes: equal beginnings of the networks run once.

``variants`` serves every intervention, with a whole forward pass for each. Deletions and orders allow more:
up to the first change the states are those of the intact network, and networks with the same first changes
share more. So a network is written as a row of *places*, one for each unit:

* u ≥ 0: unit u runs here;
* ~u = −1 − u: unit u is deleted here. Its shortcut stays, its branch is not computed.

Sorted rows form a tree of common beginnings, walked depth first: the states along the current row are kept
(one per unit, fewer than a backward pass keeps), and the next row starts from the last state that it shares.

*Cost.* One evaluation of a unit for each different beginning of the rows, none where the beginning ends in a
deletion. For all n(n − 1)/2 pairs of n units that is about n³/6 instead of n³/2. Two small programs are
compiled for each stack (a unit that runs, a unit that is deleted), for any number of rows and units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.network.parts import part_of
from resjax.network.unit import Unit
from resjax.studies.batches import (
    BATCH_SIZE,
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.scores import Scores, compare


def measure_places(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    places: np.ndarray,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[Scores, Scores]:
    """Error, loss, KL and agreement of m networks with deleted or reordered units.

    Args:
      network: any.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      places: int [m, units], m ≥ 1: which unit runs, or is deleted, at each place. Equal rows run once.
      loss, batch_size, progress: see ``Inference``; progress counts the networks in each batch.

    Returns:
      Scores of the m networks, and those of the intact one (m = 1).

    Raises:
      ValueError: no example, images or labels of a wrong form, places of a wrong form, a unit at a place of
        another stack, or a deleted unit that can't be deleted.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    check_examples(images, labels, count_classes(network, variables, images.shape[1:]))
    _check_places(network, places)
    # Sorted, so that equal beginnings are neighbours; descending, so that deletions come after intact units.
    rows, row_of = np.unique(~places, axis=0, return_inverse=True)
    rows = ~rows
    sums: Any = None
    for i, batch in enumerate(batches := list(padded_batches(images, labels, batch_size))):
        x, y, mask = jax.device_put(tuple(batch))
        logits = _walk(network, variables, x, [list(range(network.num_units)), *rows.tolist()])
        intact = next(logits)
        part = [_compare(intact, intact, y, mask, loss)]
        for j, changed in enumerate(logits):
            if progress:
                progress(i * len(rows) + j, len(batches) * len(rows))
            part.append(_compare(changed, intact, y, mask, loss))
        stacked = jax.tree.map(lambda *v: np.stack(v).astype(np.float64), *jax.device_get(part))
        sums = stacked if sums is None else jax.tree.map(np.add, sums, stacked)
    if progress:
        progress(len(batches) * len(rows), len(batches) * len(rows))
    of_rows = 1 + row_of.reshape(-1)
    changed, whole = (jax.tree.map(lambda v, r=r: v[r], sums) for r in (of_rows, slice(1)))
    return Scores.of(changed, labels), Scores.of(whole, labels)


def count_passes(places: np.ndarray) -> float:
    """Forward passes that ``measure_places`` takes for rows [m, units] and the intact network.

    Each unit that runs counts as 1/n of a pass; stem and head do not count. Without sharing, m + 1.
    """
    n = places.shape[1]
    rows = [list(range(n)), *(~np.unique(~places, axis=0)).tolist()]
    run, previous = 0, [n] * n
    for row in rows:
        run += sum(place >= 0 for place in row[_shared(row, previous) :])
        previous = row
    return run / n


def _shared(row: list[int], previous: list[int]) -> int:
    """Length of the common beginning of two rows."""
    pairs = enumerate(zip(row, previous, strict=True))
    return next((i for i, (new, old) in pairs if new != old), len(row))


def _walk(
    network: Network, variables: Variables, x: jax.Array, rows: list[list[int]]
) -> Iterator[jax.Array]:
    """The logits of each row in turn; neighbouring rows should have equal beginnings."""
    units = network.units
    own = [part_of(variables, unit.stack.name) for unit in units]
    gates = [None] * len(units) if network.test_gates is None else network.test_gates
    states, previous = [_stem(network, variables, x)], [len(units)] * len(units)
    for row in rows:
        shared = _shared(row, previous)
        del states[shared + 1 :]
        for place in row[shared:]:
            u = place if place >= 0 else ~place
            unit, position = units[u].stack.unit, np.int32(units[u].position)
            if place >= 0:
                states.append(_run_unit(unit, own[u], position, states[-1], gates[u]))
            else:
                states.append(_delete_unit(unit, own[u], position, states[-1]))
        previous = row
        yield _head(network, variables, states[-1])


_compare = jax.jit(compare, static_argnums=4)
_stem = jax.jit(lambda network, v, x: network.run_stem(v, x)[0], static_argnums=0)
_head = jax.jit(lambda network, v, h: network.run_head(v, h)[0], static_argnums=0)


def _run(unit: Unit, stacked: Any, position: Any, h: jax.Array, gate: Any) -> Any:
    own = jax.tree.map(lambda v: v[position], stacked)
    parts: Any = unit.apply(own, h, gate, method="parts")
    return parts.y


def _delete(unit: Unit, stacked: Any, position: Any, h: jax.Array) -> Any:
    own = jax.tree.map(lambda v: v[position], stacked)
    shortcut = unit.apply(own, h, False, method="split")[0]
    if shortcut is None:
        raise ValueError(
            "places delete a unit that has no shortcut and changes the shape; Network.deletable tells "
            "which can be deleted"
        )
    return unit.apply(own, shortcut, False, method="merge")


_run_unit = jax.jit(_run, static_argnums=0)
_delete_unit = jax.jit(_delete, static_argnums=0)


def _check_places(network: Network, places: np.ndarray) -> None:
    units = network.units
    integers = np.issubdtype(places.dtype, np.integer)
    if places.ndim != 2 or places.shape[1] != len(units) or not len(places) or not integers:
        raise ValueError(
            f"places must be integers [m, {len(units)}], m ≥ 1: one column for each unit; got "
            f"{places.dtype} {list(places.shape)}"
        )
    stack = np.repeat(np.arange(len(network.stacks)), [s.n for s in network.stacks])
    unit = np.where(places < 0, ~places, places)
    wrong = (unit >= len(units)) | (stack[unit % len(units)] != stack)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        allowed = np.flatnonzero(stack == stack[place])
        raise ValueError(
            f"row {row} puts unit {unit[row, place]} at place {place} ({units[place].name}); only equal "
            f"units can change places: there, {allowed[0]} to {allowed[-1]}"
        )
