"""Sharing and sparseness: counts against layers that were built, Jacobians against loops."""

import dataclasses
import functools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from network_helpers import draw

from resjax import models
from resjax.analysis import plot
from resjax.models.layer_table import layer_table
from resjax.models.layers import Conv
from resjax.models.local import CONNECTIONS, layer, normal_of, twin
from resjax.models.plain import ConvStem, ConvUnit
from resjax.network import Network, Stack
from resjax.report import compare
from resjax.studies import style
from resjax.studies.convolution import connections as per_layer
from resjax.studies.convolution.connections import Connections, connections
from resjax.studies.convolution.sharing import STUDY, LayerJacobian, jacobian_rows, sharing
from resjax.studies.options import ClaimOptions

SHAPE = (8, 8, 1)


def filled(module, shape, seed=0):
    """Random weights and biases."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), jnp.float32), shapes)


def size(module, shape):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_the_classical_example_in_numbers():
    shape = (32, 32, 3)
    sizes = {c: size(layer(c, 6, 5, (32, 32), pad=False), shape) for c in CONNECTIONS}
    assert sizes["convolution"] == 456 == (5 * 5 * 3 + 1) * 6
    assert sizes["locally connected"] == 28 * 28 * 6 * (75 + 1)
    assert sizes["dense"] == 14_450_688 + 4_704
    assert 32 * 32 * 3 * 28 * 28 * 6 == 14_450_688


def test_the_classical_example_in_its_jacobian():
    shape = (32, 32, 3)
    conv = layer("convolution", 6, 5, (32, 32), pad=False)
    result = sharing(conv, filled(conv, shape), shape, window=75, keep=False)
    assert (result.outputs, result.inputs) == (4_704, 3_072)
    assert result.connections == 75
    assert result.zeros == pytest.approx(1 - 75 / 3_072, abs=1e-15)
    assert (result.distinct, result.values, result.weights, result.biases) == (6, 450, 450, 6)
    assert (result.unshared_weights, result.dense_weights) == (352_800, 14_450_688)
    assert result.jacobian is None


def test_a_jacobian_is_the_kernel_written_along_the_diagonal():
    shape, (strides, groups) = (6, 5, 4), ((2, 1), 2)
    conv = Conv(6, (3, 2), strides, padding="VALID", groups=groups)
    variables = filled(conv, shape)
    result = sharing(conv, variables, shape, window=3 * 2 * 2, strides=strides)
    kernel = np.asarray(variables["params"]["kernel"])  # [3, 2, 2, 6]
    expected = np.zeros((*result.output_shape, *shape), np.float32)
    for h, w, o in np.ndindex(result.output_shape):
        seen = slice(2 * (o // 3), 2 * (o // 3) + 2)
        expected[h, w, o, 2 * h : 2 * h + 3, w : w + 2, seen] = kernel[..., o]
    np.testing.assert_array_equal(result.jacobian, expected.reshape(result.outputs, -1))
    assert result.distinct == 6
    assert result.values == result.weights


@pytest.mark.parametrize("name", CONNECTIONS)
def test_sparse_and_shared_as_designed(name):
    module = layer(name, 2, 3, (6, 7), pad=False)
    variables = filled(module, (6, 7, 2))
    window = 84 if name == "dense" else 18
    result = sharing(module, variables, (6, 7, 2), window=window)
    assert result.outputs == 40
    assert result.distinct == (2 if name == "convolution" else 40)
    assert result.connections == window
    assert result.zeros == pytest.approx(result.predicted_zeros, abs=1e-15)
    assert result.values == result.weights
    assert result.as_designed
    # These layers are affine: the Jacobian and the biases are all of them.
    x = np.random.default_rng(1).normal(size=(1, 6, 7, 2)).astype(np.float32)
    zero = np.asarray(module.apply(variables, np.zeros_like(x)))
    by_matrix = (result.jacobian @ x.reshape(-1)).reshape(zero.shape) + zero
    np.testing.assert_allclose(module.apply(variables, x), by_matrix, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pad", [True, False])
def test_one_convolution_in_all_three_forms(pad):
    """Weights that happen to be equal, or 0, make the other two layers the convolution."""
    shape = (6, 5, 2)
    modules = {c: layer(c, 3, 3, shape[:2], pad=pad) for c in CONNECTIONS}
    conv = modules["convolution"]
    own = filled(conv, shape)["params"]
    x = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32)
    expected = conv.apply({"params": own}, x)
    height, width = expected.shape[1:3]
    # The patches of ``ConvLocal`` have their channels in front.
    flat = own["kernel"].transpose(2, 0, 1, 3).reshape(1, 1, 18, 3)
    local = {
        "kernel": jnp.tile(flat, (height, width, 1, 1)),
        "bias": jnp.broadcast_to(own["bias"], (height, width, 3)),
    }
    y = modules["locally connected"].apply({"params": local}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    rows = jacobian_rows(conv, {"params": own}, shape, np.arange(height * width * 3))
    dense = {"kernel": rows.reshape(len(rows), -1).T, "bias": jnp.tile(own["bias"], height * width)}
    y = modules["dense"].apply({"params": {"dense": dense}}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_all_three_start_with_the_same_variance():
    for name, inputs in (("convolution", 36), ("locally connected", 36), ("dense", 400)):
        module = layer(name, 16, 3, (10, 10))
        variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 10, 10, 4)))
        kernel = next(v for v in jax.tree.leaves(variables) if v.any())
        np.testing.assert_allclose(np.var(kernel), 2 / inputs, rtol=0.1)
    row = normal_of(3)(jax.random.key(1), (3, 3, 2, 4))
    whole = math.sqrt(2 / 18) * jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
    np.testing.assert_array_equal(row, whole)


def test_twins_have_the_parameters_that_the_table_predicts():
    sizes = {}
    for name in CONNECTIONS:
        network = twin(name, image_shape=(10, 9, 1), num_classes=4)
        shapes = jax.eval_shape(lambda k, n=network: n.init(k, (10, 9, 1)), jax.random.key(0))
        sizes[name] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
        if name == "convolution":
            rows = layer_table(network, (10, 9, 1))
    assert sizes["convolution"] == sum(row.parameters for row in rows)
    assert sizes["locally connected"] == sum(row.locally_connected for row in rows)
    assert sizes["dense"] == sum(row.dense for row in rows)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"connections": "sparse"}, "allowed: convolution, locally connected, dense"),
        ({"kernel": 4}, "odd sides"),
        ({"kernel": 9, "pad": False}, "fit into maps of 8×8"),
        ({"features": 0}, "features=0"),
    ],
)
def test_impossible_layers_are_refused(fields, message):
    options = {"connections": "dense", "features": 1, "kernel": 3, "input_size": (8, 8), **fields}
    with pytest.raises(ValueError, match=message):
        layer(**options)


def test_layers_without_maps_and_tiny_images_are_refused():
    flat = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3)])
    with pytest.raises(ValueError, match="must return maps"):
        sharing(flat, filled(flat, SHAPE), SHAPE, window=64)
    with pytest.raises(ValueError, match="at least 2×2"):
        twin("dense", image_shape=(1, 8, 1), num_classes=2)


class Uneven(Conv):
    """A convolution whose weights differ from column to column."""

    def __call__(self, x):
        y = super().__call__(x)
        return y * jnp.arange(1.0, 1 + y.shape[2]).reshape(1, 1, -1, 1)


class Leaking(Conv):
    """A convolution that also sees the whole image."""

    def __call__(self, x):
        return super().__call__(x) + x.mean((1, 2, 3), keepdims=True)


def network_of(kind):
    return Network(ConvStem(Conv(3)), (Stack("s", ConvUnit(kind(3)), 2, 1),), ConvStem(Conv(2)))


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_convolutions_of_a_residual_network(placement):
    config = models.defaults(
        "resnet", stage_sizes=(3, 2), widths=(4, 8), placement=placement, transition="projection"
    )
    network = models.build(config, image_shape=SHAPE, num_classes=4)
    seen = []
    result = connections(network, draw(network, SHAPE), SHAPE, progress=lambda *a: seen.append(a))
    assert seen[-1] == (len(result.layer),) * 2
    assert result.layer[0] == "stem/conv"
    rows = [row for row in layer_table(network, SHAPE) if row.kind == "conv"]
    assert result.equal.sum() == len(rows)
    for what in ("parameters", "locally_connected", "dense"):
        assert result.total(what) == sum(getattr(row, what) for row in rows)
    assert (result.different == 0).all()
    np.testing.assert_array_equal(result.seen, result.window)
    assert not result.odd


@pytest.mark.parametrize("kind", [Uneven, Leaking])
def test_a_layer_that_is_no_convolution_is_found_out(kind):
    network = network_of(kind)
    result = connections(network, draw(network, SHAPE), SHAPE)
    assert result.odd == ["stage1/unit1/conv"]
    assert (result.seen[1] > 27) == (kind is Leaking)
    said = compare.finding(per_layer.STUDY, {"net": result})
    assert "Layers that do not match their windows: stage1/unit1/conv" in said.points[0]
    assert said.headline.startswith("The measured Jacobians of 1 layer in net (stage1/unit1/conv) do not")


def test_maps_smaller_than_the_window_are_said_to_be():
    network = network_of(Conv)
    result = connections(network, draw(network, (2, 2, 1)), (2, 2, 1))
    np.testing.assert_array_equal(result.different, -1)
    points = compare.finding(per_layer.STUDY, {"net": result}).points
    assert "too small for two whole windows" in points[0]
    assert "a dense layer has fewer" in points[1]


def test_a_network_without_convolution_is_refused():
    network = twin("dense", image_shape=SHAPE, num_classes=2)
    with pytest.raises(ValueError, match="no convolution"):
        connections(network, draw(network, SHAPE), SHAPE)


@functools.cache
def claimed():
    return STUDY.measure(ClaimOptions(smoke=True), None)


def test_the_claim_finds_what_the_design_says():
    results = claimed()
    assert all(r.as_designed for r in results.values())
    odd = dataclasses.replace(results["convolution"], distinct=2)
    assert not odd.as_designed
    # One entry of 14,450,688 that should be 0 and is not.
    large = results["larger convolution"]
    assert not dataclasses.replace(large, zeros=large.zeros - 1 / large.dense_weights).as_designed
    said = compare.finding(STUDY, results)
    assert "450 weights are enough, instead of 352,800" in said.headline
    assert "14,450,688" in said.headline


def test_json_and_pictures():
    results = claimed()
    back = LayerJacobian.from_json(json.loads(json.dumps(results["convolution"].to_json())))
    np.testing.assert_array_equal(back.jacobian, results["convolution"].jacobian)
    assert back.values == 9
    for narrow in (False, True):
        with style.theme(narrow=narrow):
            figure = STUDY.plot(results)
            assert isinstance(figure, Figure)
            assert sum(len(ax.images) for ax in figure.axes) == 3
    network = network_of(Conv)
    result = connections(network, draw(network, SHAPE), SHAPE)
    back = Connections.from_json(json.loads(json.dumps(result.to_json())))
    np.testing.assert_array_equal(back.seen, result.seen)
    assert isinstance(plot({"a": result, "b": back}), Figure)
