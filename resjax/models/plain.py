"""Units of networks without shortcuts: one weight layer each.

A unit can be deleted if its input has the shape of its output. A pooling between two layers belongs to the
unit *after* it, and stays when that unit's weight layer is deleted, as the shortcut's subsampling stays in a
residual network.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import BatchNorm, Dense, Initializer, LocalResponseNorm
from resjax.network import Stack
from resjax.network.unit import Unit


def scaled_tanh(a: jax.Array) -> jax.Array:
    """1.7159·tanh(2a/3) (LeCun et al. 1998, Eq. 6, Appendix A): ±1 maps to ±1, where curvature is maximal."""
    return 1.7159 * jnp.tanh(2 / 3 * a)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "scaled_tanh": scaled_tanh,
}


class ConvUnit(Unit):
    """(pooling) → convolution → (BatchNorm) → activation → (LRN), [B, H, W, C] → [B, H', W', C'].

    ``activation`` is one of ``ACTIVATIONS``. The pooling stays when the unit is deleted.
    """

    conv: nn.Module
    pool: nn.Module | None = None
    bn: BatchNorm | None = None
    lrn: LocalResponseNorm | None = None
    activation: str = "relu"

    @property
    def residual(self) -> bool:
        return False

    @property
    def rectified(self) -> bool:
        return self.activation == "relu"

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array | None, jax.Array]:
        x = self.skip(x)
        h = _conv_layer(self, x, train)
        return (x if x.shape == h.shape else None), h

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return x if self.pool is None else self.pool(x)


class ConvStem(nn.Module):
    """Convolution → (BatchNorm) → activation → (LRN) → (pooling); attributes as in ``ConvUnit``.

    ``pad`` zeros, ((top, bottom), (left, right)), are added to the image first.
    """

    conv: nn.Module
    pool: nn.Module | None = None
    bn: BatchNorm | None = None
    lrn: LocalResponseNorm | None = None
    activation: str = "relu"
    pad: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = _conv_layer(self, jnp.pad(x, ((0, 0), *self.pad, (0, 0))), train)
        return h if self.pool is None else self.pool(h)


def _conv_layer(module: ConvUnit | ConvStem, x: jax.Array, train: bool) -> jax.Array:
    h = module.conv(x)
    h = h if module.bn is None else module.bn(h, train)
    h = ACTIVATIONS[module.activation](h)
    return h if module.lrn is None else module.lrn(h)


class DenseUnit(Unit):
    """(pooling) → flattening → fully connected layer → activation → dropout, [B, …] → [B, features].

    Images are flattened in the order H, W, C. ``pool`` and then ``adaptive_pool`` stay when the unit is
    deleted; ``dropout`` is the dropout rate of the outputs.
    """

    dense: Dense
    pool: nn.Module | None = None
    adaptive_pool: nn.Module | None = None
    activation: str = "relu"
    dropout: float = 0.0

    @property
    def residual(self) -> bool:
        return False

    @property
    def rectified(self) -> bool:
        return self.activation == "relu"

    def setup(self) -> None:
        self.drop = nn.Dropout(self.dropout)

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array | None, jax.Array]:
        x = self.skip(x)
        h = ACTIVATIONS[self.activation](self.dense(x))
        h = self.drop(h, deterministic=not train)
        return (x if x.shape == h.shape else None), h

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        for pool in (self.pool, self.adaptive_pool):
            x = x if pool is None else pool(x)
        return x.reshape(x.shape[0], -1)


class Classifier(nn.Module):
    """Head that is one fully connected layer, in float32: (pooling) → [B, …] → logits [B, classes]."""

    classes: int
    kernel_init: Initializer
    pool: nn.Module | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = x if self.pool is None else self.pool(x)
        dense = Dense(self.classes, kernel_init=self.kernel_init, name="classifier")
        return dense(x.reshape(x.shape[0], -1))


class Layer(NamedTuple):
    """One unit of a chain, with ``in_features`` input channels; equal neighbours are stacked later."""

    name: str
    stage: int
    in_features: int
    unit: ConvUnit


def stacks(layers: Iterable[Layer]) -> tuple[Stack, ...]:
    """Joins neighbours of one stage into a stack if they are equal, including their input channels."""
    joined = []
    # Modules cannot be sorted and need not be: groupby only tests neighbours for equality.
    for (stage, _, unit), run in itertools.groupby(layers, lambda layer: layer[1:]):
        names = [layer.name for layer in run]
        name = names[0] if len(names) == 1 else f"{names[0]}_to_{names[-1].rpartition('_')[2]}"
        joined.append(Stack(name, unit, len(names), stage))
    return tuple(joined)
