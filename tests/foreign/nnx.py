"""Networks in Flax NNX: the module itself is the variables, or its state where a module is no pytree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from foreign.case import CLASSES, TOKENS, VOCABULARY, Case, drawn, images, named, tokens

WIDTH, HEADS, DEPTH = 4, 2, 2
PYTREES = tuple(map(int, flax.__version__.split(".")[:2])) >= (0, 12)
listed = nnx.List if PYTREES else list


class Block(nnx.Module):
    """A basic block; with a stride, the shortcut is a projection."""

    def __init__(self, wide: int, features: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(wide, features, (3, 3), stride, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(features, rngs=rngs)
        self.conv2 = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(features, rngs=rngs)
        self.projection = nnx.Conv(wide, features, (1, 1), stride, rngs=rngs) if stride > 1 else None

    def __call__(self, x: jax.Array, left_out: bool) -> jax.Array:
        f = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        x = x if self.projection is None else self.projection(x)
        return nnx.relu(x if left_out else f + x)


class ResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        sizes = ((4, 4, 1), (4, 4, 1), (4, 6, 2))
        self.blocks = listed([Block(*size, rngs) for size in sizes])
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array, left_out: Any = ()) -> jax.Array:
        x = nnx.relu(self.stem(x))
        for i, block in enumerate(self.blocks):
            x = block(x, i in left_out)
        return self.head(jnp.mean(x, (1, 2)))


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: Any, **_: Any) -> jax.Array:
    """Attention in the dtype of its input; that of the library is always in float32."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, attention_fn=attend, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.wider = nnx.Linear(WIDTH, 8, rngs=rngs)
        self.narrower = nnx.Linear(8, WIDTH, rngs=rngs)


class Decoder(nnx.Module):
    """A causal transformer whose head is its embedding."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Param(jnp.zeros((VOCABULARY, WIDTH)))
        self.positions = nnx.Param(jnp.zeros((TOKENS, WIDTH)))
        self.layers = listed([Layer(rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, numbers: jax.Array, left_out: Any = ()) -> jax.Array:
        x = self.embed[...][numbers] + self.positions[...]
        mask = nnx.make_causal_mask(numbers)
        for i, layer in enumerate(self.layers):
            f = layer.attention(layer.norm1(x), mask=mask)
            x = x if 2 * i in left_out else x + f
            f = layer.narrower(nnx.gelu(layer.wider(layer.norm2(x))))
            x = x if 2 * i + 1 in left_out else x + f
        return self.norm(x) @ self.embed[...].T


def statistics_of(variables: Any) -> Any:
    return nnx.filter_state(nnx.state(variables), nnx.BatchStat)


def as_function(make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Any, Any, Any]:
    """(run, its variables, train_fn) of a module."""
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    module.eval()
    shape, state = nnx.split(module)

    def whole(variables: Any) -> Any:
        """A module of its own, since training would change the one that was given."""
        return nnx.merge(shape, nnx.state(variables) if PYTREES else variables)

    def run(variables: Any, x: Any, left_out: Any) -> jax.Array:
        return (variables if PYTREES else whole(variables))(x, left_out)

    def train_fn(variables: Any, x: Any, key: Any) -> Any:
        trained = whole(variables)
        trained.train()
        logits = trained(x)
        return logits, statistics_of(trained)

    return run, drawn(module if PYTREES else state), train_fn


def resnet_case() -> Case:
    run, variables, train_fn = as_function(ResNet)
    units = list(named("blocks/{}", 3))
    units[2] = ("blocks/2", "affine")
    return Case(run, variables, images(), tuple(units), "aab", "relu", train_fn, statistics_of)


def decoder_case() -> Case:
    def positions(gradients: Any) -> jax.Array:
        found = gradients.positions if PYTREES else gradients["positions"]
        return found[...] if PYTREES else found.value

    run, variables, _ = as_function(Decoder)
    units = named("layers/{}", DEPTH, "attention", "wider")
    return Case(run, variables, tokens(), units, "abab", stem_bias=positions)


CASES = {"ResNet": resnet_case, "decoder": decoder_case}
