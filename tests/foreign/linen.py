"""Networks in Flax Linen."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from foreign.case import CLASSES, TOKENS, VOCABULARY, Case, drawn, images, named, tokens

WIDTH, HEADS, DEPTH = 4, 2, 2


def shapes(module: nn.Module, x: Any, **kwargs: Any) -> Any:
    """The variables of a module, drawn."""
    return drawn(jax.eval_shape(functools.partial(module.init, **kwargs), jax.random.key(0), x))


# --- residual networks with BatchNorm ---


class Block(nn.Module):
    """A basic block, post- or pre-activation."""

    features: int
    pre: bool
    stride: int = 1
    left_out: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        conv = functools.partial(nn.Conv, self.features, (3, 3), use_bias=False)
        f = nn.relu(norm()(x)) if self.pre else x
        f = conv(strides=self.stride)(f)
        f = conv()(nn.relu(norm()(f)))
        f = f if self.pre else norm()(f)
        if self.stride > 1:
            x = nn.Conv(self.features, (1, 1), self.stride, use_bias=False, name="projection")(x)
            x = norm(name="projected")(x)
        x = x if self.left_out else x + f
        return x if self.pre else nn.relu(x)


class ResNet(nn.Module):
    pre: bool
    left_out: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(WIDTH, (3, 3), name="stem")(x)
        for i, (features, stride) in enumerate(((4, 1), (4, 1), (6, 2))):
            x = Block(features, self.pre, stride, i in self.left_out, name=f"block{i}")(x, train)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x)) if self.pre else x
        return nn.Dense(CLASSES, name="head")(jnp.mean(x, (1, 2)))


def resnet_case(pre: bool) -> Case:
    def run(variables: Any, x: Any, left_out: Any) -> jax.Array:
        return ResNet(pre, tuple(left_out)).apply(variables, x)

    def train_fn(variables: Any, x: Any, key: Any) -> Any:
        return ResNet(pre).apply(variables, x, train=True, mutable=["batch_stats"])

    units = list(named("block{}", 3))
    units[2] = ("block2", "affine")
    variables = shapes(ResNet(pre), images())
    follows = "" if pre else "relu"
    own = (train_fn, lambda variables: {"batch_stats": variables["batch_stats"]})
    return Case(run, variables, images(), tuple(units), "aab", follows, *own)


# --- ConvNeXt with stochastic depth, which is off ---


class DropPath(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, f: jax.Array, train: bool) -> jax.Array:
        if not train:
            return f
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (f.shape[0], 1, 1, 1))
        return jnp.where(kept, f / (1 - self.rate), 0)


class ConvNeXtBlock(nn.Module):
    rate: float
    left_out: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        f = nn.LayerNorm()(nn.Conv(WIDTH, (3, 3), feature_group_count=WIDTH)(x))
        f = nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(f)))
        f = f * self.param("gamma", nn.initializers.constant(1e-6), (WIDTH,))
        f = DropPath(self.rate)(f, train)
        return x if self.left_out else x + f


class ConvNeXt(nn.Module):
    left_out: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.LayerNorm(name="stem_norm")(nn.Conv(WIDTH, (2, 2), 2, name="stem")(x))
        for i in range(DEPTH):
            x = ConvNeXtBlock(0.1 * i, i in self.left_out, name=f"block{i}")(x, train)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(name="norm")(jnp.mean(x, (1, 2))))


def convnext_case() -> Case:
    def run(variables: Any, x: Any, left_out: Any) -> jax.Array:
        return ConvNeXt(tuple(left_out)).apply(variables, x)

    return Case(run, shapes(ConvNeXt(), images()), images(), named("block{}", DEPTH), "aa")


# --- transformers ---


class Layer(nn.Module):
    """Attention and MLP, each beside a shortcut."""

    left_out: tuple[int, ...] = ()
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2], bool)) if self.causal else None
        f = nn.LayerNorm(name="norm1")(x)
        f = nn.MultiHeadDotProductAttention(HEADS, name="attention", deterministic=True)(f, f, mask=mask)
        f = nn.Dropout(0.1, deterministic=True)(f)
        x = x if 0 in self.left_out else x + f
        f = nn.gelu(nn.Dense(8, name="wider")(nn.LayerNorm(name="norm2")(x)))
        f = nn.Dropout(0.1, deterministic=True)(nn.Dense(WIDTH, name="narrower")(f))
        return x if 1 in self.left_out else x + f


class ViT(nn.Module):
    left_out: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(WIDTH, (3, 3), 3, name="patches")(x)
        x = x.reshape(x.shape[0], -1, WIDTH)
        token = self.param("token", nn.initializers.zeros, (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(), (1, 5, WIDTH))
        for i in range(DEPTH):
            own = tuple(j - 2 * i for j in self.left_out if j // 2 == i)
            x = Layer(own, name=f"layer{i}")(x)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(name="norm")(x)[:, 0])


def vit_case() -> Case:
    def run(variables: Any, x: Any, left_out: Any) -> jax.Array:
        return ViT(tuple(left_out)).apply(variables, x)

    units = named("layer{}", DEPTH, "attention", "wider")
    return Case(run, shapes(ViT(), images()), images(), units, "abab")


class Scanned(nn.Module):
    """A decoder whose layers are one rematerialized, scanned module, and whose head is its embedding."""

    @nn.compact
    def __call__(self, numbers: jax.Array) -> jax.Array:
        embed = nn.Embed(VOCABULARY, WIDTH, name="embed")
        x = embed(numbers) + self.param("positions", nn.initializers.normal(), (TOKENS, WIDTH))
        layers = nn.scan(
            nn.remat(lambda layer, x, _: (layer(x), None)),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=DEPTH,
        )
        x, _ = layers(Layer(causal=True, name="layers"), x, None)
        return embed.attend(nn.LayerNorm(name="norm")(x))


def layer_by_layer(variables: Any, numbers: jax.Array, left_out: Any) -> jax.Array:
    """What ``Scanned`` computes, in a loop."""
    params = variables["params"]
    x = params["embed"]["embedding"][numbers] + params["positions"]
    for i in range(DEPTH):
        own = tuple(j - 2 * i for j in left_out if j // 2 == i)
        x = Layer(own, causal=True).apply({"params": jax.tree.map(lambda v, i=i: v[i], params["layers"])}, x)
    return nn.LayerNorm().apply({"params": params["norm"]}, x) @ params["embed"]["embedding"].T


def scanned_case() -> Case:
    def run(variables: Any, x: Any, left_out: Any) -> jax.Array:
        return layer_by_layer(variables, x, left_out) if left_out else Scanned().apply(variables, x)

    units = named("layers/{}", DEPTH, "attention", "wider")
    variables = shapes(Scanned(), tokens())
    return Case(run, variables, tokens(), units, "abab", stem_bias=lambda g: g["params"]["positions"])


CASES = {
    "post-activation ResNet": lambda: resnet_case(pre=False),
    "pre-activation ResNet": lambda: resnet_case(pre=True),
    "ConvNeXt, NHWC": convnext_case,
    "ViT": vit_case,
    "scanned decoder": scanned_case,
}
