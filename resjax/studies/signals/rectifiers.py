"""Fully connected ReLU networks with one input, for testing theory about initialization.

They are networks like any other: the stem is a first layer, a unit is one linear layer, and the head returns
the last state, so that "logits" are states.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from resjax.models.layers import BatchNorm, Dense, he_normal
from resjax.network import Network, Stack
from resjax.network.unit import Unit


class RectifierUnit(Unit):
    """x + β·linear(relu(norm(x))), or without ``x +`` in a plain network; [B, width] → [B, width]."""

    width: int
    shortcut: bool
    norm: bool
    beta: float = 1.0

    @property
    def residual(self) -> bool:
        return self.shortcut

    def setup(self) -> None:
        self.dense = Dense(self.width, kernel_init=he_normal)
        if self.norm:
            self.bn = BatchNorm()

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        h = self.bn(x, train) if self.norm else x
        return x, self.beta * self.dense(nn.relu(h))


class _Spread(nn.Module):
    """First layer, [B, 1, 1, 1] → [B, width]: weights and biases N(0, 1)."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        normal = nn.initializers.normal(1.0)
        return Dense(self.width, kernel_init=normal, bias_init=normal)(x.reshape(len(x), -1))


class _State(nn.Module):
    """A head that returns the last state."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return x


def rectifier_network(
    depth: int, width: int = 200, *, shortcut: bool, norm: bool, beta: float = 1.0
) -> Network:
    """A fully connected network with one input, whose "logits" are its last state [B, width].

    Args:
      depth: number of units, one linear layer of ``width`` each.
      shortcut, norm: whether units have shortcuts; whether BatchNorm precedes every ReLU.
      beta: factor by which branches are scaled.
    """
    unit = RectifierUnit(width, shortcut, norm, beta)
    return Network(_Spread(width), (Stack("units", unit, depth, 1),), _State())
