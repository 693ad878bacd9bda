"""ConvNeXt and ConvMixer against the formulas of the papers in NumPy; sizes, gates and cuts."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, logits_of

from resjax import models
from resjax.models.layer_table import layer_table, totals
from resjax.models.layers import GlobalResponseNorm
from resjax.network.cut import cut, cut_variables
from resjax.network.initial import variable_shapes

IMAGENET, SHAPE, CLASSES = (224, 224, 3), (6, 8, 3), 5
TINY = {
    "v1": ("convnext", {"patch": 2, "stage_sizes": (2, 2), "widths": (4, 6), "layer_scale": 0.2}),
    "v2": ("convnext", {"patch": 2, "stage_sizes": (2, 2), "widths": (4, 6), "version": "v2"}),
    "convmixer": ("convmixer", {"width": 6, "depth": 3, "kernel": 3, "patch": 2}),
}


def build(name, shape=SHAPE, classes=CLASSES, **fields):
    return models.build(models.defaults(name, **fields), image_shape=shape, num_classes=classes)


def tiny(form):
    name, fields = TINY[form]
    network = build(name, **fields)
    return network, draw(network, SHAPE)


def images(n=3):
    return np.random.default_rng(5).normal(size=(n, *SHAPE)).astype(np.float32)


def count(network, shape=IMAGENET):
    variables = variable_shapes(network, shape)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


# --- the formulas, in NumPy and float64 ---


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return p["scale"] * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def patches(x, p):
    side, _, c, features = p["kernel"].shape
    b, h, w, _ = x.shape
    h, w = h // side, w // side
    cells = x[:, : h * side, : w * side].reshape(b, h, side, w, side, c).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(b, h, w, -1) @ p["kernel"].reshape(-1, features) + p["bias"]


def depthwise(x, p):
    side, half = len(p["kernel"]), len(p["kernel"]) // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    y = np.zeros_like(x) + p["bias"]
    for i, j in itertools.product(range(side), repeat=2):
        y += padded[:, i : i + x.shape[1], j : j + x.shape[2]] * p["kernel"][i, j, 0]
    return y


def grn(x, p):
    size = np.sqrt((x**2).sum((1, 2), keepdims=True))
    return p["gamma"] * x * (size / (size.mean(-1, keepdims=True) + 1e-6)) + p["beta"] + x


def rows(tree):
    return [jax.tree.map(lambda v, i=i: v[i], tree) for i in range(len(jax.tree.leaves(tree)[0]))]


def convnext_formula(variables, x, gates):
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), variables["params"])
    h = layer_norm(patches(x, p["stem"]["conv"]), p["stem"]["norm"])
    units = [row for part in ("stage1", "stage2_opening", "stage2") for row in rows(p[part])]
    for gate, u in zip(gates, units, strict=True):
        if "downsampling" in u:
            h = patches(layer_norm(h, u["downsampling"]["norm"]), u["downsampling"]["conv"])
        f = gelu(dense(layer_norm(depthwise(h, u["depthwise"]), u["norm"]), u["inner"]))
        f = dense(grn(f, u["grn"]) if "grn" in u else f, u["outer"])
        h = h + gate * (u["scale"]["gamma"] * f if "scale" in u else f)
    return dense(layer_norm(h.mean((1, 2)), p["head"]["norm"]), p["head"]["classifier"])


def convmixer_formula(variables, x, gates):
    p, s = (
        jax.tree.map(lambda v: np.asarray(v, np.float64), variables[c]) for c in ("params", "batch_stats")
    )

    def finished(h, p, s):
        factor = p["bn"]["scale"] / np.sqrt(s["bn"]["var"] + 1e-5)
        return factor * (gelu(h) - s["bn"]["mean"]) + p["bn"]["bias"]

    h = finished(patches(x, p["stem"]["conv"]), p["stem"], s["stem"])
    for gate, u, t in zip(gates, rows(p["layers"]), rows(s["layers"]), strict=True):
        one, two = u["depthwise"], u["pointwise"]
        h = h + gate * finished(depthwise(h, one["conv"]), one, t["depthwise"])
        h = finished(patches(h, two["conv"]), two, t["pointwise"])
    return dense(h.mean((1, 2)), p["head"]["classifier"])


@pytest.mark.parametrize("form", TINY)
def test_logits_are_those_of_the_papers_formulas(form):
    network, variables = tiny(form)
    formula = convmixer_formula if form == "convmixer" else convnext_formula
    n, x = network.num_units, images()
    for gates in (np.ones(n, np.float32), np.array([0.4, 1, 0, 1][:n], np.float32)):
        close(logits_of(network, variables, x, gates=gates), formula(variables, x, gates))


def test_response_normalization_of_maps_without_a_response():
    """Its gradient is finite where a channel is 0 everywhere."""
    x = np.zeros((1, 2, 2, 3), np.float32)
    x[..., 1] = [[1, 2], [3, 4]]
    p = {"params": {"gamma": np.full(3, 0.5, np.float32), "beta": np.ones(3, np.float32)}}
    close(GlobalResponseNorm().apply(p, x), grn(x, {"gamma": 0.5, "beta": 1.0}))
    gradient = jax.grad(lambda x: jnp.sum(GlobalResponseNorm().apply(p, x)))(x)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


# --- sizes ---

SIZES = {"T": 28_589_128, "S": 50_223_688, "B": 88_591_464, "L": 197_767_336}


@pytest.mark.parametrize("size", slow_but(SIZES, "T", "B"))
def test_convnext_has_the_published_numbers_of_parameters(size):
    assert count(build("convnext", IMAGENET, 1000, size=size)) == SIZES[size]


def test_version_2_has_two_numbers_a_hidden_channel_and_no_layer_scale():
    """28,635,496 in the usual listings: 8·C more and C less for each unit of C channels."""
    channels = 3 * 96 + 3 * 192 + 9 * 384 + 3 * 768
    found = count(build("convnext", IMAGENET, 1000, version="v2"))
    assert found == SIZES["T"] + 7 * channels == 28_635_496


@pytest.mark.parametrize(("h", "d", "k", "p"), [(1536, 20, 9, 7), (768, 32, 7, 7), (1024, 20, 9, 14)])
def test_convmixer_has_the_number_of_parameters_that_the_paper_gives(h, d, k, p):
    """Trockman & Kolter 2022, Appendix: h·(d·(k² + h + 6) + 3·p² + n + 3) + n for n classes."""
    network = build("convmixer", IMAGENET, 1000, width=h, depth=d, kernel=k, patch=p)
    expected = {1536: 51_625_960, 768: 21_110_248, 1024: 24_383_464}[h]
    assert count(network) == expected == h * (d * (k * k + h + 6) + 3 * p * p + 1003) + 1000


def test_multiply_adds():
    """ConvNeXt-T: 4.46 billion in the usual listings."""
    total = 56 * 56 * 48 * 96 + 1000 * 768
    for side, width, n in ((56, 96, 3), (28, 192, 3), (14, 384, 9), (7, 768, 3)):
        total += n * side**2 * (49 * width + 8 * width**2)
        total += 0 if side == 56 else side**2 * 4 * width // 2 * width
    assert totals(layer_table(build("convnext", IMAGENET, 1000), IMAGENET)).multiply_adds == total
    assert 4.45e9 < total < 4.47e9


# --- units ---


@pytest.mark.parametrize("form", slow_but(TINY, "v2"))
def test_a_network_without_a_unit_computes_what_a_gate_of_0_does(form):
    network, variables = tiny(form)
    x, n, gone = images(), network.num_units, [0, 2]
    names = [network.units[i].name for i in gone]
    smaller, own = cut(network, names, SHAPE), cut_variables(network, variables, names, SHAPE)
    gates = np.ones(n, np.float32)
    gates[gone] = 0
    close(logits_of(smaller, own, x), logits_of(network, variables, x, gates=gates))
    assert smaller.num_units == n - 2


@pytest.mark.slow
@pytest.mark.parametrize("form", TINY)
def test_programs_do_not_grow_with_the_depth(form):
    name, fields = TINY[form]

    def operations(n):
        deeper = {"depth": n} if form == "convmixer" else {"stage_sizes": (n, n)}
        network = build(name, **{**fields, **deeper})
        variables = jax.eval_shape(lambda key: network.init(key, SHAPE), jax.random.key(0))

        def loss(variables):
            return jnp.sum(network.apply(variables, images(), train=True).logits)

        return str(jax.make_jaxpr(jax.grad(loss))(variables)).count(" = ")

    assert operations(4) == operations(8)


@pytest.mark.parametrize("form", TINY)
def test_half_precision_gives_float32_logits(form):
    name, fields = TINY[form]
    network = build(name, **fields, dtype="bfloat16", unit_dropout="linear")
    variables = jax.eval_shape(lambda key: network.init(key, SHAPE), jax.random.key(0))
    dtypes = set()

    def tap(parts):
        dtypes.add(parts.branch.dtype)
        return ()

    run = {"tap": tap, "train": True, "key": jax.random.key(0)}
    logits = jax.eval_shape(lambda v, x: network.apply(v, x, **run).logits, variables, images())
    assert logits.dtype == jnp.float32 and dtypes == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("convnext", {"size": "XL"}, "digits, cifar, T, S, B, L"),
        ("convnext", {"version": "v3"}, "v1, v2"),
        ("convnext", {"stage_sizes": (2,)}, "as many widths as stages"),
        ("convnext", {"stage_sizes": (2, 0), "widths": (4, 4)}, "model.stage_sizes=0; allowed: 1 or more"),
        ("convnext", {"layer_scale": -1.0}, "model.layer_scale=-1.0; allowed"),
        ("convnext", {"patch": -1}, "model.patch=-1; allowed: 1 or more, or 0"),
        ("convnext", {"norm_epsilon": 0.0}, "model.norm_epsilon=0.0; allowed: more than 0, less than 1"),
        ("convnext", {"head_norm_epsilon": -1e-6}, "model.head_norm_epsilon=-1e-06; allowed.* or 0 for"),
        ("convmixer", {"activation": "tanh"}, "model.activation='tanh'; allowed: gelu, relu"),
        ("convnext", {}, "at least 32×32"),
        ("convmixer", {"kernel": 4}, "model.kernel=4; allowed: 1, 3, 5"),
        ("convmixer", {"patch": 4}, "does not divide images of 6×8; allowed: 1, 2,"),
        ("convmixer", {"depth": 0}, "model.depth=0; allowed: 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(name, fields, message):
    with pytest.raises(ValueError, match=message):
        build(name, **fields)
