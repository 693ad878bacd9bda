"""How far a block of consecutive units moves the state: the rule by which layers of language models are cut.

*Definition.* Units i … j are a block. x is the state behind it in the intact network, and x̃ what the block
returns when all of its units are deleted: its input, wherever the shortcuts are identities. Their *angular
distance*, over the whole state of an example as one vector, is

    d(i … j) = mean over examples of  arccos(x·x̃ / ‖x‖‖x̃‖) / π,   0 (same direction) … 1 (opposite).

For a block of one unit it ranks units as the Block Influence 1 − E[cos] of ShortGPT (Men et al. 2024,
arXiv:2403.03853) does, but for the mean of angles instead of cosines. For n units it is the distance of
Gromov et al. (2024, arXiv:2403.17887, Eq. 7), who cut the block of n layers whose distance is least. There a
state is that of one token, here that of one image.

*Order.* The distance of a set S of units is the sum over its runs of consecutive units. Units are cut one
after the other, so that the distance of all that are gone is the least:

    u_k = argmin_u D({u_1, …, u_{k−1}, u}),   D(S) = Σ over runs i … j of S of d(i … j).

Ties go to the earlier unit. No label is used. A distance that is not a number ranks last.

*Cost.* A forward pass; and the shortcuts of each block, n²/2 in all, which do not run branches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network import Network, Variables
from resjax.studies.batches import BATCH_SIZE, Progress, padded_batches
from resjax.studies.examples import checked_inputs, num_examples
from resjax.studies.lesions.prefixes import walker


def block_distances(
    network: Network,
    variables: Variables,
    images: Any,
    allowed: np.ndarray,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> np.ndarray:
    """float64 [units, units]: at [i, j], i ≤ j, the angular distance of the block of units i … j; NaN for
    other pairs, and for blocks with a unit that is not ``allowed`` (bool [units]).

    Raises:
      ValueError: other connections bypass units (``Network.chained``), or no example.
    """
    n, count = network.num_units, 0
    sums, known = np.zeros((n, n)), np.zeros((n, n), bool)
    every = blocks_by_batch(network, variables, images, allowed, n, batch_size=batch_size, progress=progress)
    for mask, blocks in every:
        count += int(mask.sum())
        for i, j, behind, without in blocks:
            known[i, j] = True
            sums[i, j] += np.asarray(angles(behind, without))[mask].sum(dtype=float)
    return np.where(known, sums / count, np.nan)


Block = tuple[int, int, jax.Array, jax.Array]
"""First and last unit; the state behind them in the intact network, and without them."""


def blocks_by_batch(
    network: Network,
    variables: Variables,
    images: Any,
    allowed: np.ndarray,
    longest: int,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Iterator[tuple[np.ndarray, Iterator[Block]]]:
    """For each batch of examples its mask bool [B], False where an example is padding, and all blocks of at
    most ``longest`` units that are ``allowed``, in order."""
    network.check_chain()
    images = checked_inputs(network, images)
    none = np.zeros(num_examples(images), int)
    for batch in padded_batches(images, none, batch_size, progress):
        state, step, _ = walker(network, variables, batch.images)
        states = [state]
        for i in range(network.num_units):
            states.append(step(i, states[-1]))
        yield batch.mask, _blocks(states, step, allowed, longest)


def _blocks(states: Any, step: Any, allowed: np.ndarray, longest: int) -> Iterator[Block]:
    for i in range(len(allowed)):
        without, end = states[i], min(i + longest, len(allowed))
        for j in itertools.takewhile(allowed.__getitem__, range(i, end)):
            without = step(~j, without)
            yield i, j, states[j + 1], without


@jax.jit
def angles(a: jax.Array, b: jax.Array) -> jax.Array:
    """[B], angles between vectors as shares of a half turn. (Two arc tangents lose no digits near 0, where
    the arc cosine does.)"""
    a, b = (v.reshape(len(v), -1).astype(jnp.promote_types(v.dtype, jnp.float32)) for v in (a, b))
    a, b = (
        v / jnp.maximum(jnp.linalg.norm(v, axis=1, keepdims=True), jnp.finfo(v.dtype).tiny) for v in (a, b)
    )
    apart, along = (jnp.linalg.norm(v, axis=1) for v in (a - b, a + b))
    return 2 / jnp.pi * jnp.arctan2(apart, along)


def by_similarity(distances: np.ndarray, allowed: np.ndarray, count: int) -> np.ndarray:
    """int [count]: the units in the order in which they are cut; ``distances`` from ``block_distances``."""
    gone = np.zeros(len(allowed), bool)
    order: list[int] = []
    for _ in range(count):
        left = np.flatnonzero(allowed & ~gone)
        totals = [_total(distances, gone | (np.arange(len(gone)) == unit)) for unit in left]
        order.append(int(left[int(np.argmin(np.nan_to_num(totals, nan=np.inf)))]))
        gone[order[-1]] = True
    return np.array(order)


def _total(distances: np.ndarray, gone: np.ndarray) -> float:
    """D of a set bool [units]."""
    runs = itertools.groupby(range(len(gone)), key=gone.__getitem__)
    blocks = [list(units) for is_gone, units in runs if is_gone]
    return float(sum(distances[block[0], block[-1]] for block in blocks))
