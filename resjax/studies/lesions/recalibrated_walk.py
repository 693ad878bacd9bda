"""Deletions and orders with BatchNorm statistics of their own, evaluated with shared prefixes.

Up to its first change, a changed network has the states of the intact one, also where each batch is
normalized by itself. So its statistics there are those that are re-estimated for the intact network, and with
them the states of the evaluated examples are the same, too. Both passes share prefixes as
``resjax.studies.lesions.prefixes`` does: single deletions of n units take n/2 passes instead of n.

The statistics of each batch are combined as ``batch_statistics`` says: in float64, from sums over batches of
means, of squared means and of variances.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.network.parts import part_of
from resjax.network.periods import by_unit
from resjax.network.refusal import Refusal
from resjax.network.run import run_module
from resjax.network.unit import Unit
from resjax.studies.batches import BATCH_SIZE, PaddedBatch, Progress, counted, padded_batches
from resjax.studies.examples import num_examples
from resjax.studies.lesions.prefixes import shared_places, walker
from resjax.studies.scores import Outcomes, Scores, compiled_compare, stacked

FAR = 2.0**20  # a start of a running statistic, so large that it dominates any batch statistic
Statistics = dict[str, Any]
"""Batch statistics of the stem, the head, and each unit by its number."""


def estimate_rows(
    network: Network,
    variables: Variables,
    batches: list[Any],
    rows: np.ndarray,
    seed: int,
    progress: Progress | None = None,
) -> list[Variables]:
    """The batch statistics of the networks ``rows``, int [m, units] as for ``measure_places``; adjacent rows
    should share prefixes. The other arguments are those of ``reestimate``, checked."""
    every, intact = rows.tolist(), [list(range(network.num_units))]
    low, high = (next(_walk_training(network, variables, batches[0], 0, intact, s, seed)) for s in (0, FAR))
    momentum, sums = momentum_of(low, high), [None] * len(every)
    tell = counted(progress, len(batches) * len(every))
    for j, batch in enumerate(batches):
        for i, seen in enumerate(_walk_training(network, variables, batch, j, every, 0, seed)):
            tell()
            first = jax.tree.map(lambda a, m: a / (1 - m), seen, momentum)
            own = jax.tree.map(lambda a: np.stack([a, a**2]), first)
            sums[i] = own if sums[i] is None else jax.tree.map(np.add, sums[i], own)
    tell()
    old = variables["batch_stats"]
    return [_stacked(network, _combined(own, len(batches)), old) for own in sums]


def momentum_of(low: Any, high: Any) -> Any:
    """m of each BatchNorm, new = m·old + (1 − m)·batch, from its statistics after one batch where all were 0
    before, and where all were ``FAR``.

    Raises:
      Refusal: statistics that do not change.
    """
    # One number per module: the median over channels suppresses rounding errors.
    found = jax.tree.map(lambda a, b: np.median((b - a) / FAR), low, high)
    if max(jax.tree.leaves(found)) > 1 - 1e-6:
        raise Refusal("some statistics do not change in training, so they can't be estimated")
    return found


def measure_rows(
    network: Network,
    variables: Variables,
    examples: tuple[Any, np.ndarray, int],
    rows: np.ndarray,
    statistics: list[Variables],
    *,
    loss: Loss = cross_entropy,
    metric: Metric = share_wrong,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[Scores, Scores]:
    """Scores of the networks ``rows``, each with its own ``statistics`` of ``estimate_rows``, and of the
    intact network with its running ones (m = 1). ``examples`` are from ``checked_examples``."""
    (images, labels, num_classes), cores = examples, on_cores.shared_cores()
    every, intact_row = rows.tolist(), list(range(network.num_units))
    batches = list(padded_batches(images, labels, cores.own_size(len(labels), batch_size)))
    tell = counted(progress, len(batches) * len(every))

    def compared(core: on_cores.Cores, given: Any, batch: PaddedBatch) -> Iterator[Outcomes]:
        variables, own = given
        x, y = core.split(jax.device_put((batch.images, batch.labels)))
        state, step, logits = walker(network, variables, x, core)
        for place in intact_row:
            state = step(place, state)
        intact = logits(state)
        yield compiled_compare(intact, intact, y, loss, metric)
        states: list[jax.Array] = []
        previous = [network.num_units] * network.num_units
        for row, new in zip(every, own, strict=True):
            tell()
            first, step, logits = walker(network, {**variables, "batch_stats": new}, x, core)
            shared = shared_places(row, previous)
            states = states[: shared + 1] or [first]
            for place in row[shared:]:
                states.append(step(place, states[-1]))
            previous = row
            yield compiled_compare(logits(states[-1]), intact, y, loss, metric)

    found = on_cores.over_batches(cores, compared, (variables, statistics), batches)
    scores = Scores.of(stacked(found, (batch.mask for batch in batches)), labels, num_classes)
    tell()
    return scores.take(slice(1, None)), scores.take(slice(1))


def _walk_training(
    network: Network, variables: Variables, x: Any, j: int, rows: list[list[int]], start: float, seed: int
) -> Iterator[Statistics]:
    """The statistics of each row after batch ``j`` in training mode, float64; all were ``start`` before."""
    gates = np.ones(network.num_units, np.float32)
    if network.unit_dropout is not None:  # all units that are not deleted run
        gates = np.asarray(network.test_gates)
        network = dataclasses.replace(network, unit_dropout=None)
    cores = on_cores.shared_cores().if_shared(num_examples(x))
    key = jax.random.fold_in(jax.random.key(seed), j)
    filled = jax.tree.map(lambda v: np.full(v.shape, start, v.dtype), variables["batch_stats"])
    given = cores.copy({**variables, "batch_stats": filled})
    variables, first, stem, keys = cores.wait(_start(cores, network, given, cores.split(x), key))
    units = network.units
    own = [part_of(variables, unit.part) for unit in units]
    states, seen = [first], list[tuple[int, Any]]()
    previous = [network.num_units] * network.num_units
    for row in rows:
        shared = shared_places(row, previous)
        del states[shared + 1 :], seen[shared:]
        for place in row[shared:]:
            u, run = (place, _run_unit) if place >= 0 else (~place, _skip_unit)
            of_unit = own[u], np.int32(units[u].row), states[-1], gates[u], keys["units"][u]
            state, stats = cores.wait(run(cores, units[u].stack.unit, *of_unit))
            states.append(state)
            seen.append((u, stats))
        previous = row
        head = cores.wait(_head(cores, network, variables, states[-1], keys["head"]))
        found = {"stem": stem, "head": head, **{str(u): stats for u, stats in seen}}
        yield jax.tree.map(np.float64, jax.device_get(found))


@on_cores.jit(static=2)
def _start(
    cores: on_cores.Cores, network: Network, variables: Variables, x: Any, key: jax.Array
) -> tuple[Variables, jax.Array, Any, dict[str, Any]]:
    """The variables bound to ``x``, the state in front of the first unit, the stem's statistics, and keys."""
    variables = network.bound(variables, x)
    places = network.places(variables)
    keys = network.keys(key, places)
    of_units = by_unit(places, keys["units"])
    keys["units"] = [of_units[u] for u in range(network.num_units)]
    return variables, *network.run_stem(variables, x, train=True, key=keys["stem"]), keys


@on_cores.jit(static=2)
def _run_unit(
    cores: on_cores.Cores, unit: Unit, stacked: Any, position: Any, h: jax.Array, gate: Any, key: Any
) -> tuple[jax.Array, Any]:
    own = jax.tree.map(lambda v: v[position], stacked)
    parts, stats = run_module(unit, own, h, True, key, gate, method="parts")
    return parts.y, stats


@on_cores.jit(static=2)
def _skip_unit(
    cores: on_cores.Cores, unit: Unit, stacked: Any, position: Any, h: jax.Array, gate: Any, key: Any
) -> tuple[jax.Array, Any]:
    own = jax.tree.map(lambda v: v[position], stacked)
    return run_module(unit, own, h, True, key, method="skip")


@on_cores.jit(static=2)
def _head(cores: on_cores.Cores, network: Network, variables: Variables, h: jax.Array, key: Any) -> Any:
    return network.run_head(variables, h, train=True, key=key)[1]


def _combined(sums: Any, count: int) -> Any:
    """Statistics of all batches, by the law of total variance, from sums [2, …] of values and of squares."""
    if "mean" not in sums:
        return {name: _combined(inner, count) for name, inner in sums.items()}
    mean, squares = sums["mean"] / count
    return {"mean": mean, "var": sums["var"][0] / count + np.maximum(squares - mean**2, 0)}


def _stacked(network: Network, found: Statistics, old: Variables) -> Variables:
    """Statistics in the form and the dtypes of ``old``, where equal units are stacked."""
    parts: dict[str, Any] = {name: found[name] for name in ("stem", "head")}
    for part in {unit.part: None for unit in network.units}:
        own = sorted((unit.row, unit.index) for unit in network.units if unit.part == part)
        parts[part] = jax.tree.map(lambda *v: np.stack(v), *(found[str(u)] for _, u in own))
    return {name: jax.tree.map(lambda v, o: np.asarray(v, o.dtype), parts[name], old[name]) for name in old}
