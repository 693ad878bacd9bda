"""Residuals of tokens: against plain arithmetic and against the ViT's own units, and what is said of them."""

import jax
import numpy as np
import pytest
from scipy.special import ndtr, softmax

from resjax import models
from resjax.studies.signals import rank_collapse as study
from resjax.studies.signals.token_residual import EPSILON, Tokens, attention, composite, layer_norm, mlp

RNG = np.random.default_rng(0)
WIDTH, COUNT, HEADS = 12, 5, 3


def dense(inputs, outputs):
    return {"kernel": RNG.normal(size=(inputs, outputs)) / inputs**0.5, "bias": RNG.normal(size=outputs)}


ATTENTION = {"qkv": dense(WIDTH, 3 * WIDTH), "out": dense(WIDTH, WIDTH)}
MLP = {"inner": dense(WIDTH, 20), "outer": dense(20, WIDTH)}
NORM = {"scale": RNG.normal(size=WIDTH), "bias": RNG.normal(size=WIDTH)}
X = 1 + RNG.normal(size=(COUNT, WIDTH))


def apply(weights, x):
    return x @ weights["kernel"] + weights["bias"]


def plain_attention(x):
    q, k, v = (a.reshape(COUNT, HEADS, -1) for a in np.split(apply(ATTENTION["qkv"], x), 3, 1))
    weights = softmax(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(WIDTH // HEADS), -1)
    return apply(ATTENTION["out"], np.einsum("hij,jhd->ihd", weights, v).reshape(COUNT, WIDTH))


def plain_mlp(x):
    z = apply(MLP["inner"], x)
    return apply(MLP["outer"], z * ndtr(z))


def plain_norm(x):
    c = x - x.mean(1, keepdims=True)
    return c / np.sqrt((c * c).mean(1, keepdims=True) + EPSILON) * NORM["scale"] + NORM["bias"]


def test_the_parts_of_a_unit_are_those_of_plain_arithmetic():
    tokens = Tokens.of(X)
    for found, expected in (
        (tokens, X),
        (attention(tokens, ATTENTION, HEADS), plain_attention(X)),
        (mlp(tokens, MLP), plain_mlp(X)),
        (layer_norm(tokens, NORM), plain_norm(X)),
        (tokens.plus(mlp(tokens, MLP)), X + plain_mlp(X)),
    ):
        np.testing.assert_allclose(found.whole, expected, rtol=1e-12, atol=1e-13)
    away = X - X.mean(0)
    assert tokens.relative == pytest.approx(np.log10(composite(away) / composite(X)))
    assert composite(np.array([[3.0, -4.0], [0.0, 1.0]])) == pytest.approx(np.sqrt(5 * 7))


def test_attention_cubes_a_small_residual_and_the_rest_keeps_its_order():
    small = Tokens.of(X)._replace(scale=-300.0)
    half = small._replace(scale=-300.0 - np.log(2))
    for run, power in (
        (lambda t: attention(t, ATTENTION, HEADS), 3),
        (lambda t: mlp(t, MLP), 1),
        (lambda t: layer_norm(t, NORM).centred(), 1),
        (lambda t: t.plus(attention(t, ATTENTION, HEADS)), 1),
    ):
        assert run(small).scale - run(half).scale == pytest.approx(power * np.log(2), abs=1e-9)


def test_uniform_attention_leaves_nothing():
    """Queries of 0 weigh all tokens alike, so all tokens become their mean, and stay it."""
    kernel = ATTENTION["qkv"]["kernel"].copy()
    kernel[:, :WIDTH] = 0
    equal = {**ATTENTION, "qkv": {"kernel": kernel, "bias": 0 * ATTENTION["qkv"]["bias"]}}
    tokens = attention(Tokens.of(X), equal, HEADS)
    assert tokens.relative == -np.inf
    again = attention(layer_norm(tokens, NORM), equal, HEADS)
    assert again.relative == -np.inf and np.isfinite(again.whole).all()


@pytest.mark.slow
def test_a_layer_is_that_of_the_vit():
    network = models.build(
        models.defaults("vit", size="digits", depth=2, width=8, heads=2, mlp_width=12),
        image_shape=(8, 8, 1),
        num_classes=3,
    )
    variables = network.init(jax.random.key(0), (8, 8, 1))
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 1)).astype(np.float32)
    stem, _ = network.run_stem(variables, image)
    behind, _, _ = network.run_places(network.places(variables), stem)
    tokens = Tokens.of(np.asarray(stem)[0])
    for layer in range(2):
        own = jax.tree.map(lambda v, at=layer: np.asarray(v[at], float), dict(variables["params"]))
        tokens = study.through_layer(tokens, own, 2, shortcuts=True, mlps=True, norm=True)
    np.testing.assert_allclose(tokens.whole, behind[0], rtol=1e-4, atol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="depth=1, seeds=5; allowed: 2 or more of each"):
        study.rank_collapse(shortcuts=True, depth=1)
