"""Runs a network on images and on their shifted copies, for ``equivariance``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu import shared_batches as on_cores
from resjax.models.layer_table import layer_table
from resjax.network import Network, Tap, Variables
from resjax.network.cut import beside_branch
from resjax.network.refusal import Refusal

DIRECTIONS = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}
# What counts as a change, relative to the largest feature: more than rounding.
_CHANGED = 1e-5
_MOVES = tuple(DIRECTIONS.values())

Steps = tuple[int, int]


def translate(images: jax.Array, down: Any, right: Any) -> jax.Array:
    """Moves [B, H, W, C] by whole pixels (negative: up, left); what enters repeats the outermost pixels."""
    rows, columns = (
        jnp.clip(jnp.arange(n) - by, 0, n - 1) for n, by in zip(images.shape[1:3], (down, right), strict=True)
    )
    return images[:, rows][:, :, columns]


class Map(NamedTuple):
    """Sums of squares over examples, directions and channels at one place of the network, for each position
    [h, w] before the shift; 0 where a position leaves the map."""

    off: Any  # f(Tx) − Tf(x)
    size: Any  # Tf(x)
    off_in_place: Any  # f(Tx) − f(x)
    size_in_place: Any  # f(x)


class Sums(NamedTuple):
    maps: list[Map]  # one for each place
    wrong: Any  # [direction], predictions
    agree: Any  # [direction], predictions equal to that of the unshifted image
    change: Any  # sum of squares of the changes of the logits
    size: Any  # sum of squares of the logits


@on_cores.jit(static=3)
def moved_batch(
    cores: on_cores.Cores,
    network: Network,
    steps: tuple[Steps, ...],
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    pixels: jax.Array,
) -> Sums:
    """Sums over one batch and its four shifted copies."""
    copies = [translate(images, pixels * down, pixels * right) for down, right in _MOVES]
    # The copies of an image stay together, on its core.
    x = jnp.stack([images, *copies], 1).reshape(-1, *images.shape[1:])
    weight = mask.astype(jnp.float32)

    def squares(a: jax.Array) -> jax.Array:
        return jnp.einsum("bhwc,b->hw", jnp.square(a), weight.astype(a.dtype))

    def look(y: jax.Array, step: Steps) -> Map:
        if y.ndim != 4:
            return Map(*(jnp.zeros((0, 0)),) * 4)
        y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        before, *after = _by_copy(y)
        sums = []
        for move, moved in zip(_MOVES, after, strict=True):
            by = [pixels * m // s for m, s in zip(move, step, strict=True)]
            # Moved back, a feature is compared at the position where it was.
            back = jnp.roll(jnp.roll(moved, -by[0], 1), -by[1], 2)
            rows, columns = (
                (jnp.arange(n) + b >= 0) & (jnp.arange(n) + b < n)
                for n, b in zip(y.shape[1:3], by, strict=True)
            )
            inside = rows[:, None] & columns[None]
            here = jnp.roll(jnp.roll(inside, by[0], 0), by[1], 1)
            size = squares(before)
            moved_along = (jnp.where(inside, v, 0) for v in (squares(back - before), size))
            in_place = (jnp.where(here, v, 0) for v in (squares(moved - before), size))
            sums.append(Map(*moved_along, *in_place))
        return jax.tree.map(lambda *v: sum(v), *sums)

    maps, logits = _walk(network, variables, x, look, steps)
    before, *after = _by_copy(logits)
    answer, answers = before.argmax(-1), jnp.stack(after).argmax(-1)
    squared = jnp.square(jnp.stack(after) - before[None])
    return Sums(
        maps,
        jnp.sum(weight[None] * (answers != labels[None]), 1),
        jnp.sum(weight[None] * (answers == answer[None]), 1),
        jnp.sum(weight[None, :, None] * squared),
        len(after) * jnp.sum(weight[:, None] * jnp.square(before)),
    )


def _by_copy(y: jax.Array) -> jax.Array:
    """[B · copies, …] → [copies, B, …]: of the images, then of those moved in each direction."""
    return jnp.moveaxis(y.reshape(-1, 1 + len(_MOVES), *y.shape[1:]), 1, 0)


@partial(jax.jit, static_argnums=0)
def reached(
    network: Network, variables: Variables, images: jax.Array, noise: jax.Array, width: jax.Array
) -> list[jax.Array]:
    """For each place, bool [h, w]: whether noise in a frame of ``width`` pixels changes the features."""
    rows, columns = ((jnp.arange(n) < width) | (jnp.arange(n) >= n - width) for n in images.shape[1:3])
    frame = (rows[:, None] | columns[None])[None, :, :, None]
    x = jnp.concatenate([images, jnp.where(frame, noise, images)])

    def look(y: jax.Array, step: Steps) -> jax.Array:
        if y.ndim != 4:
            return jnp.zeros((0, 0), bool)
        before, after = jnp.split(y, 2)
        change = jnp.abs(after - before).max((0, 3))
        return change > _CHANGED * jnp.abs(before).max()

    return _walk(network, variables, x, look, ((1, 1),) * (1 + network.num_units))[0]


def _walk(
    network: Network,
    variables: Variables,
    x: jax.Array,
    look: Callable[[jax.Array, Steps], Any],
    steps: tuple[Steps, ...],
) -> tuple[list[Any], jax.Array]:
    """``look(features, total strides)`` at the stem and behind every unit; and the logits."""
    variables, gates = network.bound(variables, x), network.test_gates
    h, _ = network.run_stem(variables, x)
    seen = [look(h, steps[0])]
    for stack, own in network.spans:
        tap: Tap = partial(lambda step, parts: look(parts.y, step), steps[1 + own.start])
        its = None if gates is None else gates[own]
        h, _, taps = network.run_stack(stack, variables, h, gates=its, tap=tap)
        seen += [jax.tree.map(lambda v, i=i: v[i], taps) for i in range(stack.n)]
    return seen, network.run_head(variables, h)[0]


def total_strides(network: Network, image_shape: tuple[int, ...]) -> tuple[Steps, ...]:
    """(down, across) of the stem and of each unit, from the layers that ``resjax.describe`` sees.

    Raises:
      Refusal: it sees no layer with a stride.
    """
    height, width, channels = image_shape
    own = {name: np.ones(2, int) for name in ("stem", *(unit.name for unit in network.units))}
    rows = layer_table(network, (height, width, channels))
    if not any(row.stride for row in rows):
        raise Refusal("shifts need the strides of layers, and no convolution or pooling can be seen")
    for row in rows:
        if row.unit in own and row.stride and not beside_branch(row.layer.split("/")):
            own[row.unit] *= row.stride
    down, across = np.cumprod(list(own.values()), axis=0).T
    return tuple(zip(down.tolist(), across.tolist(), strict=True))
