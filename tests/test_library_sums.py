"""Sums that XLA leaves to its library (YNNPACK) on a CPU: right at many sizes, and never of a wide product.

The library of jaxlib 0.10.2 takes wrong columns of some products of matrices: one fusion computes the product
and a sum of it, and the product's last axis has more than 128 KiB (docs/notes/performance_cpu.md).
"""

import re
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from resjax import models
from resjax.cpu import one_thread
from resjax.models.layers import BatchNorm
from resjax.network.initial import variable_shapes
from resjax.network.losses import cross_entropy, share_wrong
from resjax.network.norms import layer_norms

WIDEST = 128 * 2**10  # bytes of which the library is right
BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8}
NO_WORK = {"parameter", "constant", "bitcast", "dot"}
NETWORKS = {
    "resnet": ("resnet", {"depth": 8}, (8, 8, 3), 128),
    "vit": ("vit", {"size": "cifar", "depth": 1}, (32, 32, 3), 64),
    "mixer": ("mixer", {"size": "cifar", "depth": 1}, (32, 32, 3), 64),
}
"""{name: family, fields, shape of images, batch}."""
CASES = [
    *(f"{name}, {what}" for name in NETWORKS for what in ("logits", "gradient")),
    *(f"resnet on one thread, {what}" for what in ("logits", "gradient")),
]


def products_with_more(text: str) -> list[int]:
    """Bytes of the last axis of each product that shares a fusion of the library with other operations."""
    bodies = dict(re.findall(r"^%(\S+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    called = re.findall(r'calls=%([^\s,]+),[^\n]*"__ynn_fusion"', text)
    found = []
    for body in (bodies[name] for name in called):
        if set(re.findall(r"= \S+ ([a-z][\w-]*)\(", body)) - NO_WORK:
            shapes = re.findall(r"= (\w+)\[(?:\d+,)*(\d+)\]\S* dot\(", body)
            found += [BYTES[dtype] * int(last) for dtype, last in shapes]
    return found


def compiled(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text()


def squares(matrix, rows):
    return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)


def test_the_program_that_the_library_gets_wrong_is_recognized():
    def widest(n):
        text = compiled(squares, jnp.zeros((3, 3)), jax.ShapeDtypeStruct((n, 3), jnp.float32))
        if not (found := products_with_more(text)):
            pytest.skip("this version of XLA does not give the library a product with a sum")
        return max(found)

    assert widest(32_768) == WIDEST < widest(32_769)


@pytest.mark.parametrize("case", slow_but(CASES, "vit, logits", "resnet on one thread, logits"))
def test_products_of_networks_in_fusions_with_sums_are_narrow(case):
    name, _, what = case.partition(", ")
    name, alone, _ = name.partition(" on one thread")
    train = what == "gradient"
    family, fields, shape, batch = NETWORKS[name]
    network = models.build(models.defaults(family, **fields), image_shape=shape, num_classes=10)
    variables = variable_shapes(network, shape)
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def loss(params, variables, images, labels):
        logits = network.apply({**variables, "params": params}, images, train=train).logits
        return jnp.mean(cross_entropy(logits, labels))

    run = jax.grad(loss) if train else loss
    with one_thread.one_thread() if alone else nullcontext():  # its convolutions are products
        text = compiled(run, variables["params"], variables, images, labels)
    assert " dot(" in text
    assert all(width <= WIDEST for width in products_with_more(text))


@pytest.mark.parametrize(("rows", "classes"), [(32_769, 3), (43_520, 3), (50_000, 100)])
def test_losses_and_errors_of_many_examples_equal_those_of_numpy(rows, classes):
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(size=(rows, 3)), rng.normal(size=(3, classes))
    labels = rng.integers(classes, size=rows)

    @jax.jit
    def means(features, kernel, labels):
        logits = features @ kernel
        each = cross_entropy(logits, labels)
        return each, jnp.mean(each), jnp.mean(share_wrong(logits, labels)), jnp.sum(logits**2, 0)

    features, kernel = features.astype(np.float32), kernel.astype(np.float32)
    each, loss, error, squared = means(features, kernel, labels.astype(np.int32))
    logits = features.astype(np.float64) @ kernel.astype(np.float64)
    wanted = np.log(np.exp(logits).sum(1)) - logits[np.arange(rows), labels]
    np.testing.assert_allclose(each, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(error, np.mean(logits.argmax(1) != labels), atol=2 / rows)
    np.testing.assert_allclose(squared, (logits**2).sum(0), rtol=1e-4)


@pytest.mark.parametrize("shape", [(64, 32, 32, 16), (33, 31, 33, 3)])
def test_batch_norm_of_many_positions_equals_that_of_numpy(shape):
    values, slopes = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    channels = np.ones(shape[-1], np.float32)

    @jax.jit
    def gradients(scale, bias):
        def total(scale, bias):
            variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": statistics}
            y, new = BatchNorm().apply(variables, values, train=True, mutable=["batch_stats"])
            return jnp.sum(y * slopes), new["batch_stats"]

        statistics = {"mean": 0 * bias, "var": scale}
        return jax.grad(total, (0, 1), has_aux=True)(scale, bias)

    (scale, bias), statistics = gradients(channels, 0 * channels)
    x, dy = values.astype(np.float64), slopes.astype(np.float64)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    near = {"rtol": 1e-5, "atol": 1e-5 * np.sqrt(x.size)}
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean, atol=1e-6)  # running: they start at 0 and 1
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * var, rtol=1e-6)
    np.testing.assert_allclose(bias, dy.sum((0, 1, 2)), **near)
    np.testing.assert_allclose(scale, (dy * (x - mean) / np.sqrt(var + 1e-5)).sum((0, 1, 2)), **near)


def test_norms_of_large_layers_equal_those_of_numpy():
    network = models.build(models.defaults("lenet5"), image_shape=(28, 28, 1), num_classes=10)
    rng = np.random.default_rng(0)
    shapes = {"convolution": (3, 3, 512, 512), "narrow": (40_001, 3), "bias": (32_769,)}
    layers = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    found = jax.jit(lambda tree: layer_norms(network, tree))({"stem": layers})
    for name, layer in layers.items():
        right = np.linalg.norm(layer.astype(np.float64).ravel())
        np.testing.assert_allclose(found[f"stem/{name}"], right, rtol=1e-5)
