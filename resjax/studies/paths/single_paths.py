"""Gradients through single paths, several at a time in one walk through the network.

Paths that cross the last units in the same way have the same gradient in front of these units. It is one
*row*, which is computed once: at the last unit there are two, at the one before it at most four. Nothing is
approximated. Random paths soon differ, so only a part of the work is saved. Of n = 27 units, one path of each
length crosses n(n + 1)/2 = 378 branches. With shared rows, 310 passes of a branch are left. If a walk has two
paths of each length, 282 are left for each of the two; with four, 260 (means of 20 walks, counted).

*Memory.* One gradient for each path, and that of the whole network.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss
from resjax.studies.paths.path_walk import (
    Crossing,
    Probe,
    largest,
    norm_of_each,
    rows_before,
    walk_back,
    wide,
)


class Rows(NamedTuple):
    """Which rows each unit computes, int32; the row of a group of paths is that of its first path."""

    crossing: np.ndarray  # [units, paths]: rows that cross the branch, then rows that cross the shortcut
    new: np.ndarray  # [units, paths]: rows that begin here
    source: np.ndarray  # [units, paths]: the row from which each of them is copied
    num_branches: np.ndarray  # [units]: how many cross the branch
    num_crossing: np.ndarray  # [units]
    num_new: np.ndarray  # [units]


def rows_of(through: np.ndarray) -> tuple[Rows, np.ndarray]:
    """The rows of the paths bool [units, paths], and the row int [paths] of each path behind the walk."""
    count = through.shape[1]
    row = np.zeros(count, int)  # behind the last unit, all paths are one
    found = []
    for own in through[::-1]:
        _, first, group = np.unique(2 * row + own, return_index=True, return_inverse=True)
        behind, row = row, first[group]
        now = np.flatnonzero(row == np.arange(count))
        by_branch, new = now[own[now]], now[behind[now] != now]
        crossing = np.append(by_branch, now[~own[now]])
        padded = (np.pad(rows, (0, count - len(rows))) for rows in (crossing, new, behind[new]))
        found.append((*padded, len(by_branch), len(now), len(new)))
    return Rows(*(np.array(column, np.int32) for column in zip(*found[::-1], strict=True))), row


@on_cores.jit_each(static=4)
def walk_paths(
    core: on_cores.Cores, network: Network, loss: Loss, probe: Probe, variables: Variables, *batch: Any
) -> tuple[jax.Array, jax.Array]:
    """Norms [paths + 1, B] of scaled gradients, and logarithms [paths + 1] of their scales, by row; the last
    are those of the whole gradient. A row that no path has is 0.

    ``batch`` is (rows, images, labels, key), with ``Rows``.
    """
    rows, images, *others = batch
    first = jax.eval_shape(partial(_first, network), variables, images)
    count = rows.crossing.shape[1]
    walk = walk_back(
        *(network, loss, probe, variables, images, *others),
        # The whole gradient is no row of the buffer: a second reader of it would make XLA copy it.
        start=lambda c: (jnp.zeros((count, *c.shape), c.dtype).at[0].set(c), c),
        cross=_cross,
        carry=jnp.zeros(count, wide(first)),
        xs=rows,
    )
    singles, whole = walk.rows
    norms = lax.map(lambda c: norm_of_each(walk.to_input(c)), singles)
    norms = jnp.concatenate([norms, norm_of_each(walk.to_input(whole))[None]])
    logs = jnp.append(walk.carry, jnp.zeros((), walk.carry.dtype))
    return norms, logs + jnp.log(walk.scale).astype(logs.dtype)


def _first(network: Network, variables: Variables, images: Any) -> jax.Array:
    """The state in front of the first unit."""
    return network.run_stem(network.bound(variables, images), images)[0]


def _cross(unit: Crossing, gradients: tuple[jax.Array, jax.Array], logs: jax.Array, which: Rows) -> Any:
    """Each row takes the branch or the shortcut; the whole gradient takes both. The product of many small
    factors would underflow, so after a branch the row is scaled to a largest entry of 1, and the logarithm of
    the scale is kept."""

    def copy(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows, logs = state
        to, source = which.new[i], which.source[i]
        return rows.at[to].set(rows[source]), logs.at[to].set(logs[source])

    rows, whole = gradients
    rows, logs = lax.fori_loop(0, which.num_new, copy, (rows, logs))
    new, old = rows_before(unit, rows)
    merge, branch = unit.merge(), unit.branch()

    # Rows that take the branch come first: two loops with traced bounds, so each row computes only one way.
    def by_branch(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        new, logs = state
        k = which.crossing[i]
        c = branch(merge(old(new, k)))
        top = largest(c)
        return new.at[k].set(c / top), logs.at[k].add(jnp.log(top.astype(logs.dtype)))

    new, logs = lax.fori_loop(0, which.num_branches, by_branch, (new, logs))
    if not unit.unit.residual:
        return (new, branch(merge(whole))), logs, None
    shortcut, both, whole = unit.shortcut(), unit.both(), merge(whole)

    def by_shortcut(i: jax.Array, new: jax.Array) -> jax.Array:
        k = which.crossing[i]
        return new.at[k].set(shortcut(merge(old(new, k))))

    new = lax.fori_loop(which.num_branches, which.num_crossing, by_shortcut, new)
    return (new, both(whole, whole)), logs, None
