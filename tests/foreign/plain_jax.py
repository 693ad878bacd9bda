"""Networks in plain JAX: dictionaries of arrays and functions of them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from foreign.case import CLASSES, TOKENS, VOCABULARY, Case, drawn, images, masked_tokens, named, tokens

WIDTH, HEADS, DEPTH = 4, 2, 2


def empty(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def normalized(x: jax.Array, p: Any, axis: int = -1) -> jax.Array:
    """Layer normalization."""
    x = x - jnp.mean(x, axis, keepdims=True)
    x = x * lax.rsqrt(jnp.mean(x * x, axis, keepdims=True) + 1e-5)
    form = [1] * x.ndim
    form[axis] = -1
    return x * p["scale"].reshape(form) + p["bias"].reshape(form)


def norm() -> dict[str, np.ndarray]:
    return {"scale": empty(WIDTH), "bias": empty(WIDTH)}


# --- residual networks ---


def conv(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def bottleneck(x: jax.Array, p: Any, stride: int) -> jax.Array:
    x = jax.nn.relu(conv(x, p["reduce"]) + p["bias"])
    x = jax.nn.relu(conv(x, p["conv"], stride))
    return conv(x, p["expand"])


def resnet(v: Any, x: jax.Array, left_out: Any, pre: bool) -> jax.Array:
    """Bottlenecks; the last halves the resolution with a projection."""
    x = conv(x, v["stem"])
    x = x if pre else jax.nn.relu(x)
    for i, (p, stride) in enumerate(zip(v["blocks"], (1, 1, 2), strict=True)):
        inner = jax.nn.relu(x) if pre else x
        f = bottleneck(inner, p, stride)
        x = conv(inner, p["projection"], stride) if "projection" in p else x
        x = x if i in left_out else x + f
        x = x if pre else jax.nn.relu(x)
    x = jax.nn.relu(x) if pre else x
    return jnp.mean(x, (1, 2)) @ v["head"]


def resnet_case(pre: bool) -> Case:
    def block(wide: int, out: int) -> dict[str, np.ndarray]:
        p = {"reduce": empty(1, 1, wide, 3), "bias": empty(3), "conv": empty(3, 3, 3, 3)}
        p |= {"expand": empty(1, 1, 3, out)}
        return p if wide == out else p | {"projection": empty(1, 1, wide, out)}

    blocks = [block(4, 4), block(4, 4), block(4, 6)]
    variables = drawn({"stem": empty(3, 3, 3, 4), "blocks": blocks, "head": empty(6, CLASSES)})
    units = list(named("blocks/{}", 3))
    units[2] = ("blocks/2", "affine")
    run = functools.partial(resnet, pre=pre)
    return Case(run, variables, images(), tuple(units), "aab", "" if pre else "relu")


# --- ConvNeXt, NCHW ---


def convnext(v: Any, x: jax.Array, left_out: Any) -> jax.Array:
    def patches(x: jax.Array, w: jax.Array, size: int) -> jax.Array:
        return lax.conv_general_dilated(x, w, (size, size), "VALID")

    x = patches(x, v["stem"], 2)
    for i, p in enumerate(v["blocks"]):
        f = lax.conv_general_dilated(x, p["depthwise"], (1, 1), "SAME", feature_group_count=WIDTH)
        f = normalized(f, p["norm"], axis=1)
        f = jax.nn.gelu(jnp.einsum("bchw,cd->bdhw", f, p["wider"]))
        f = jnp.einsum("bdhw,dc->bchw", f, p["narrower"]) * p["gamma"][:, None, None]
        x = x if i in left_out else x + f
    return normalized(jnp.mean(x, (2, 3)), v["norm"]) @ v["head"]


def convnext_case() -> Case:
    def block() -> dict[str, Any]:
        p = {"depthwise": empty(WIDTH, 1, 3, 3), "norm": norm(), "gamma": empty(WIDTH)}
        return p | {"wider": empty(WIDTH, 8), "narrower": empty(8, WIDTH)}

    blocks = [block() for _ in range(DEPTH)]
    variables = {
        "stem": empty(WIDTH, 3, 2, 2),
        "blocks": blocks,
        "norm": norm(),
        "head": empty(WIDTH, CLASSES),
    }
    return Case(convnext, drawn(variables), images((3, 6, 6)), named("blocks/{}", DEPTH), "aa")


# --- transformers over tokens ---


def attention(x: jax.Array, p: Any, mask: jax.Array) -> jax.Array:
    q, k, w = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in ("query", "key", "value"))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(WIDTH // HEADS).astype(q.dtype)
    scores = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
    return jnp.einsum("bhts,bshd,hdc->btc", scores, w, p["out"])


def mlp(x: jax.Array, p: Any) -> jax.Array:
    return jax.nn.gelu(x @ p["wider"] + p["bias"]) @ p["narrower"]


def embed(v: Any, numbers: jax.Array) -> jax.Array:
    return v["embed"][numbers] + v["positions"][: numbers.shape[1]]


def causal(length: int) -> jax.Array:
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def gpt(v: Any, x: Any, left_out: Any) -> jax.Array:
    """A decoder whose padding is masked."""
    h, mask = embed(v, x["tokens"]), causal(x["tokens"].shape[1]) & x["mask"][:, None, None, :]
    for i, p in enumerate(v["blocks"]):
        f = attention(normalized(h, p["norm1"]), p["attention"], mask)
        h = h if 2 * i in left_out else h + f
        f = mlp(normalized(h, p["norm2"]), p["mlp"])
        h = h if 2 * i + 1 in left_out else h + f
    return normalized(h, v["norm"]) @ v["head"]


def parallel(v: Any, x: jax.Array, left_out: Any) -> jax.Array:
    """Attention and MLP read the same state, as in GPT-J; the head is the embedding."""
    h, mask = embed(v, x), causal(x.shape[1])
    for i, p in enumerate(v["blocks"]):
        inner = normalized(h, p["norm1"])
        f, g = attention(inner, p["attention"], mask), mlp(inner, p["mlp"])
        h = h if i in left_out else f + g + h
    return normalized(h, v["norm"]) @ v["embed"].T


def post_norm(v: Any, x: jax.Array, left_out: Any) -> jax.Array:
    """An encoder that normalizes behind each sum."""
    h = embed(v, x)
    for i, p in enumerate(v["blocks"]):
        f = attention(h, p["attention"], jnp.ones((1, 1, 1, 1), bool))
        h = normalized(h if 2 * i in left_out else h + f, p["norm1"])
        f = mlp(h, p["mlp"])
        h = normalized(h if 2 * i + 1 in left_out else h + f, p["norm2"])
    return jnp.mean(h, 1) @ v["head"]


def transformer_variables(classes: int) -> Any:
    def block() -> dict[str, Any]:
        own = {name: empty(WIDTH, HEADS, WIDTH // HEADS) for name in ("query", "key", "value")}
        own["out"] = empty(HEADS, WIDTH // HEADS, WIDTH)
        wide = {"wider": empty(WIDTH, 8), "bias": empty(8), "narrower": empty(8, WIDTH)}
        return {"norm1": norm(), "attention": own, "norm2": norm(), "mlp": wide}

    ends = {"embed": empty(VOCABULARY, WIDTH), "positions": empty(TOKENS, WIDTH), "norm": norm()}
    return drawn({**ends, "blocks": [block() for _ in range(DEPTH)], "head": empty(WIDTH, classes)})


def transformer_case(run: Any) -> Case:
    both = named("blocks/{}", DEPTH, "attention", "mlp")
    variables = transformer_variables(CLASSES if run is post_norm else VOCABULARY)
    if run is parallel:
        del variables["head"]
        for block in variables["blocks"]:
            del block["norm2"]
        return Case(run, variables, tokens(), named("blocks/{}", DEPTH), "aa", stem_bias=positions)
    if run is gpt:
        return Case(run, variables, masked_tokens(), both, "abab", stem_bias=positions)
    del variables["norm"]
    return Case(run, variables, tokens(), both, "abab", "normalization", stem_bias=positions)


def positions(gradients: Any) -> jax.Array:
    return gradients["positions"]


# --- an MLP-Mixer whose sums are scaled ---


def mixer(v: Any, x: jax.Array, left_out: Any) -> jax.Array:
    b, height, width, c = x.shape
    x = x.reshape(b, height // 2, 2, width // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, 4 * c)
    h = x @ v["patches"]
    for i, p in enumerate(v["blocks"]):
        f = mlp(normalized(h, p["norm1"]).transpose(0, 2, 1), p["tokens"]).transpose(0, 2, 1)
        h = 0.8 * h if 2 * i in left_out else 0.8 * h + 0.6 * f
        f = mlp(normalized(h, p["norm2"]), p["channels"])
        h = 0.8 * h if 2 * i + 1 in left_out else 0.8 * h + 0.6 * f
    return jnp.mean(h, 1) @ v["head"]


def mixer_case() -> Case:
    def wide(n: int) -> dict[str, np.ndarray]:
        return {"wider": empty(n, 8), "bias": empty(8), "narrower": empty(8, n)}

    blocks = [
        {"norm1": norm(), "tokens": wide(9), "norm2": norm(), "channels": wide(WIDTH)} for _ in range(DEPTH)
    ]
    variables = {"patches": empty(12, WIDTH), "blocks": blocks, "head": empty(WIDTH, CLASSES)}
    units = named("blocks/{}", DEPTH, "tokens", "channels", shortcut="linear")
    return Case(mixer, drawn(variables), images(), units, "abab")


CASES = {
    "post-activation bottlenecks": lambda: resnet_case(pre=False),
    "pre-activation bottlenecks": lambda: resnet_case(pre=True),
    "ConvNeXt, NCHW": convnext_case,
    "decoder with padding": lambda: transformer_case(gpt),
    "parallel attention and MLP": lambda: transformer_case(parallel),
    "normalization behind the sum": lambda: transformer_case(post_norm),
    "Mixer with scaled sums": mixer_case,
}
