"""Networks whose units read more than the state: another input, or a bias made of a mask and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resjax

GATES = np.array([1.0, 0.0, 1.0], np.float32)


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 3)


def conditioned():
    """Residual blocks that read the embedding of a time, as those of diffusion models."""
    blocks = [{name: drawn(10 * i + j, 8, 8) for j, name in enumerate("abt")} for i in range(3)]
    variables = {"time": {"w": drawn(40, 1, 8)}, "blocks": blocks, "head": drawn(41, 8, 5)}

    def fn(variables, x):
        h, time = x["x"], jnp.tanh(x["time"] @ variables["time"]["w"])
        for block in variables["blocks"]:
            h = h + jnp.tanh(h @ block["a"] + time @ block["t"]) @ block["b"]
        return h @ variables["head"]

    return fn, variables, {"x": drawn(42, 4, 8), "time": drawn(43, 4, 1)}


def biased():
    """Attention with a bias for each layer, added to what a mask says."""
    blocks = [
        {name: drawn(10 * i + j, 8, 8) for j, name in enumerate("qko")} | {"bias": drawn(i, 6, 6)}
        for i in range(3)
    ]
    variables = {"embedding": drawn(40, 11, 8), "blocks": blocks, "head": drawn(41, 8, 5)}

    def fn(variables, x):
        h = variables["embedding"][x["ids"]]
        for block in variables["blocks"]:
            bias = jnp.where(x["mask"][:, None, :] > 0, 0.0, -1e9) + block["bias"][None]
            weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", h @ block["q"], h @ block["k"]) + bias)
            h = h + jnp.einsum("bts,bsd->btd", weights, h) @ block["o"]
        return h @ variables["head"]

    ids = np.arange(24).reshape(4, 6) % 11
    return fn, variables, {"ids": ids, "mask": (ids > 2).astype(np.int32)}


@pytest.mark.parametrize("make", [conditioned, biased])
def test_the_units_are_found_and_the_network_is_the_function(make):
    fn, variables, x = make()
    found = resjax.discover(fn, variables, x)
    assert [u.name for u in found.units] == ["blocks/0", "blocks/1", "blocks/2"]
    assert not any(u.bypassed or u.notes for u in found.units)
    assert {u.parameters for u in found.units} == {sum(v.size for v in variables["blocks"][0].values())}
    np.testing.assert_allclose(found.network.apply(found.variables, x).logits, fn(variables, x), atol=1e-6)
    without = {**variables, "blocks": [variables["blocks"][0], variables["blocks"][2]]}
    np.testing.assert_allclose(found.apply(variables, x, GATES), fn(without, x), atol=1e-6)
    logits = found.network.apply(found.variables, x, gates=GATES).logits
    np.testing.assert_allclose(logits, fn(without, x), atol=1e-6)


@pytest.mark.parametrize("make", [conditioned, biased])
def test_gradients_are_those_of_the_function(make):
    fn, variables, x = make()
    found = resjax.discover(fn, variables, x)
    ours = jax.grad(lambda v: (found.network.apply(v, x).logits ** 2).sum())(found.variables)
    wanted = jax.grad(lambda v: (fn(v, x) ** 2).sum())(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.unstack(ours), wanted)


def conditioned_u_net():
    """Residual blocks that read the embedding of a time, with a connection past the second of three."""
    _, variables, x = conditioned()
    variables = {**variables, "join": drawn(44, 16, 8), "time": {"w": drawn(40, 1, 8), "v": drawn(45, 8, 8)}}

    def fn(variables, x):
        time = jnp.tanh(x["time"] @ variables["time"]["w"])
        time = time + jnp.tanh(time @ variables["time"]["v"])
        early, inner, late = (
            lambda h, p=p: h + jnp.tanh(h @ p["a"] + time @ p["t"]) @ p["b"] for p in variables["blocks"]
        )
        h = early(x["x"])
        h = late(jnp.concatenate([inner(h), h], 1) @ variables["join"])
        return h @ variables["head"]

    return fn, variables, x


def test_the_signal_is_the_input_with_most_units():
    """The embedding of the time has a residual sum, too; as the signal, it has fewer units."""
    found = resjax.discover(*conditioned_u_net())
    assert [unit.name for unit in found.units] == ["blocks/0", "blocks/1", "blocks/2"]
    assert [unit.bypassed for unit in found.units] == [False, True, False]
    assert any("time" in remark for remark in found.remarks)
