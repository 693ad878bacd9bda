"""Networks in Haiku: functions that are transformed, with parameters and state side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from foreign.case import CLASSES, TOKENS, VOCABULARY, Case, drawn, images, named, tokens

WIDTH, HEADS, DEPTH = 4, 2, 2


class Block(hk.Module):
    def __init__(self, features: int, stride: int, name: str):
        super().__init__(name)
        self.features, self.stride = features, stride

    def __call__(self, x: jax.Array, train: bool, left_out: bool) -> jax.Array:
        def norm(x: jax.Array, name: str) -> jax.Array:
            return hk.BatchNorm(True, True, 0.9, name=name)(x, is_training=train)

        f = hk.Conv2D(self.features, 3, self.stride, with_bias=False, name="conv1")(x)
        f = jax.nn.relu(norm(f, "norm1"))
        f = norm(hk.Conv2D(self.features, 3, with_bias=False, name="conv2")(f), "norm2")
        x = x if self.stride == 1 else hk.Conv2D(self.features, 1, self.stride, name="projection")(x)
        return jax.nn.relu(x if left_out else x + f)


def resnet(x: jax.Array, train: bool, left_out: Any) -> jax.Array:
    x = jax.nn.relu(hk.Conv2D(WIDTH, 3, name="stem")(x))
    for i, (features, stride) in enumerate(((4, 1), (4, 1), (6, 2))):
        x = Block(features, stride, f"block{i}")(x, train, i in left_out)
    return hk.Linear(CLASSES, name="head")(jnp.mean(x, (1, 2)))


def layer_norm(x: jax.Array, name: str) -> jax.Array:
    return hk.LayerNorm(-1, True, True, name=name)(x)


class Layer(hk.Module):
    def __call__(self, h: jax.Array, mask: jax.Array, left_out: Any) -> jax.Array:
        f = layer_norm(h, "norm1")
        start = hk.initializers.VarianceScaling(1.0)
        f = hk.MultiHeadAttention(HEADS, 2, model_size=WIDTH, w_init=start, name="attention")(f, f, f, mask)
        h = h if 0 in left_out else h + f
        f = hk.nets.MLP((8, WIDTH), activation=jax.nn.gelu, name="mlp")(layer_norm(h, "norm2"))
        return h if 1 in left_out else h + f


def decoder(numbers: jax.Array, train: bool, left_out: Any) -> jax.Array:
    del train
    h = hk.Embed(VOCABULARY, WIDTH, name="embed")(numbers)
    h = h + hk.get_parameter("positions", (TOKENS, WIDTH), h.dtype, jnp.zeros)
    mask = jnp.tril(jnp.ones((1, 1, TOKENS, TOKENS), bool))
    for i in range(DEPTH):
        h = Layer(f"layer{i}")(h, mask, tuple(j - 2 * i for j in left_out if j // 2 == i))
    return hk.Linear(VOCABULARY, name="head")(layer_norm(h, "norm"))


def as_function(network: Callable[..., jax.Array], x: Any) -> tuple[Any, Any, Any]:
    """(run, its variables, train_fn) of a network."""
    transformed = hk.transform_with_state(network)
    params, state = jax.eval_shape(lambda key: transformed.init(key, x, True, ()), jax.random.key(0))

    def run(variables: Any, x: Any, left_out: Any) -> jax.Array:
        return transformed.apply(variables["params"], variables["state"], None, x, False, left_out)[0]

    def train_fn(variables: Any, x: Any, key: Any) -> Any:
        logits, new = transformed.apply(variables["params"], variables["state"], key, x, True, ())
        return logits, {"state": new}

    return run, drawn({"params": params, "state": state}), train_fn


def resnet_case() -> Case:
    run, variables, train_fn = as_function(resnet, images())
    units = list(named("block{}", 3))
    units[2] = ("block2", "affine")
    own = (train_fn, lambda variables: {"state": variables["state"]})
    return Case(run, variables, images(), tuple(units), "aab", "relu", *own)


def decoder_case() -> Case:
    run, variables, _ = as_function(decoder, tokens())
    units = named("layer{}", DEPTH, "attention", "mlp")
    return Case(
        *(run, variables, tokens(), units, "abab"),
        stem_bias=lambda gradients: gradients["params"]["~"]["positions"],
    )


CASES = {"ResNet": resnet_case, "decoder": decoder_case}
