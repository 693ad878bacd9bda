"""A small map in the place of units that were cut.

A deleted unit leaves its shortcut, as if its branch were 0. A map does better where the branch moves the
state in a simple way, at a fraction of the cost. It acts on the channels c = 1 … C (the last axis) of the
state x, at every position alike:

* ``affine``: y_c = a_c·x_c + b_c. 2C parameters.
* ``linear``: y = x + U·Vᵀ·x + b, with U and V of shape [C, r]. 2rC + C parameters, 2rC multiply-adds at each
  position. (A unit of two 3×3 convolutions has 18C².)

A ReLU follows where one ends the units themselves, so that later units see states that are never negative, as
before. No position sees another, so maps can't replace what branches find in space.

``resjax.studies.cutting.maps`` finds a and b, or U, V and b, by least squares.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

KINDS = ("affine", "linear")
# Of each parameter, or of the parameters of a layer: a new map returns its input.
INITIAL = {
    "scale": nn.initializers.ones,
    "bias": nn.initializers.zeros,
    "down": nn.initializers.lecun_normal(),
    "up": nn.initializers.zeros,
}


class Map(nn.Module):
    """[B, …, C] → [B, …, C], the same at all positions.

    ``down`` [C, r] is V and ``up`` [r, C] is Uᵀ. A rank r above C is C.
    """

    kind: str  # one of KINDS
    rank: int  # of 'linear'
    rectified: bool  # a ReLU follows

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        channels = x.shape[-1]
        if self.kind == "linear":
            rank = min(self.rank, channels)
            down = nn.Dense(rank, False, x.dtype, kernel_init=INITIAL["down"], name="down")
            up = nn.Dense(channels, True, x.dtype, kernel_init=INITIAL["up"], name="up")
            y = x + up(down(x))
        else:
            scale, bias = (
                self.param(name, INITIAL[name], (channels,), jnp.float32)
                .astype(x.dtype)
                .reshape((1,) * (x.ndim - 1) + (channels,))
                for name in ("scale", "bias")
            )
            y = scale * x + bias
        return nn.relu(y) if self.rectified else y


def check(kind: str, rank: int) -> None:
    """Raises ValueError for a kind or a rank that no map has."""
    if kind not in KINDS:
        raise ValueError(f"map={kind!r}; allowed: {', '.join(KINDS)}")
    if rank < 1:
        raise ValueError(f"map_rank={rank}; allowed: 1 or more")
