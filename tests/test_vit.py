"""Vision transformers against the formulas of the papers, written out again in NumPy; sizes, gates, cuts."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, logits_of

from resjax import models
from resjax.models import layers
from resjax.models.layer_table import layer_table, totals
from resjax.models.tokens import sincos
from resjax.network.cut import cut, cut_variables
from resjax.network.initial import variable_shapes
from resjax.network.losses import cross_entropy
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.paths.path_walk import Probe

IMAGENET, SHAPE, CLASSES = (224, 224, 3), (4, 6, 3), 5
TINY = {"size": "digits", "patch": 2, "width": 8, "depth": 3, "heads": 2, "mlp_width": 12}
FORMS = {
    "pre": {},
    "post": {"placement": "post"},
    "scaled": {"layer_scale": 0.3, "pool": "mean", "positions": "sincos"},
    "layer": {"grain": "layer"},
    "stochastic": {"unit_dropout": "linear"},
}


def build(shape=SHAPE, classes=CLASSES, **fields):
    return models.build(models.defaults("vit", **fields), image_shape=shape, num_classes=classes)


def tiny(form, **fields):
    network = build(**TINY, **FORMS[form], **fields)
    return network, draw(network, SHAPE)


def images(n=3):
    return np.random.default_rng(5).normal(size=(n, *SHAPE)).astype(np.float32)


def count(network, shape):
    variables = variable_shapes(network, shape)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def close(a, b, rtol=1e-4, atol=1e-5):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# --- the formulas, in NumPy and float64 ---


def layer_norm(x, p):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return p["scale"] * (x - mean) / np.sqrt(variance + 1e-6) + p["bias"]


def dense(x, p):
    return np.einsum("btc,cf->btf", x, p["kernel"]) + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(x, p, heads):
    width, out = x.shape[-1], np.zeros_like(x)
    d = width // heads
    qkv = dense(x, p["qkv"])
    for b, h in itertools.product(range(len(x)), range(heads)):
        q, k, v = (qkv[b, :, i * width + h * d : i * width + (h + 1) * d] for i in range(3))
        for t in range(x.shape[1]):
            weights = np.exp(k @ q[t] / math.sqrt(d))
            out[b, t, h * d : (h + 1) * d] = weights @ v / weights.sum()
    return dense(out, p["out"])


def mlp(x, p):
    return dense(gelu(dense(x, p["inner"])), p["outer"])


def formula(form, variables, x, gates):
    """Dosovitskiy et al. 2021, Eq. 1 to 4; with 'post', Vaswani et al. 2017, §3.1."""
    params = jax.tree.map(lambda v: np.asarray(v, np.float64), variables["params"])
    stem, head = params["stem"], params["head"]
    patches = x.reshape(len(x), 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(x), 6, 12)
    h = dense(patches, {"kernel": stem["conv"]["kernel"].reshape(12, 8), "bias": stem["conv"]["bias"]})
    if form == "scaled":
        h = h + sincos(2, 3, 8)
    else:
        first = np.broadcast_to(stem["class_token"], (len(x), 1, 8))
        h = np.concatenate([first, h], 1) + stem["positions"]
    for i, part in itertools.product(range(3), ("attention", "mlp")):
        p = jax.tree.map(lambda v, i=i: v[i], params["layers"][part] if form == "layer" else params[part])
        seen = h if form == "post" else layer_norm(h, p["norm"])
        f = attention(seen, p["branch"], 2) if part == "attention" else mlp(seen, p["branch"])
        if form == "scaled":
            f = p["scale"]["gamma"] * f
        h = h + (gates[i] if form == "layer" else gates[2 * i + (part == "mlp")]) * f
        h = layer_norm(h, p["norm"]) if form == "post" else h
    h = h if form == "post" else layer_norm(h, head["norm"])
    y = h.mean(1) if form == "scaled" else h[:, 0]
    return y @ head["classifier"]["kernel"] + head["classifier"]["bias"]


@pytest.mark.parametrize("form", slow_but(["pre", "post", "scaled", "layer"], "post", "scaled"))
def test_logits_are_those_of_the_papers_formulas(form):
    network, variables = tiny(form)
    x, n = images(), network.num_units
    assert n == (3 if form == "layer" else 6)
    close(logits_of(network, variables, x), formula(form, variables, x, np.ones(n)))
    # A gate of a layer scales both branches, of which the second has seen the first: the formula has 0 and 1.
    gates = np.array([1, 0, 1] if form == "layer" else [1, 0, 0.4, 1, 0, 1], np.float32)
    close(logits_of(network, variables, x, gates=gates), formula(form, variables, x, gates))


def test_gelu_keeps_its_small_values_in_half_precision():
    x = jnp.linspace(-4, 4, 33, dtype=jnp.bfloat16)
    close(layers.gelu(x).astype(jnp.float32), gelu(np.asarray(x, np.float64)), rtol=2**-8, atol=1e-6)


def test_gelu_is_the_exact_one():
    """The tanh approximation differs from it by up to 5e-4."""
    unit = build(**TINY).stacks[1].unit.branch
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(1, 2, 12)
    eye = np.eye(12, dtype=np.float32)
    p = {name: {"kernel": eye, "bias": np.zeros(12, np.float32)} for name in ("inner", "outer")}
    close(unit.apply({"params": p}, x), gelu(x.astype(np.float64)), rtol=1e-5, atol=1e-6)


def test_layer_norm_has_the_papers_epsilon_and_an_exact_variance():
    """Deviations of 1e-3 around 1: ε = 1e-5 would halve the result; E[x²] − E[x]² would lose its digits."""
    x = (1 + 1e-3 * np.random.default_rng(0).normal(size=(1, 2, 8))).astype(np.float32)
    p = {"scale": np.arange(1, 9, dtype=np.float32), "bias": np.ones(8, np.float32)}
    found = layers.layer_norm().apply({"params": p}, x)
    np.testing.assert_allclose(found, layer_norm(x.astype(np.float64), p), rtol=2e-3, atol=2e-3)


def test_fixed_positions_are_sines_of_rows_and_columns():
    at = sincos(3, 4, 16)
    omega = np.array([10_000 ** -(i / 3) for i in range(4)])
    x, y = 2, 1
    expected = np.concatenate([f(c * omega) for c in (x, y) for f in (np.sin, np.cos)])
    close(at[y * 4 + x], expected, rtol=1e-6)
    assert at.shape == (12, 16) and len(np.unique(at.round(5), axis=0)) == 12


# --- sizes ---


PUBLISHED = {"Ti": 5_717_416, "S": 22_050_664, "B": 86_567_656, "L": 304_326_632}


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_have_the_published_numbers_of_parameters(size):
    """Those of the usual listings, for 224×224 pixels and 1000 classes."""
    network = build(IMAGENET, 1000, size=size)
    assert count(network, IMAGENET) == PUBLISHED[size]
    assert len(network.stacks) == network.num_units == (48 if size == "L" else 24)


def test_parameters_of_other_forms():
    d, whole = 192, PUBLISHED["Ti"]
    learned = 197 * d
    for fields, expected in (
        ({"placement": "post"}, whole - 2 * d),  # no LayerNorm in front of the classifier
        ({"grain": "layer"}, whole),
        ({"layer_scale": 1e-4}, whole + 24 * d),
        ({"pool": "mean"}, whole - 2 * d),  # no class token, and none of its positions
        ({"positions": "sincos"}, whole - learned),
    ):
        assert count(build(IMAGENET, 1000, size="Ti", **fields), IMAGENET) == expected, fields


def test_sizes_for_small_images():
    """Hassani et al. 2021, Table 1: ViT-Lite-7/4 has 3.72 million parameters."""
    assert count(build((32, 32, 3), 10, size="cifar"), (32, 32, 3)) == pytest.approx(3.72e6, rel=0.005)
    assert build((8, 8, 1), 10, size="digits").num_units == 12


def test_multiply_adds_count_attention():
    """ViT-B/16: T = 197 tokens, D = 768, 12 layers; 17.6 billion in the usual listings."""
    tokens, d = 197, 768
    rows = layer_table(build(IMAGENET, 1000), IMAGENET)
    product = next(row for row in rows if row.kind == "attention")
    assert product.multiply_adds == 2 * tokens * tokens * d and product.parameters == 0
    layer = tokens * 12 * d * d + 2 * tokens * tokens * d
    assert totals(rows).multiply_adds == 196 * 16 * 16 * 3 * d + 12 * layer + 1000 * d
    assert totals(rows).parameters == PUBLISHED["B"]
    fields = {row.name: row.receptive_field for row in rows}
    assert fields["stage1/unit1/branch/qkv"] == (16, 16)
    assert fields["stage1/unit1/branch/product"] == fields["head/classifier"] == (224, 224)


# --- units ---


@pytest.mark.parametrize("form", slow_but(FORMS, "post"))
def test_a_network_without_a_unit_computes_what_a_gate_of_0_does(form):
    network, variables = tiny(form)
    x, n = images(), network.num_units
    last = n - 1  # behind it, a 'post' network keeps its LayerNorm in front of the head
    for gone in ([0], [1, 2]) if n == 3 else ([0], [1, 2, last]):
        names = [network.units[i].name for i in gone]
        smaller, own = cut(network, names, SHAPE), cut_variables(network, variables, names, SHAPE)
        gates = np.ones(n, np.float32)
        gates[gone] = 0
        close(logits_of(smaller, own, x), logits_of(network, variables, x, gates=gates))
        assert smaller.num_units == n - len(gone)


def test_attention_changes_places_with_attention_only():
    network, variables = tiny("pre")
    x = images()
    assert [own.tolist() for own in network.classes] == [[0, 2, 4], [1, 3, 5]]
    moved = jax.tree.map(np.copy, variables)
    rows = [1, 0, 2]
    moved["params"]["attention"] = jax.tree.map(lambda v: v[rows], variables["params"]["attention"])
    found = logits_of(network, variables, x, order=np.array([2, 1, 0, 3, 4, 5]))
    close(found, logits_of(network, moved, x))
    assert not np.allclose(found, logits_of(network, variables, x), atol=1e-3)
    with pytest.raises(ValueError, match="can be exchanged: here 0, 2, 4"):
        network.apply(variables, x, order=[1, 0, 2, 3, 4, 5])


@pytest.mark.slow
@pytest.mark.parametrize("form", slow_but(["pre", "post"], "post"))
def test_gradients_of_all_path_lengths_sum_to_the_gradient(form):
    network, variables = tiny(form)
    x, labels = images(), np.arange(3)
    found = path_spectrum(network, variables, x, labels, batch_size=3, probe=Probe(reduction="sum"))

    def loss(x):
        return jnp.sum(cross_entropy(network.apply(variables, x).logits, jnp.asarray(labels)))

    gradient = jax.jit(jax.grad(loss))(x)
    np.testing.assert_allclose(found.total[0, 0], np.linalg.norm(gradient), rtol=1e-4)
    np.testing.assert_allclose(found.contribution[0, 0].sum(), 1, rtol=1e-4)
    # Without a branch, the class token knows nothing of the image.
    assert found.norm.shape[-1] == 7 and not found.norm[0, 0, 0] and (found.norm[0, 0, 1:] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("form", slow_but(FORMS, "pre"))
def test_programs_do_not_grow_with_the_depth(form):
    def operations(depth, train):
        network = build(**{**TINY, **FORMS[form], "depth": depth})
        variables = jax.eval_shape(lambda key: network.init(key, SHAPE), jax.random.key(0))

        def loss(variables):
            given = {"train": train, "key": jax.random.key(0)}
            return jnp.sum(network.apply(variables, images(), **given).logits)

        return str(jax.make_jaxpr(jax.grad(loss))(variables)).count(" = ")

    for train in (False, True):
        assert operations(6, train) == operations(12, train)

    def starting(depth):
        network = build(**{**TINY, **FORMS[form], "depth": depth})
        return str(jax.make_jaxpr(lambda key: network.init(key, SHAPE))(jax.random.key(0))).count("erf_inv")

    assert starting(6) == starting(12)


def test_the_backward_pass_computes_attention_again_and_dense_layers_not():
    """A loop keeps the outputs of dense layers (``resjax.network.run``). Matrix products of a training step:
    forward, those of 4 dense layers, 2 of attention and the classifier's; backward, 2 for each of these; and
    the 2 of attention again."""
    network, variables = tiny("pre")

    def loss(params):
        given = {"train": True, "key": jax.random.key(0)}
        return jnp.sum(network.apply({**variables, "params": params}, images(), **given).logits)

    text = str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))
    assert text.count("dot_general[") == 7 + 2 * 7 + 2


def test_stochastic_depth_drops_units_in_training_and_scales_them_at_test():
    network, variables = tiny("stochastic")
    x, plain = images(), build(**TINY)
    p = 1 - np.arange(1, 7, dtype=np.float32) / 6 * 0.5
    close(logits_of(network, variables, x), logits_of(plain, variables, x, gates=p))
    whole = logits_of(plain, variables, x)
    runs = [logits_of(network, variables, x, train=True, key=jax.random.key(i)) for i in range(4)]
    assert any(not np.allclose(run, whole, atol=1e-3) for run in runs)
    subsets = [
        logits_of(plain, variables, x, gates=np.array(g, np.float32))
        for g in itertools.product((0, 1), repeat=6)
    ]
    for run in runs:
        assert min(np.abs(run - one).max() for one in subsets) < 1e-4


def test_half_precision_gives_float32_logits_near_those_of_float32():
    network, variables = tiny("pre", dtype="bfloat16")
    dtypes = set()

    def tap(parts):
        dtypes.add(parts.branch.dtype)
        return ()

    shapes = jax.eval_shape(lambda v, x: network.apply(v, x, tap=tap).logits, variables, images())
    assert shapes.dtype == jnp.float32 and dtypes == {jnp.dtype("bfloat16")}
    found, expected = (logits_of(net, variables, images()) for net in (network, tiny("pre")[0]))
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_kernels_start_with_the_variance_of_glorot(key):
    network = build(IMAGENET, 10, size="Ti", depth=1)
    params = jax.jit(lambda key: network.init(key, IMAGENET))(key)["params"]
    attention, mlp = params["attention"]["branch"], params["mlp"]["branch"]
    for kernel, variance in (
        (attention["qkv"]["kernel"], 1 / 192),
        (attention["out"]["kernel"], 1 / 192),
        (mlp["inner"]["kernel"], 2 / (192 + 768)),
        (mlp["outer"]["kernel"], 2 / (192 + 768)),
        (params["head"]["classifier"]["kernel"], 0.02**2),
        (params["stem"]["positions"], 0.02**2),
    ):
        assert float(jnp.var(kernel)) == pytest.approx(variance, rel=0.1)
    bound = math.sqrt(3 / 192)
    assert 0.99 * bound < float(jnp.abs(attention["qkv"]["kernel"]).max()) <= bound


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "XL"}, "digits, cifar, Ti, S, B, L"),
        ({"patch": 4}, r"model.patch=4 does not divide images of 4×6; allowed: 1, 2, or resize"),
        ({"heads": 3}, "model.heads=3 do not divide model.width=8"),
        ({"depth": -1}, "model.depth=-1; allowed: 1 or more, or 0"),
        ({"pool": "max"}, "cls, mean"),
        ({"positions": "rotary"}, "learned, sincos"),
        ({"positions": "sincos", "width": 6, "heads": 2}, "8, 12, 16"),
        ({"placement": "sandwich"}, "pre, post"),
        ({"grain": "head"}, "unit, layer"),
        ({"grain": "layer", "placement": "post"}, "use model.grain='unit' or model.placement='pre'"),
        ({"layer_scale": -0.1}, "model.layer_scale=-0.1; allowed"),
        ({"unit_dropout": "some"}, "none, linear, uniform, subset"),
        ({"activation": "relu"}, "gelu, gelu_tanh, quick_gelu"),
        ({"norm_epsilon": 0.0}, "model.norm_epsilon=0.0; allowed"),
        ({"representation": -1}, "model.representation=-1; allowed"),
        ({"pool": "patches", "placement": "post"}, "use 'mean' or model.placement='pre'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**{**TINY, **fields})


def test_tokens_are_rows_of_one_matrix_in_a_layer():
    """As XLA:CPU has faster gradients of its kernel: aᵀ b, without a transposed copy of b."""
    layer, x = layers.Dense(4), jnp.ones((2, 3, 5))
    variables = layer.init(jax.random.key(0), x)

    def gradient(v):
        return jax.grad(lambda v: layer.apply(v, x).sum())(v)

    products = [
        eqn for eqn in jax.make_jaxpr(gradient)(variables).eqns if eqn.primitive.name == "dot_general"
    ]
    assert products
    assert {v.aval.ndim for eqn in products for v in eqn.invars} == {2}
