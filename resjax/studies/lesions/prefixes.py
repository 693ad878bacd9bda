"""Deletions and orders of units, evaluated with shared prefixes: networks run a common prefix once.

``variants`` handles every intervention, with a whole forward pass for each. Deletions and orders need less:
up to the first change, the states are those of the intact network, and networks with the same first changes
share further states. A network is represented by a row of *places*, one for each unit:

* u ≥ 0: unit u runs here;
* ~u = −1 − u: unit u is deleted here. Its shortcut stays, its branch is not computed.

Sorted rows form a tree of common prefixes, traversed depth first: the states along the current row are kept
(one per unit, fewer than a backward pass keeps), and the next row starts from the last state that it shares.

*Cost.* One unit evaluation for each distinct prefix of the rows, none if the prefix ends in a deletion. For
all n(n − 1)/2 pairs of n units that is about n³/6 instead of n³/2. Two small programs are compiled for each
stack (a unit that runs, a unit that is deleted), for any number of rows and units. Where other connections
bypass units (``Network.chained``), there are no prefixes: each different row is a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.network.order import exchangeable
from resjax.network.parts import part_of
from resjax.network.unit import Unit
from resjax.studies.batches import (
    BATCH_SIZE,
    Inference,
    PaddedBatch,
    Progress,
    counted,
    padded_batches,
)
from resjax.studies.examples import checked_examples
from resjax.studies.scores import Outcomes, Scores, compiled_compare, stacked
from resjax.studies.variants import logits_with, measure, with_gates

ALONE = on_cores.Cores()


def measure_places(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    places: np.ndarray,
    *,
    loss: Loss = cross_entropy,
    metric: Metric = share_wrong,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    intact: bool = True,
) -> tuple[Scores, Scores]:
    """Scores of m networks with deleted or reordered units, and of the intact one (m = 1).

    Args: those of every analysis (``Inference``), where ``progress`` counts networks in each batch, and
      places: int [m, units], m ≥ 1: which unit runs or is deleted at each place. Equal rows run once.
      intact: False for errors and losses alone, which do not need the intact network: each network is then
        compared with itself, and the second scores are those of the first one.

    Raises:
      ValueError: also if ``places`` has a wrong shape or dtype, puts a unit where another kind runs, or
        deletes a unit that can't be deleted.
    """
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    _check_places(network, places)
    # Sorted, so that equal prefixes are adjacent; descending, so that deletions follow intact units.
    rows, row_of = np.unique(~places, axis=0, return_inverse=True)
    if not network.chained:  # all units differ, so they are deleted, and never in another order
        how = Inference(loss=loss, metric=metric, batch_size=batch_size, progress=progress)
        gates = (rows < 0).astype(np.float32)
        scores, one = measure(network, variables, images, labels, with_gates, gates, **how)
        return scores.take(row_of.reshape(-1)), one
    orders = [list(range(network.num_units))] * intact + (~rows).tolist()
    cores = on_cores.shared_cores()
    batches = list(padded_batches(images, labels, cores.own_size(len(labels), batch_size)))
    tell = counted(progress, len(batches) * len(rows))

    def compared(core: on_cores.Cores, variables: Variables, batch: PaddedBatch) -> Iterator[Outcomes]:
        x, y = core.split(jax.device_put((batch.images, batch.labels)))
        logits = _walk(network, variables, x, orders, core)
        whole = next(logits) if intact else None
        if whole is not None:
            yield compiled_compare(whole, whole, y, loss, metric)
        for own in logits:
            tell()
            yield compiled_compare(own, own if whole is None else whole, y, loss, metric)

    found = on_cores.over_batches(cores, compared, variables, batches)
    scores = Scores.of(stacked(found, (batch.mask for batch in batches)), labels, num_classes)
    tell()
    changed = scores.take(int(intact) + row_of.reshape(-1))
    return changed, (scores if intact else changed).take(slice(1))


def logits_of_places(
    network: Network,
    variables: Variables,
    images: Any,
    labels: np.ndarray,
    places: np.ndarray,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Iterator[tuple[PaddedBatch, np.ndarray]]:
    """Each batch with the logits float32 [m, B, …, classes] of m networks; arguments and errors are those of
    ``measure_places``. Without a chain of units, these may only be deletions."""
    _check_places(network, places)
    rows, row_of = np.unique(~places, axis=0, return_inverse=True)
    cores = on_cores.shared_cores()
    batches = list(padded_batches(images, labels, cores.own_size(len(labels), batch_size)))
    tell = counted(progress, len(batches) * len(rows))

    def every(core: on_cores.Cores, variables: Variables, batch: PaddedBatch) -> Iterator[np.ndarray]:
        x = core.split(jax.device_put(batch.images))
        if network.chained:
            found = _walk(network, variables, x, (~rows).tolist(), core)
        else:
            gates = (rows < 0).astype(np.float32)
            found = (logits_with(core, network, with_gates, variables, x, own, None) for own in gates)
        for logits in found:
            tell()
            yield jax.device_get(logits)

    for batch, found in zip(batches, on_cores.over_batches(cores, every, variables, batches), strict=True):
        yield batch, np.stack(found)[row_of.reshape(-1)]
    tell()


def deleting(deleted: np.ndarray) -> np.ndarray:
    """The places of ``measure_places`` for bool [m, units], which units are deleted."""
    units = np.arange(deleted.shape[1])
    return np.where(deleted, ~units, units)


def count_passes(places: np.ndarray, intact: bool = True) -> float:
    """Forward passes that ``measure_places`` takes for rows [m, units], and the ``intact`` network.

    Each unit that runs counts as 1/n of a pass; stem and head do not count. Without sharing, as where other
    connections bypass units, it is m + 1 for m different rows.
    """
    n = places.shape[1]
    rows = [list(range(n))] * intact + (~np.unique(~places, axis=0)).tolist()
    run, previous = 0, [n] * n
    for row in rows:
        run += sum(place >= 0 for place in row[shared_places(row, previous) :])
        previous = row
    return run / n


def shared_places(row: Sequence[Any], previous: Sequence[Any]) -> int:
    """Length of the common prefix of two rows."""
    pairs = enumerate(zip(row, previous, strict=True))
    return next((i for i, (new, old) in pairs if new != old), len(row))


def walker(
    network: Network, variables: Variables, x: Any, core: on_cores.Cores = ALONE
) -> tuple[jax.Array, Callable[..., jax.Array], Callable[[jax.Array], jax.Array]]:
    """A batch ``x`` on its way through the units, in compiled steps.

    Args:
      network, variables: any that is chained.
      x: inputs [B, …], like the variables on the device of ``core``.
      core: a single device, because nothing waits between the steps (``on_cores.over_batches``).

    Returns:
      The state in front of the first unit; a function (place, state) → the state behind this place; and a
      function from the last state to logits. The second function has two more arguments, for a unit that
      runs: ``other``, variables of the network of which the unit takes its own (a collection that they lack
      stays as it is), and ``factor``, of its branch.

    Raises:
      ValueError: several devices.
    """
    if core.mesh is not None:
        raise ValueError(
            f"a walk on {core.count} devices at once would start the next program before the last has ended, "
            "which can deadlock; give each device batches of its own with shared_batches.over_batches"
        )
    units = network.units
    variables, first = start(core, network, variables, x)
    own = [part_of(variables, unit.part) for unit in units]
    gates: Any = [None] * len(units) if network.test_gates is None else network.test_gates

    def step(
        place: int, state: jax.Array, other: Variables | None = None, factor: float | None = None
    ) -> jax.Array:
        u, run = (place, run_unit) if place >= 0 else (~place, _delete_unit)
        part, gate = own[u], gates[u]
        if other is not None:
            part = {**part, **part_of(other, units[u].part)}
        if factor is not None:
            gate = np.float32(factor) if gate is None else gate * factor
        return run(core, units[u].stack.unit, part, np.int32(units[u].row), state, gate)

    return first, step, lambda state: run_head(core, network, variables, state)


def _walk(
    network: Network, variables: Variables, x: Any, rows: list[list[int]], core: on_cores.Cores
) -> Iterator[jax.Array]:
    """The logits of each row in turn; adjacent rows should share prefixes."""
    first, step, logits = walker(network, variables, x, core)
    states, previous = [first], [network.num_units] * network.num_units
    for row in rows:
        shared = shared_places(row, previous)
        del states[shared + 1 :]
        for place in row[shared:]:
            states.append(step(place, states[-1]))
        previous = row
        yield logits(states[-1])


def start(
    cores: on_cores.Cores, network: Network, variables: Variables, x: Any
) -> tuple[Variables, jax.Array]:
    """The variables bound to ``x``, and the state in front of the first unit."""
    added, first = _start(cores, network, variables, x)
    return {**variables, **added}, first


@on_cores.jit(static=2)
def _start(
    cores: on_cores.Cores, network: Network, variables: Variables, x: Any
) -> tuple[Variables, jax.Array]:
    bound = network.bound(variables, x)
    # Not the variables themselves: what a program returns is a copy.
    added = {collection: tree for collection, tree in bound.items() if collection not in variables}
    return added, network.run_stem(bound, x)[0]


@on_cores.jit(static=2)
def run_head(cores: on_cores.Cores, network: Network, variables: Variables, h: jax.Array) -> jax.Array:
    return network.run_head(variables, h)[0]


@on_cores.jit(static=2)
def run_unit(cores: on_cores.Cores, unit: Unit, stacked: Any, position: Any, h: jax.Array, gate: Any) -> Any:
    own = jax.tree.map(lambda v: v[position], stacked)

    def run(given: Any, h: jax.Array) -> Any:
        own, gate = given
        parts: Any = unit.apply(own, h, gate, method="parts")
        return parts.y

    # What a unit reads beside its state belongs to the whole batch.
    if "context" in own:
        return run((own, gate), h)
    return on_cores.few_at_a_time(cores, run, (own, gate), h, elements=on_cores.OF_A_UNIT)


@on_cores.jit(static=2)
def _delete_unit(
    cores: on_cores.Cores, unit: Unit, stacked: Any, position: Any, h: jax.Array, gate: Any
) -> Any:
    own = jax.tree.map(lambda v: v[position], stacked)
    shortcut = unit.apply(own, h, False, method="split")[0]
    if shortcut is None:
        raise ValueError(
            "places delete a unit that has no shortcut and changes the shape; Network.deletable tells "
            "which can be deleted"
        )
    return unit.apply(own, shortcut, False, method="merge")


def _check_places(network: Network, places: np.ndarray) -> None:
    units = network.units
    integers = np.issubdtype(places.dtype, np.integer)
    if places.ndim != 2 or places.shape[1] != len(units) or not len(places) or not integers:
        raise ValueError(
            f"places must be integers [m, {len(units)}], m ≥ 1: one column for each unit; got "
            f"{places.dtype} {list(places.shape)}"
        )
    part = np.array([unit.part for unit in units])
    unit = np.where(places < 0, ~places, places)
    wrong = (unit >= len(units)) | (part[unit % len(units)] != part)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise ValueError(
            f"row {row} puts unit {unit[row, place]} at place {place} ({units[place].name}); only equal "
            f"units can change places: there, {exchangeable(units, place)}"
        )
