"""Responses of the layers of found networks, beside those of the networks as they are."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import case, found_in
from foreign.linen import ConvNeXt, ResNet, ViT
from foreign.plain_jax import normalized
from marks import slow_but

import resjax
from resjax.network.refusal import Refusal
from resjax.studies.units.responses import layers_of, responses

CLASSES, WIDTH = 3, 4

pytestmark = pytest.mark.usefixtures("foreign_code")


@functools.cache
def found_responses(name):
    own, found = case(name), found_in(name)
    return responses(found.network, found.variables, own.example)


BEHIND = {  # {layer of Linen: what its response is the output of}
    "linen: post-activation ResNet": (
        ResNet(False),
        {"stem": "stem"}
        | {f"block{i}/Conv_{j}": f"block{i}/BatchNorm_{j}" for i in range(3) for j in (0, 1)},
    ),
    "linen: pre-activation ResNet": (
        ResNet(True),
        {"stem": "stem"}
        | {
            f"block{i}/Conv_{j}": f"block{i}/{end}"
            for i in range(3)
            for j, end in enumerate(("BatchNorm_1", "Conv_1"))
        },
    ),
    "linen: ConvNeXt, NHWC": (
        ConvNeXt(),
        {"stem": "stem_norm"}
        | {
            f"block{i}/{layer}": f"block{i}/{end}"
            for i in range(2)
            for layer, end in (("Conv_0", "LayerNorm_0"), ("Dense_1", "Dense_1"), ("Dense_0", "Dense_0"))
        },
    ),
    "linen: ViT": (
        ViT(),
        {"patches": "patches"}
        | {
            f"layer{i}/{name}": f"layer{i}/{name}"
            for i in range(2)
            for name in (*(f"attention/{n}" for n in ("query", "key", "value", "out")), "wider", "narrower")
        },
    ),
}


@pytest.mark.parametrize("name", slow_but(BEHIND, *list(BEHIND)[::2]))
def test_layers_are_those_that_linen_captures(name):
    module, behind = BEHIND[name]
    own, result = case(name), found_responses(name)
    _, state = module.apply(own.variables, own.example, capture_intermediates=True)
    assert result.layer == tuple(behind)
    np.testing.assert_array_equal(result.normalized, ["orm" in end for end in behind.values()])
    for layer, std in zip(result.layer, result.std, strict=True):
        seen = state["intermediates"]
        for part in behind[layer].split("/"):
            seen = seen[part]
        y = np.asarray(seen["__call__"][0], np.float64)
        if layer.endswith("Dense_0"):  # layer scale
            y = y * own.variables["params"][layer.split("/")[0]]["gamma"]
        np.testing.assert_allclose(std, y.std(), rtol=1e-4, err_msg=layer)


def test_a_decoder_has_its_projections_and_dense_layers():
    own, result = case("plain_jax: decoder with padding"), found_responses("plain_jax: decoder with padding")
    parts = [f"attention/{p}" for p in ("query", "key", "value", "out")] + ["mlp/wider", "mlp/narrower"]
    assert result.layer == tuple(f"blocks/{i}/{part}" for i in range(2) for part in parts)
    assert np.isfinite(result.std).all() and (result.std > 0).all() and not result.normalized.any()
    v, numbers = own.variables, own.example["tokens"]
    h = normalized(v["embed"][numbers] + v["positions"][: numbers.shape[1]], v["blocks"][0]["norm1"])
    for std, part in zip(result.std, ("query", "key", "value"), strict=False):
        y = np.einsum("btc,chd->bthd", h, v["blocks"][0]["attention"][part])
        np.testing.assert_allclose(std, y.std(), rtol=1e-4)


@pytest.mark.parametrize("name", ["equinox: ViT", "haiku: ResNet", "nnx: decoder", "linen: scanned decoder"])
def test_all_libraries_have_layers(name):
    pytest.importorskip(name.split(":")[0].replace("nnx", "flax").replace("linen", "flax"))
    result = found_responses(name)
    kernels = 2 if "ResNet" in name else 6
    units = len(found_in(name).units) if "ResNet" in name else len(found_in(name).units) // 2
    assert len(result.layer) - kernels * units in (0, 1)  # a stem with a layer
    assert np.isfinite(result.std).all() and (result.std > 0).all()


# --- forms of layers, in units of one's own ---


@jax.custom_vjp
def product(x, kernel):
    return x @ kernel


product.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))


def rows(x, p):
    """Examples and positions on one axis."""
    return jnp.tanh((x.reshape(-1, WIDTH) @ p["in"]["kernel"] + p["in"]["bias"]).reshape(x.shape))


def transposed(x, p):
    """The kernel first, so that the batch is the last axis."""
    return jnp.tanh(jnp.moveaxis(jnp.einsum("cd,btc->tdb", p["in"]["kernel"], x), 2, 0) + p["in"]["bias"])


def own_derivative(x, p):
    y = product(x.reshape(-1, WIDTH), p["in"]["kernel"]).reshape(x.shape)
    return jnp.tanh(y + p["in"]["bias"])


def batched(x, p):
    return jax.vmap(lambda one: jnp.tanh(p["in"]["kernel"].T @ one.T + p["in"]["bias"][:, None]).T)(x)


def group_norm(x, p):
    y = x @ p["in"]["kernel"] + p["in"]["bias"]
    return jnp.tanh(nn.GroupNorm(2, use_bias=False, use_scale=False).apply({}, y))


FORMS = {"rows": rows, "transposed": transposed, "own derivative": own_derivative, "batched": batched}


def stacked(inner, twice=False):
    """(function, variables) of two units with layers 'in' (response before tanh) and 'out'."""
    rng = np.random.default_rng(2)

    def fn(v, x):
        for p in v["units"]:
            f = inner(x, p)
            for _ in range(1 + twice):
                f = jnp.sin(f @ p["out"]["kernel"])
            x = x + f
        return jnp.tanh(x.mean(1)) @ v["head"]

    def layer():
        return {"kernel": rng.normal(size=(WIDTH, WIDTH)), "bias": rng.normal(size=WIDTH)}

    units = [{"in": layer(), "out": {"kernel": rng.normal(size=(WIDTH, WIDTH))}} for _ in range(2)]
    variables = {"units": units, "head": rng.normal(size=(WIDTH, CLASSES))}
    return fn, jax.tree.map(np.float32, variables)


STATES = np.random.default_rng(3).normal(size=(5, 3, WIDTH)).astype(np.float32)


def by_hand(variables):
    """The responses in their order, [layer][5, …]."""
    x, seen = STATES, []
    for p in variables["units"]:
        seen.append(x @ p["in"]["kernel"] + p["in"]["bias"])
        seen.append(np.tanh(seen[-1]) @ p["out"]["kernel"])
        x = x + np.sin(seen[-1])
    return seen


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("batch_size", [2, 7])  # 7 is that of the first trace
def test_forms_of_a_layer_respond_alike(name, batch_size):
    """With intervals over examples, which need the axis of the batch."""
    fn, variables = stacked(FORMS[name])
    found = resjax.discover(fn, variables, STATES)
    result = responses(found.network, found.variables, STATES, batch_size=batch_size)
    assert result.layer == tuple(f"units/{i}/{layer}" for i in (0, 1) for layer in ("in", "out"))
    seen = by_hand(variables)
    np.testing.assert_allclose(result.std, [y.std() for y in seen], rtol=1e-4)
    influence = [np.mean(y**2 - 2 * y.mean() * y, (1, 2)) for y in seen]
    error = [
        np.std(v, ddof=1) / np.sqrt(len(v)) / (2 * y.std()) for v, y in zip(influence, seen, strict=True)
    ]
    width = (result.interval[:, 1] - result.interval[:, 0]) / 2
    np.testing.assert_allclose(width / error, width[0] / error[0], rtol=1e-3)


def test_a_normalization_with_the_outputs_own_statistics():
    fn, variables = stacked(group_norm)
    found = resjax.discover(fn, variables, STATES)
    result = responses(found.network, found.variables, STATES)
    np.testing.assert_array_equal(result.normalized, [True, False] * 2)
    np.testing.assert_allclose(result.std[::2], 1, atol=1e-3)


def test_an_output_that_is_used_twice_is_not_normalized():
    def gated(x, p):
        y = x @ p["in"]["kernel"]
        return nn.LayerNorm(use_bias=False, use_scale=False).apply({}, y) * y + p["in"]["bias"]

    fn, variables = stacked(gated)
    found = resjax.discover(fn, variables, STATES)
    result = responses(found.network, found.variables, STATES)
    assert not result.normalized.any()
    np.testing.assert_allclose(
        result.std[0], (STATES @ variables["units"][0]["in"]["kernel"]).std(), rtol=1e-4
    )


def test_layers_that_share_a_kernel_are_numbered():
    fn, variables = stacked(rows, twice=True)
    found = resjax.discover(fn, variables, STATES)
    layers = list(layers_of(found.network, found.variables, STATES))
    assert layers[:3] == ["units/0/in", "units/0/out#1", "units/0/out#2"] and len(layers) == 6


def test_what_has_no_layer_is_refused():
    def fn(v, x):
        for p in v["units"]:
            x = x + jnp.tanh(p["scale"] * x)
        return x.mean(1) @ v["head"]

    variables = {
        "units": [{"scale": np.ones(WIDTH, np.float32)}] * 2,
        "head": np.ones((WIDTH, 3), np.float32),
    }
    found = resjax.discover(fn, variables, STATES)
    with pytest.raises(Refusal, match="no layer of its stem and units"):
        responses(found.network, found.variables, STATES)
