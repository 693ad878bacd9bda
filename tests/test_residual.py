"""Residual units against the formulas of the papers, written out again in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models.residual import PLACEMENTS, ResidualUnit
from resjax.models.shortcuts import Shortcut, pad_shortcut

# --- the formulas, in NumPy and float64 ---


def conv(x, kernel, stride=1, bias=0.0):
    kh, kw = kernel.shape[:2]
    x = np.pad(x, ((0, 0), ((kh - 1) // 2,) * 2, ((kw - 1) // 2,) * 2, (0, 0)))
    h, w = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((len(x), h, w, kernel.shape[3]))
    for i, j in itertools.product(range(h), range(w)):
        window = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
        y[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
    return y + bias


def bn(x, params, stats=None):
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if stats is None else (stats["mean"], stats["var"])
    return params["scale"] * (x - mean) / np.sqrt(var + 1e-5) + params["bias"]


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(unit, x, seed=0):
    """Variables of one unit, all of them random, as JAX arrays and as float64."""
    rng = np.random.default_rng(seed)

    def leaf(path, v):
        noise = rng.normal(size=v.shape)
        noise = np.exp(0.3 * noise) if path[-1].key in ("scale", "var") else 0.3 * noise
        return noise.astype(np.float32)

    shapes = jax.eval_shape(lambda: unit.init(jax.random.key(0), x))
    variables = jax.tree_util.tree_map_with_path(leaf, shapes)
    wide = jax.tree.map(lambda v: v.astype(np.float64), variables)
    return variables, wide["params"], wide.get("batch_stats", {})


def run(unit, variables, x, gate=None, train=False):
    @jax.jit
    def apply(variables, x, gate):
        return unit.apply(variables, x, gate, train, mutable=["batch_stats"])[0]

    return apply(variables, x, gate)


def images(channels, size=5):
    return np.random.default_rng(7).normal(size=(3, size, size, channels)).astype(np.float32)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


TWO = ((3, 4, 1), (3, 4, 1))


def plain_formula(placement, x, p, s, first=False):
    """The branch of two layers, after He et al. 2016, Fig. 4; ``s`` None for batch statistics."""

    def norm(name, h):
        return bn(h, p[name], None if s is None else s[name])

    k1, k2 = p["conv1"]["kernel"], p["conv2"]["kernel"]
    if placement == "post":
        return norm("bn2", conv(relu(norm("bn1", conv(x, k1))), k2))
    if placement == "bn_after_add":
        return conv(relu(norm("bn1", conv(x, k1))), k2)
    if placement == "relu_before_add":
        return relu(norm("bn2", conv(relu(norm("bn1", conv(x, k1))), k2)))
    if placement == "relu_pre":
        return norm("bn2", conv(relu(norm("bn1", conv(relu(x), k1))), k2))
    h = x if first else relu(norm("bn1", x))
    return conv(relu(norm("bn2", conv(h, k1))), k2)


def after_sum(placement, z, p, s):
    if placement == "post":
        return relu(z)
    if placement == "bn_after_add":
        return relu(bn(z, p["bn_merge"], None if s is None else s["bn_merge"]))
    return z


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("placement", [*PLACEMENTS, "pre first"])
def test_placements(placement, train):
    placement, _, first = placement.partition(" ")
    unit = ResidualUnit(Shortcut(4, 4, 1, "pad_subsample"), TWO, placement=placement, first=bool(first))
    x = images(4)
    variables, p, s = drawn(unit, x)
    s = None if train else s
    branch = plain_formula(placement, x, p, s, bool(first))
    expected = after_sum(placement, x + 0.3 * branch, p, s)
    close(run(unit, variables, x, 0.3, train), expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_plain_twins_have_no_shortcut(placement):
    unit = ResidualUnit(None, TWO, placement=placement)
    x = images(4)
    variables, p, s = drawn(unit, x)
    branch = plain_formula(placement, x, p, s)
    half = 0.25 * branch + 0.75 * x  # the input stands in for what is taken away
    close(run(unit, variables, x, 0.25), after_sum(placement, half, p, s))
    if placement == "post":
        close(run(unit, variables, x), relu(branch))


def test_three_layers_and_their_stride():
    """A bottleneck that halves the image in its 3×3, with a projection and its BatchNorm beside it."""
    unit = ResidualUnit(Shortcut(4, 8, 2, "projection"), ((1, 2, 1), (3, 2, 2), (1, 8, 1)), placement="post")
    x = images(4, size=7)
    variables, p, s = drawn(unit, x)
    h = relu(bn(conv(x, p["conv1"]["kernel"]), p["bn1"], s["bn1"]))
    h = relu(bn(conv(h, p["conv2"]["kernel"], 2), p["bn2"], s["bn2"]))
    h = bn(conv(h, p["conv3"]["kernel"]), p["bn3"], s["bn3"])
    path = bn(conv(x, p["shortcut"]["conv"]["kernel"], 2), p["shortcut"]["bn"], s["shortcut"]["bn"])
    assert h.shape == (3, 4, 4, 8)
    close(run(unit, variables, x), relu(path + h))


def test_a_projection_reads_the_pre_activated_input():
    unit = ResidualUnit(Shortcut(4, 6, 2, "projection", norm=False), ((3, 6, 2), (3, 6, 1)), placement="pre")
    x = images(4)
    variables, p, s = drawn(unit, x)
    activated = relu(bn(x, p["bn1"], s["bn1"]))
    h = relu(bn(conv(activated, p["conv1"]["kernel"], 2), p["bn2"], s["bn2"]))
    h = conv(h, p["conv2"]["kernel"])
    close(run(unit, variables, x), conv(activated, p["shortcut"]["conv"]["kernel"], 2) + h)


def test_a_padded_shortcut_of_a_pre_activation_unit_copies_the_input_itself():
    unit = ResidualUnit(Shortcut(4, 6, 2, "pad_subsample"), ((3, 6, 2), (3, 6, 1)), placement="pre")
    x = images(4)
    variables, _, _ = drawn(unit, x)
    close(run(unit, variables, x, 0.0)[..., :4], x[:, ::2, ::2])


def test_fixup_has_its_scalars_where_its_authors_put_them():
    """Zhang et al. 2019, Fig. 1 right: + b1a, conv, + b1b, ReLU, + b2a, conv, × scale, + b2b."""
    unit = ResidualUnit(
        Shortcut(4, 6, 2, "projection", norm=False),
        ((3, 6, 2), (3, 6, 1)),
        placement="post",
        norm=False,
        branch_scale="fixup",
        depth=9,
    )
    x = images(4)
    variables, p, _ = drawn(unit, x)
    (b1a, b1b), (b2a, b2b) = p["biases"]
    h = relu(conv(x + b1a, p["conv1"]["kernel"], 2) + b1b)
    h = p["scale"] * conv(h + b2a, p["conv2"]["kernel"]) + b2b
    close(run(unit, variables, x), relu(conv(x + b1a, p["shortcut"]["conv"]["kernel"], 2) + h))


def test_skipinit_without_normalization():
    unit = ResidualUnit(Shortcut(4, 4, 1, "pad_subsample"), TWO, norm=False, branch_scale="skipinit")
    x = images(4)
    variables, p, _ = drawn(unit, x)
    h = conv(relu(x), p["conv1"]["kernel"], bias=p["conv1"]["bias"])
    h = conv(relu(h), p["conv2"]["kernel"], bias=p["conv2"]["bias"])
    close(run(unit, variables, x), x + p["alpha"] * h)


# --- shortcuts ---


@pytest.mark.parametrize("alteration", ["exclusive_gate", "shortcut_gate", "scale"])
def test_altered_shortcuts(alteration):
    """He et al. 2016, §3.1: (1 − g) x + g F, (1 − g) x + F, λ x + μ F."""
    shortcut = Shortcut(4, 4, 1, "pad_subsample", alteration=alteration, scale=0.5, branch_scale=0.25)
    unit = ResidualUnit(shortcut, TWO, placement="post")
    x = images(4)
    variables, p, s = drawn(unit, x)
    branch = plain_formula("post", x, p, s)
    if alteration == "scale":
        expected = 0.5 * x + 0.25 * branch
    else:
        gate = p["shortcut"]["gate"]
        g = sigmoid(conv(x, gate["kernel"], bias=gate["bias"]))
        expected = (1 - g) * x + (g if alteration == "exclusive_gate" else 1) * branch
    close(run(unit, variables, x), relu(expected))


def test_gates_start_nearly_open():
    unit = Shortcut(4, 4, 1, "pad_subsample", alteration="shortcut_gate", gate_bias=-6.0)
    variables = unit.init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)), False)
    np.testing.assert_array_equal(variables["params"]["gate"]["bias"], -6.0)


def test_dropout_on_the_shortcut_in_training_only():
    unit = Shortcut(4, 4, 1, "pad_subsample", alteration="dropout")
    x = jnp.ones((2, 16, 16, 4))
    key = {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(unit.apply({}, x, False)[0], x)
    dropped = np.asarray(unit.apply({}, x, True, rngs=key)[0])
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert abs(dropped.mean() - 1) < 0.15  # 2,048 draws: standard deviation 0.022


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("centre", [False, True])
def test_option_a(size, centre):
    x = images(3, size)
    before, out = (1, 4) if centre else (0, 3)
    half = -(-size // 2)
    subsampled = pad_shortcut(jnp.asarray(x), 6, 2, pool=False, centre=centre)
    pooled = pad_shortcut(jnp.asarray(x), 6, 2, pool=True, centre=centre)
    assert subsampled.shape == pooled.shape == (3, half, half, 6)
    np.testing.assert_array_equal(subsampled[..., before:out], x[:, ::2, ::2])
    for i, j in itertools.product(range(half), repeat=2):
        window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]  # cut by the border where size is odd
        close(pooled[:, i, j, before:out], window.mean((1, 2)))
    for y in (subsampled, pooled):
        assert not np.any(np.delete(y, np.s_[before:out], axis=3))


def test_option_a_without_a_stride_only_pads():
    x = images(3)
    y = pad_shortcut(jnp.asarray(x), 8, 1, pool=True, centre=True)
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (0, 0), (0, 0), (2, 3))))
