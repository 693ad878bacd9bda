"""What holds for every residual program, on programs drawn at random: mixtures of blocks in plain JAX.

Each example is compiled, which is nearly all of its time; the slow tests draw more of them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import assert_close, loss
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import resjax
from resjax.studies.paths.path_exact import walk_lengths
from resjax.studies.paths.path_walk import PAPER

BATCH, TOKENS, CLASSES = 2, 3, 3
FEW_AND_MANY = pytest.mark.parametrize("count", [2, pytest.param(60, marks=pytest.mark.slow)])

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")


# --- blocks: (weights, state, whether the branch is left out) -> state ---


def norm(h, p):
    h = h - h.mean(-1, keepdims=True)
    return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5) * p["scale"]


def mlp(h, p):
    return jax.nn.gelu(h @ p["a"]) @ p["b"]


def pre_norm(p, h, out):
    return h if out else h + mlp(norm(h, p), p)


def post_norm(p, h, out):
    return norm(h if out else mlp(h, p) + h, p)


def post_relu(p, h, out):
    return jax.nn.relu(h if out else h + mlp(h, p))


def scaled(p, h, out):
    return 0.7 * h if out else 0.7 * h + 0.5 * mlp(h, p)


def subtracted(p, h, out):
    return h if out else h - mlp(h, p)


def layer_scaled(p, h, out):
    return h if out else h + p["scale"] * mlp(h, p)


def gated(p, h, out):
    """A GLU: the branch multiplies two layers."""
    return h if out else h + (jax.nn.sigmoid(h @ p["a"]) * jnp.tanh(h @ p["c"])) @ p["b"]


def parallel(p, h, out):
    return h if out else h + mlp(h, p) + jnp.tanh(h @ p["d"])


def attention(p, h, out):
    scores = jax.nn.softmax((h @ p["d"]) @ h.swapaxes(1, 2), axis=-1)
    return h if out else h + (scores @ h) @ p["d"]


def nested(p, h, out):
    """A residual sum inside of a branch is not a unit."""
    inner = jnp.tanh(h @ p["a"])
    inner = inner + jax.nn.relu(inner @ p["e"])
    return h if out else h + inner @ p["b"]


def widened(p, h, out):
    """The shortcut is a projection, as where a network changes its width."""
    shortcut = h @ p["d"]
    return shortcut if out else shortcut + mlp(h, p)


def called(p, h, out):
    """In a jitted, rematerialized function."""
    return jax.jit(jax.checkpoint(functools.partial(pre_norm, out=out)))(p, h)


KINDS = {
    "identity": (
        pre_norm,
        post_norm,
        post_relu,
        subtracted,
        layer_scaled,
        gated,
        parallel,
        attention,
        nested,
        called,
    ),
    "linear": (scaled,),
    "affine": (widened,),
}
SHORTCUTS = {block: kind for kind, blocks in KINDS.items() for block in blocks}


class Drawn(NamedTuple):
    """A residual program with its variables and its input."""

    blocks: tuple[Any, ...]
    plain: bool
    variables: dict[str, Any]
    x: np.ndarray

    def __repr__(self) -> str:
        return (
            f"<{[b.__name__ for b in self.blocks]}, {'a plain layer' if self.plain else 'none'} in between>"
        )

    def run(self, variables, x, left_out=()):
        h = x @ variables["stem"]
        for i, (block, p) in enumerate(zip(self.blocks, variables["blocks"], strict=True)):
            h = block(p, h, i in left_out)
            if self.plain and i == 0:
                h = jnp.tanh(h @ variables["plain"])
        return h.mean(1) @ variables["head"]

    def discover(self):
        return resjax.discover(self.run, self.variables, self.x[:1])


@st.composite
def programs(draw):
    blocks = tuple(draw(st.lists(st.sampled_from(sorted(SHORTCUTS, key=str)), min_size=1, max_size=4)))
    if draw(st.booleans()):
        blocks = tuple(block for block in blocks for _ in range(2))[:4]  # equal ones in a row
    width, inner = draw(st.integers(2, 4)), draw(st.integers(5, 6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = {"a": (width, inner), "c": (width, inner), "b": (inner, width), "d": (width, width)}
    shapes |= {"e": (inner, inner), "scale": (width,)}

    def drawn(shape):
        return rng.normal(size=shape) / np.sqrt(shape[0])

    own = [{name: drawn(shapes[name]) for name in USED[block]} for block in blocks]
    variables = {"stem": drawn((3, width)), "blocks": own, "head": drawn((width, CLASSES))}
    variables["plain"] = drawn((width, width))
    return Drawn(blocks, draw(st.booleans()), variables, rng.normal(size=(BATCH, TOKENS, 3)))


USED = {
    **dict.fromkeys((pre_norm, post_norm, layer_scaled, called), ("a", "b", "scale")),
    **dict.fromkeys((post_relu, scaled, subtracted), ("a", "b")),
    **dict.fromkeys((parallel, widened), ("a", "b", "d")),
    gated: ("a", "b", "c"),
    attention: ("d",),
    nested: ("a", "b", "e"),
}


def holds(count, check):
    # A smaller counterexample is not worth the minutes of compilation that it takes to find one.
    phases, slow = (Phase.reuse, Phase.generate), [HealthCheck.too_slow]
    settings(max_examples=count, phases=phases, suppress_health_check=slow)(given(programs())(check))()


@FEW_AND_MANY
def test_units_gates_and_variables(count):
    def check(drawn):
        found, n = drawn.discover(), len(drawn.blocks)
        assert [unit.name for unit in found.units] == [f"blocks/{i}" for i in range(n)]
        assert [unit.shortcut for unit in found.units] == [SHORTCUTS[block] for block in drawn.blocks]
        home = found.unstack(found.variables)
        jax.tree.map(np.testing.assert_array_equal, home, drawn.variables)
        gates = np.concatenate([np.ones((1, n)), 1 - np.eye(n)])

        @jax.jit
        def all_of(variables, stacked, x):
            written = [drawn.run(variables, x, left_out) for left_out in [(), *((i,) for i in range(n))]]
            program = jax.vmap(lambda g: found.apply(variables, x, g))(gates)
            network = jax.vmap(lambda g: found.network.apply(stacked, x, gates=g).logits)(gates)
            return jnp.stack(written), program, network

        written, program, network = all_of(drawn.variables, found.variables, drawn.x)
        assert_close(program, written)
        assert_close(network, written)

    holds(count, check)


@FEW_AND_MANY
def test_path_lengths_sum_to_the_gradient(count):
    labels, key = np.arange(BATCH), jax.random.key(0)

    def check(drawn):
        found = drawn.discover()

        @jax.jit
        def both(variables, stacked, x):
            walk = walk_lengths(found.network, loss, PAPER, stacked, x, labels, key)
            by_length = walk.scale * jax.vmap(walk.to_input)(walk.rows)
            return by_length, jax.grad(lambda x: loss(drawn.run(variables, x), labels).mean())(x)

        by_length, gradient = both(drawn.variables, found.variables, drawn.x)
        assert len(by_length) == len(drawn.blocks) + 1
        assert_close(by_length.sum(0), gradient)

    holds(count, check)
