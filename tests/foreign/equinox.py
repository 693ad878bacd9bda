"""Networks in Equinox, where a module is a pytree that holds its functions, too, and sees one example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from foreign.case import CLASSES, Case, drawn, images, named

WIDTH, HEADS, DEPTH = 4, 2, 2


class Block(eqx.Module):
    """A pre-activation block over CHW."""

    norm1: eqx.nn.GroupNorm
    conv1: eqx.nn.Conv2d
    norm2: eqx.nn.GroupNorm
    conv2: eqx.nn.Conv2d
    projection: eqx.nn.Conv2d | None
    activation: Callable[[jax.Array], jax.Array]

    def __init__(self, wide: int, out: int, stride: int, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.norm1 = eqx.nn.GroupNorm(2, wide)
        self.conv1 = eqx.nn.Conv2d(wide, out, 3, stride, padding=1, use_bias=False, key=keys[0])
        self.norm2 = eqx.nn.GroupNorm(2, out)
        self.conv2 = eqx.nn.Conv2d(out, out, 3, padding=1, key=keys[1])
        self.projection = eqx.nn.Conv2d(wide, out, 1, stride, key=keys[2]) if stride > 1 else None
        self.activation = jax.nn.relu

    def __call__(self, x: jax.Array, left_out: bool) -> jax.Array:
        f = self.conv1(self.activation(self.norm1(x)))
        f = self.conv2(self.activation(self.norm2(f)))
        x = x if self.projection is None else self.projection(x)
        return x if left_out else x + f


class ResNet(eqx.Module):
    stem: eqx.nn.Conv2d
    blocks: tuple[Block, ...]
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        first, last, *keys = jax.random.split(key, 5)
        self.stem = eqx.nn.Conv2d(3, 4, 3, padding=1, key=first)
        sizes = ((4, 4, 1), (4, 4, 1), (4, 6, 2))
        self.blocks = tuple(Block(*size, own) for size, own in zip(sizes, keys, strict=True))
        self.head = eqx.nn.Linear(6, CLASSES, key=last)

    def __call__(self, x: jax.Array, left_out: Any) -> jax.Array:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x, i in left_out)
        return self.head(jnp.mean(x, (1, 2)))


class Layer(eqx.Module):
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __init__(self, key: jax.Array):
        first, second = jax.random.split(key)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, use_output_bias=True, key=first)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 8, 1, jax.nn.gelu, key=second)
        self.dropout = eqx.nn.Dropout(0.1, inference=True)


class ViT(eqx.Module):
    patches: eqx.nn.Conv2d
    positions: jax.Array
    layers: tuple[Layer, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        first, last, *keys = jax.random.split(key, 2 + DEPTH)
        self.patches = eqx.nn.Conv2d(3, WIDTH, 2, 2, key=first)
        self.positions = jnp.zeros((9, WIDTH))
        self.layers = tuple(map(Layer, keys))
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, CLASSES, key=last)

    def __call__(self, x: jax.Array, left_out: Any) -> jax.Array:
        h = self.patches(x).reshape(WIDTH, -1).T + self.positions
        for i, layer in enumerate(self.layers):
            f = jax.vmap(layer.norm1)(h)
            f = layer.dropout(layer.attention(f, f, f))
            h = h if 2 * i in left_out else h + f
            f = layer.dropout(jax.vmap(layer.mlp)(jax.vmap(layer.norm2)(h)))
            h = h if 2 * i + 1 in left_out else h + f
        return self.head(self.norm(jnp.mean(h, 0)))


def run(variables: Any, x: Any, left_out: Any) -> jax.Array:
    return jax.vmap(lambda one: variables(one, left_out))(x)


def resnet_case() -> Case:
    units = list(named("blocks/{}", 3))
    units[2] = ("blocks/2", "affine")
    return Case(
        run, drawn(eqx.filter_eval_shape(ResNet, jax.random.key(0))), images((3, 6, 6)), tuple(units), "aab"
    )


def vit_case() -> Case:
    units = named("layers/{}", DEPTH, "attention", "mlp")
    return Case(run, drawn(eqx.filter_eval_shape(ViT, jax.random.key(0))), images((3, 6, 6)), units, "abab")


CASES = {"pre-activation ResNet": resnet_case, "ViT": vit_case}
