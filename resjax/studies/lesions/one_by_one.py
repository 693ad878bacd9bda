"""One unit changed at a time, from the states of the intact network: half of a forward pass for each change.

A change gives a unit another factor on its branch, or other variables. Up to it, the states are those of the
intact network, which are computed once for all changes; the units behind it run again. The programs are those
of ``prefixes``.

*Memory.* One state for each unit, of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.studies.batches import BATCH_SIZE, PaddedBatch, Progress, counted, padded_batches
from resjax.studies.examples import checked_examples
from resjax.studies.lesions.prefixes import walker
from resjax.studies.scores import Outcomes, Scores, compiled_compare, stacked


class Change(NamedTuple):
    """Of unit ``unit``: a factor on its branch, and variables of the network that it takes; a collection that
    they lack, such as batch_stats, stays as it is."""

    unit: int
    factor: float | None = None
    other: Variables | None = None


def measure_changes(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    changes: Sequence[Change],
    *,
    loss: Loss = cross_entropy,
    metric: Metric = share_wrong,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[Scores, Scores]:
    """Scores of one network for each change, and of the intact one (m = 1).

    Args: those of every analysis (``Inference``), where ``progress`` counts changes in each batch, and
      network: any that is chained.
      changes: one or more.
    """
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    cores, n = on_cores.shared_cores(), network.num_units
    # The same arrays for all changes that take them: copying is what costs.
    others = {id(change.other): change.other for change in changes if change.other is not None}
    batches = list(padded_batches(images, labels, cores.own_size(len(labels), batch_size)))
    tell = counted(progress, len(batches) * len(changes))

    def compared(core: on_cores.Cores, given: Any, batch: PaddedBatch) -> Iterator[Outcomes]:
        variables, copied = given[0], dict(zip(others, given[1], strict=True))
        x, y = core.split(jax.device_put((batch.images, batch.labels)))
        first, step, logits = walker(network, variables, x, core)
        states = [first]
        for u in range(n):
            states.append(step(u, states[-1]))
        intact = logits(states[-1])
        yield compiled_compare(intact, intact, y, loss, metric)
        for u, factor, other in changes:
            tell()
            state = step(u, states[u], None if other is None else copied[id(other)], factor)
            for behind in range(u + 1, n):
                state = step(behind, state)
            yield compiled_compare(logits(state), intact, y, loss, metric)

    found = on_cores.over_batches(cores, compared, (variables, list(others.values())), batches)
    scores = Scores.of(stacked(found, (batch.mask for batch in batches)), labels, num_classes)
    tell()
    return scores.take(slice(1, None)), scores.take(slice(1))
