"""MLP-Mixer against the formula of the paper in NumPy; sizes, gates and cuts."""

import itertools
import math

import jax
import numpy as np
import pytest
from network_helpers import draw, logits_of

from resjax import models
from resjax.models.layer_table import layer_table, totals
from resjax.network.cut import cut, cut_variables
from resjax.network.initial import variable_shapes

IMAGENET, SHAPE, CLASSES = (224, 224, 3), (4, 6, 3), 5
TINY = {"size": "digits", "width": 8, "depth": 3, "token_width": 7, "mlp_width": 12}


def build(shape=SHAPE, classes=CLASSES, **fields):
    return models.build(models.defaults("mixer", **fields), image_shape=shape, num_classes=classes)


def images(n=3):
    return np.random.default_rng(5).normal(size=(n, *SHAPE)).astype(np.float32)


def count(network, shape):
    variables = variable_shapes(network, shape)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return p["scale"] * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + p["bias"]


def mlp(x, p):
    h = x @ p["inner"]["kernel"] + p["inner"]["bias"]
    h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    return h @ p["outer"]["kernel"] + p["outer"]["bias"]


def formula(variables, x, gates):
    """Tolstikhin et al. 2021, Eq. 1, with a table [tokens, channels] for each image."""
    params = jax.tree.map(lambda v: np.asarray(v, np.float64), variables["params"])
    conv, head = params["stem"]["conv"], params["head"]
    patches = x.reshape(len(x), 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(x), 6, 12)
    h = patches @ conv["kernel"].reshape(12, 8) + conv["bias"]
    for i, part in itertools.product(range(3), ("tokens", "channels")):
        p = jax.tree.map(lambda v, i=i: v[i], params[part])
        seen = layer_norm(h, p["norm"])
        if part == "tokens":
            f = mlp(seen.transpose(0, 2, 1), p["branch"]["mlp"]).transpose(0, 2, 1)
        else:
            f = mlp(seen, p["branch"])
        h = h + gates[2 * i + (part == "channels")] * f
    y = layer_norm(h, head["norm"]).mean(1)
    return y @ head["classifier"]["kernel"] + head["classifier"]["bias"]


def test_logits_are_those_of_the_papers_formula():
    network = build(**TINY)
    variables, x = draw(network, SHAPE), images()
    for gates in ([1] * 6, [1, 0, 0.4, 1, 0, 1]):
        gates = np.array(gates, np.float32)
        close(logits_of(network, variables, x, gates=gates), formula(variables, x, gates))


def test_a_network_without_a_unit_computes_what_a_gate_of_0_does():
    network = build(**TINY)
    variables, x = draw(network, SHAPE), images()
    names = [network.units[i].name for i in (0, 3)]
    smaller, own = cut(network, names, SHAPE), cut_variables(network, variables, names, SHAPE)
    gates = np.array([0, 1, 1, 0, 1, 1], np.float32)
    close(logits_of(smaller, own, x), logits_of(network, variables, x, gates=gates))
    assert [unit.tolist() for unit in network.classes] == [[0, 2, 4], [1, 3, 5]]


def test_base_has_the_published_number_of_parameters():
    """59,880,472 in the usual listings; by hand with T = 196 tokens, D = 768."""
    network = build(IMAGENET, 1000)
    t, d, along, across = 196, 768, 384, 3072
    layer = 2 * 2 * d + (2 * t * along + along + t) + (2 * d * across + across + d)
    assert count(network, IMAGENET) == 59_880_472
    assert 16 * 16 * 3 * d + d + 12 * layer + 2 * d + 1000 * d + 1000 == 59_880_472
    found = totals(layer_table(network, IMAGENET))
    assert found.parameters == 59_880_472
    products = 12 * (2 * t * along * d + 2 * d * across * t)
    assert found.multiply_adds == t * 16 * 16 * 3 * d + products + 1000 * d
    assert network.num_units == 24


def test_small_has_eight_layers_of_512():
    t, d, along, across = 196, 512, 256, 2048
    layer = 2 * 2 * d + (2 * t * along + along + t) + (2 * d * across + across + d)
    expected = 16 * 16 * 3 * d + d + 8 * layer + 2 * d + 1000 * d + 1000
    assert count(build(IMAGENET, 1000, size="S"), IMAGENET) == expected == 18_528_264


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "L"}, "digits, cifar, S, B"),
        ({"activation": "relu"}, "model.activation='relu'; allowed: gelu, gelu_tanh, quick_gelu"),
        ({"patch": 5}, "model.patch=5 does not divide images of 4×6; allowed: 1, 2"),
        ({"token_width": -2}, "model.token_width=-2; allowed: 1 or more, or 0"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**{**TINY, **fields})
