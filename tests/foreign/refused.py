"""Functions in plain JAX that have no chain of residual units, or are not given as they must be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

WIDTH, DEPTH = 4, 3
X = np.random.default_rng(0).normal(size=(2, 6, WIDTH)).astype(np.float32)


def weights(*names: str, wide: int = WIDTH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(wide, WIDTH)).astype(np.float32) / 2 for name in names}


def blocks(count: int = DEPTH) -> dict[str, Any]:
    return {"blocks": [weights("first", "second") for _ in range(count)], **weights("head")}


def branch(h: jax.Array, p: Any) -> jax.Array:
    return jnp.tanh(h @ p["first"]) @ p["second"]


def head(h: jax.Array, v: Any) -> jax.Array:
    return jnp.mean(h, 1) @ v["head"]


def residual(v: Any, x: jax.Array) -> jax.Array:
    for p in v["blocks"]:
        x = x + branch(x, p)
    return head(x, v)


def plain(v: Any, x: jax.Array) -> jax.Array:
    for p in v["blocks"]:
        x = jax.nn.relu(branch(x, p))
    return head(x, v)


def two_outputs(v: Any, x: jax.Array) -> Any:
    return residual(v, x), x


def dense_net(v: Any, x: jax.Array) -> jax.Array:
    for p in v["layers"]:
        x = jnp.concatenate([x, jax.nn.relu(x @ p)], -1)
    return jnp.mean(x, 1) @ v["head"]


def dense_net_variables() -> Any:
    layers = [weights("w", wide=WIDTH * (i + 1))["w"] for i in range(DEPTH)]
    return {"layers": layers, **weights("head", wide=WIDTH * (DEPTH + 1))}


def u_net(v: Any, x: jax.Array) -> jax.Array:
    """Residual blocks, and a concatenation that leads past those in the middle."""
    h = v["blocks"]
    x = x + branch(x, h[0])
    inner = x[:, ::2]
    for p in h[1:-1]:
        inner = inner + branch(inner, p)
    x = jnp.concatenate([jnp.repeat(inner, 2, 1), x], -1) @ v["join"]
    x = x + branch(x, h[-1])
    return head(x, v)


def without(v: Any, *gone: int) -> Any:
    """Variables with which the branches of some blocks are 0."""
    changed = [{**p, "second": 0 * p["second"]} if j in gone else p for j, p in enumerate(v["blocks"])]
    return {**v, "blocks": changed}


def rev_net(v: Any, x: jax.Array) -> jax.Array:
    """Two streams, each of which feeds the branches of the other."""
    a, b = x @ v["first"], x @ v["second"]
    for p in v["blocks"]:
        a = a + branch(b, p)
        b = b + jnp.tanh(a @ p["first"].T) @ p["second"].T
    return jnp.mean(jnp.concatenate([a, b], -1), 1) @ v["join"]


def dense_sums(v: Any, x: jax.Array) -> jax.Array:
    """Each layer reads the sum of all that came before it."""
    outputs = [x]
    for p in v["blocks"]:
        outputs.append(branch(sum(outputs[1:], outputs[0]), p))
    return head(sum(outputs[1:], outputs[0]), v)


def shared_convolutions(v: Any, x: jax.Array) -> jax.Array:
    """Three sums of branches that read each other's layers."""
    p = v["blocks"]
    a = jnp.tanh(x @ p[0]["first"])
    b = jnp.tanh(a @ p[1]["first"])
    c = jnp.tanh(b @ p[2]["first"])
    return head(x + a @ p[0]["second"] + b @ p[1]["second"] + c @ p[2]["second"], v)


def in_fori_loop(v: Any, x: jax.Array) -> jax.Array:
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *v["blocks"])

    def step(i: jax.Array, x: jax.Array) -> jax.Array:
        return x + branch(x, jax.tree.map(lambda w: w[i], stacked))

    return head(lax.fori_loop(0, DEPTH, step, x), v)


def in_while_loop(v: Any, x: jax.Array) -> jax.Array:
    """A loop that ends when the state says so."""

    def step(state: Any) -> Any:
        i, x = state
        return i + 1, x + branch(x, v["blocks"][0])

    def again(state: Any) -> jax.Array:
        i, x = state
        return (i < DEPTH) & (jnp.max(jnp.abs(x)) < 1e6)

    return head(lax.while_loop(again, step, (0, x))[1], v)


def in_cond(v: Any, x: jax.Array) -> jax.Array:
    for p in v["blocks"]:
        x = lax.cond(jnp.sum(x) > 0, lambda x, p=p: x + branch(x, p), lambda x: x, x)
    return head(x, v)


def with_dropout(v: Any, x: jax.Array) -> jax.Array:
    for i, p in enumerate(v["blocks"]):
        kept = jax.random.bernoulli(jax.random.key(i), 0.9, x.shape)
        x = x + jnp.where(kept, branch(x, p) / 0.9, 0)
    return head(x, v)


def shared_weights(v: Any, x: jax.Array) -> jax.Array:
    """The same block three times, as in ALBERT."""
    for _ in range(DEPTH):
        x = x + branch(x, v["block"])
    return head(x, v)


def shared_weights_without(i: int) -> Any:
    def fn(v: Any, x: jax.Array) -> jax.Array:
        for j in range(DEPTH):
            x = x if j == i else x + branch(x, v["block"])
        return head(x, v)

    return fn


def closing_over(v: Any) -> Any:
    """A function that holds its blocks itself."""
    return lambda rest, x: residual({**v, **rest}, x)


def time_first(v: Any, x: jax.Array) -> jax.Array:
    """Hidden states are [time, batch, width]."""
    x = x.transpose(1, 0, 2)
    for p in v["blocks"]:
        x = x + branch(x, p)
    return jnp.mean(x, 0) @ v["head"]
