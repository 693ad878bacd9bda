"""LeNet-5, AlexNet, VGG and Veit's plain control: exact counts, layers of their own, deletion, precision."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from resjax import models
from resjax.models.layers import AdaptiveAveragePool, LocalResponseNorm
from resjax.models.lenet import C3_TABLE, PartialConv, TrainableSubsampling, rbf_codes
from resjax.network import Network, losses
from resjax.network.initial import variable_shapes

MNIST, CIFAR, IMAGENET = (28, 28, 1), (32, 32, 3), (224, 224, 3)


def build(name, shape, classes=10, **fields) -> Network:
    return models.build(models.defaults(name, **fields), image_shape=shape, num_classes=classes)


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "shape", "fields", "expected"),
    [
        ("lenet5", (32, 32, 1), {"variant": "original"}, 60_000),
        ("lenet5", MNIST, {"variant": "original"}, 60_000),
        ("lenet5", MNIST, {}, 61_706),
        ("lenet5", (32, 32, 1), {"pooling": "average", "activation": "tanh"}, 61_706),
        ("lenet5", CIFAR, {}, 62_006),
        ("lenet5", MNIST, {"pad": False}, 44_426),
        ("alexnet", IMAGENET, {}, 60_965_224),
        ("alexnet", (227, 227, 3), {"lrn": "off"}, 60_965_224),
        ("alexnet", IMAGENET, {"form": "one_column"}, 61_100_840),
        ("alexnet", (63, 63, 3), {"form": "one_column", "overlapping": False}, 61_100_840),
        ("vgg", IMAGENET, {"configuration": "A"}, 132_863_336),
        ("vgg", IMAGENET, {"configuration": "B"}, 133_047_848),
        ("vgg", IMAGENET, {"configuration": "C"}, 133_638_952),
        ("vgg", IMAGENET, {"configuration": "D"}, 138_357_544),
        ("vgg", IMAGENET, {"configuration": "E"}, 143_667_240),
        ("vgg", IMAGENET, {"configuration": "A", "norm": True}, 132_868_840),
        ("vgg", IMAGENET, {"configuration": "B", "norm": True}, 133_053_736),
        ("vgg", IMAGENET, {"configuration": "D", "norm": True}, 138_365_992),
        ("vgg", IMAGENET, {"configuration": "E", "norm": True}, 143_678_248),
        # 14 convolutions (the first sees 3 channels) and the classifier.
        ("veit_plain", CIFAR, {}, 3_584 + 13 * 147_584 + 1_290),
    ],
)
def test_parameter_counts_are_exact(name, shape, fields, expected):
    classes = 1000 if name in ("alexnet", "vgg") else 10
    variables = variable_shapes(build(name, shape, classes, **fields), shape)
    assert count(variables["params"]) == expected
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_alexnet_layers_have_the_published_counts():
    params = variable_shapes(build("alexnet", IMAGENET, 1000), IMAGENET)["params"]
    counts = {name: count(tree) for name, tree in params.items()}
    assert counts == {
        "stem": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "head": 4_097_000,
    }


SMALL = {
    "lenet5": (MNIST, {}),
    "lenet5 original": (MNIST, {"variant": "original"}),
    "alexnet": ((63, 63, 3), {}),
    "vgg": (CIFAR, {"configuration": "A", "fc_width": 64}),
    "veit_plain": ((8, 8, 3), {"width": 8}),
    "veit_plain norm": ((8, 8, 3), {"width": 8, "norm": True}),
}


def small(name, **changes):
    shape, fields = SMALL[name]
    return shape, build(name.split()[0], shape, **{**fields, **changes})


def ready(name, **changes):
    """A small network, variables that keep a signal alive (drawn without compiling anything), two images."""
    shape, network = small(name, **changes)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            axes = leaf.shape[:-1] if path[1].key in ("stem", "head") else leaf.shape[1:-1]
            deviation, mean = math.sqrt(2 / math.prod(axes)), 0
        else:
            deviation, mean = 0.1, 1 if kind in ("scale", "var", "coefficient") else 0
        return (mean + deviation * rng.normal(size=leaf.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, variable_shapes(network, shape))
    return network, variables, rng.normal(size=(2, *shape)).astype(np.float32), shape


@pytest.mark.parametrize("name", slow_but(SMALL, *list(SMALL)[:2], "veit_plain"))
def test_gates_of_one_change_nothing(name):
    network, variables, x, _ = ready(name)
    # Operation by operation: compiled as a whole, sums may be ordered otherwise beside a product with 1.
    with jax.disable_jit():
        intact = network.apply(variables, x).logits
        gated = network.apply(variables, x, gates=jnp.ones(network.num_units)).logits
    assert intact.shape == (2, 10)
    assert jnp.ptp(intact) > 0
    np.testing.assert_array_equal(gated, intact)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_in_half_precision_and_gives_float32_logits(name, key):
    shape, network = small(name, dtype="bfloat16")
    dtypes = {}
    variables = variable_shapes(network, shape)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    def tap(parts):
        dtypes.setdefault("branch", set()).add(parts.branch.dtype)
        return ()

    logits = jax.eval_shape(lambda v, x: network.apply(v, x, tap=tap).logits, variables, x)
    assert logits.dtype == jnp.float32
    assert dtypes["branch"] == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "shape", "fields"),
    [
        ("imagenet_resnet", CIFAR, {"depth": 18}),
        ("resjax.pretrained.networks:preact_resnet", CIFAR, {"stem": "large"}),
        ("alexnet", (63, 63, 3), {}),
        ("vgg", CIFAR, {"configuration": "A"}),
        ("vgg", CIFAR, {"configuration": "D", "fc_layers": 0}),
        ("veit_plain", CIFAR, {"depth": 4}),
        ("lenet5", MNIST, {}),
    ],
)
def test_with_stock_convolutions_poolings_have_forward_mode_derivatives(name, shape, fields):
    x = jnp.ones((1, *shape))

    def slope(conv):
        network = build(name, shape, conv=conv, **fields)
        variables = variable_shapes(network, shape)
        return jax.eval_shape(
            lambda v: jax.jvp(lambda x: network.apply(v, x).logits, (x,), (x,))[1], variables
        )

    assert slope("lax").shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "shape", "fields", "fixed"),
    [
        ("lenet5", MNIST, {}, {0, 1, 2}),
        ("alexnet", IMAGENET, {}, {0, 1, 3, 4}),  # conv4 keeps 384 channels, fc7 4096
        ("alexnet", IMAGENET, {"form": "one_column"}, {0, 1, 2, 4}),  # here conv5 keeps 256
        ("vgg", IMAGENET, {}, {1, 3, 6, 12}),  # the openings of stages 2 to 4, and fc6
        ("veit_plain", CIFAR, {}, set()),
    ],
)
def test_units_whose_shapes_agree_are_deletable(name, shape, fields, fixed):
    network = build(name, shape, **fields)
    deletable = network.deletable(variable_shapes(network, shape), shape)
    assert set(np.flatnonzero(~deletable)) == fixed


@pytest.mark.parametrize("norm", [False, True])
def test_deleting_a_layer_of_veits_net_equals_a_net_without_it(norm):
    network, variables, x, _ = ready("veit_plain", norm=norm)
    # Of 14 convolutions in stages of 5, 5, 4, the last is unit 12; 14 weight layers have 5, 4, 4.
    shorter = small("veit_plain", depth=14, norm=norm)[1]
    assert [s.n for s in network.stacks] == [4, 1, 4, 1, 3]
    assert [s.n for s in shorter.stacks] == [4, 1, 3, 1, 3]
    ones = jnp.ones(network.num_units)
    run = jax.jit(lambda variables, gates: network.apply(variables, x, gates=gates).logits)
    run_shorter = jax.jit(lambda variables: shorter.apply(variables, x).logits)
    for unit in range(5, 9):  # those of conv2_2_to_5
        kept = np.array([i for i in range(4) if i != unit - 5])
        cut = {collection: dict(parts) for collection, parts in variables.items()}
        for parts in cut.values():
            if "conv2_2_to_5" in parts:
                part = parts.pop("conv2_2_to_5")
                parts["conv2_2_to_4"] = {
                    module: {leaf: v[kept] for leaf, v in leaves.items()} for module, leaves in part.items()
                }
        deleted = run(variables, ones.at[unit].set(0))
        np.testing.assert_allclose(deleted, run_shorter(cut), rtol=1e-5)
        assert jnp.abs(deleted - run(variables, ones)).max() > 1e-3 * jnp.abs(deleted).max()


def test_deleting_the_opening_of_a_stage_keeps_its_pooling():
    network, variables, x, shape = ready("vgg")
    opening = next(unit for unit in network.units if unit.stack.name == "conv5_1")
    assert network.deletable(variables, shape)[opening.index]
    run = jax.jit(lambda v, x: network.apply(v, x, tap=lambda parts: (parts.x, parts.shortcut)))
    before, stand_in = run(variables, x).taps["conv5_1"]
    assert before.shape == (1, 2, 4, 4, 512)
    pooled = np.asarray(before).reshape(1, 2, 2, 2, 2, 2, 512).max(axis=(3, 5))
    np.testing.assert_array_equal(stand_in, pooled)


def test_dropout_acts_in_training_only():
    network, variables, x, _ = ready("vgg")
    run = jax.jit(lambda v, key: network.apply(v, x, train=True, key=key).logits)
    first, again, other = (run(variables, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 0


def test_response_normalization_by_hand():
    x = np.arange(1.0, 8.0, dtype=np.float32).reshape(1, 1, 1, 7) * 10
    expected = []
    for c in range(7):
        total = sum(float(x[0, 0, 0, i]) ** 2 for i in range(max(0, c - 2), min(7, c + 3)))
        expected.append(float(x[0, 0, 0, c]) / (2 + 1e-4 * total) ** 0.75)
    assert expected[0] == pytest.approx(10 / (2 + 1e-4 * (100 + 400 + 900)) ** 0.75)
    np.testing.assert_allclose(LocalResponseNorm().apply({}, x).ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 5, 6, 7, 13])
def test_adaptive_pooling_averages_windows_that_cover_the_image(n):
    x = np.random.default_rng(0).normal(size=(1, n, 6, 2)).astype(np.float32)
    expected = np.stack(
        [x[:, i * n // 6 : math.ceil((i + 1) * n / 6)].mean(axis=1) for i in range(6)], axis=1
    )
    np.testing.assert_allclose(AdaptiveAveragePool(6).apply({}, x), expected, rtol=1e-5, atol=1e-6)


def test_trainable_subsampling_against_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6, 3)).astype(np.float32)
    coefficient, bias = rng.normal(size=(2, 3)).astype(np.float32)
    total = x[:, ::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, ::2] + x[:, 1::2, 1::2]
    expected = 1.7159 * np.tanh(2 / 3 * (total * coefficient + bias))
    variables = {"params": {"coefficient": coefficient, "bias": bias}}
    np.testing.assert_allclose(TrainableSubsampling().apply(variables, x), expected, rtol=1e-5)


def test_c3_sees_the_maps_of_table_1_and_no_others(key):
    layer = PartialConv(impl="lax")
    x = jax.random.normal(key, (5, 5, 6))
    variables = jax.jit(layer.init)(key, x[None])
    assert variables["params"]["kernel"].shape == (5, 5, 60)
    assert count(variables) == 1_516
    jacobian_of = jax.jit(jax.jacobian(lambda x: layer.apply(variables, x[None])[0, 0, 0]))
    jacobian = np.asarray(jacobian_of(x))  # [16, 5, 5, 6]
    seen = np.abs(jacobian).min(axis=(1, 2)) > 0
    none = np.abs(jacobian).max(axis=(1, 2)) == 0
    table = np.array([[c in maps for c in range(6)] for maps in C3_TABLE])
    np.testing.assert_array_equal(seen, table)
    np.testing.assert_array_equal(none, ~table)
    assert table.sum(0).tolist() == [10] * 6


def test_lenet_classifies_by_the_nearest_code():
    codes = rbf_codes()
    assert codes.shape == (10, 84)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    bits = (codes[:, None] != codes[None]).sum(-1) + 84 * np.eye(10, dtype=int)
    assert bits.min() >= 20
    network = small("lenet5 original")[1]
    logits, _ = network.run_head({}, jnp.asarray(codes) * 0.9)
    assert logits.argmax(-1).tolist() == list(range(10))
    np.testing.assert_allclose(np.diag(logits), -84 * 0.1**2, rtol=1e-4)
    # The criterion that goes with it: the label's own distance, and competition from the others.
    labels = jnp.arange(10)
    energies = -np.asarray(logits, np.float64)
    expected = np.diag(energies) + np.log(np.exp(-0.1) + np.exp(-energies).sum(1))
    np.testing.assert_allclose(losses.rbf_map(logits, labels, 0.1), expected, rtol=1e-5)


def test_lenet_starts_within_2_4_over_fan_in(key):
    network = small("lenet5 original")[1]
    c1, s2 = network.stem.conv, network.stem.pool
    c5, f6 = network.stacks[1].unit.conv, network.stacks[2].unit.dense

    @jax.jit
    def draw(key):
        c3 = PartialConv().init(key, jnp.zeros((1, 5, 5, 6)))["params"]["kernel"]
        return [
            (c1.kernel_init(key, (5, 5, 1, 6), jnp.float32), 25),
            (s2.init(key, jnp.zeros((1, 2, 2, 30)))["params"]["coefficient"], 4),
            (c3[..., :3], 75),
            (c3[..., -6:], 150),
            (c5.kernel_init(key, (5, 5, 16, 120), jnp.float32), 400),
            (f6.kernel_init(key, (120, 84), jnp.float32), 120),
        ]

    for kernel, fan_in in draw(key):
        assert 0.9 * 2.4 / fan_in < jnp.abs(kernel).max() <= 2.4 / fan_in


def test_alexnet_starts_as_published(key):
    network = build("alexnet", IMAGENET, 1000)
    units = [stack.unit for stack in network.stacks]
    layers = [network.stem.conv, *(u.conv for u in units[:4]), *(u.dense for u in units[4:])]
    biases = [float(layer.bias_init(key, (1,), jnp.float32)[0]) for layer in layers]
    assert biases == [0, 1, 0, 1, 1, 1, 1]
    for layer in [*layers, network.head]:
        kernel = layer.kernel_init(key, (100, 100), jnp.float32)
        assert float(kernel.std()) == pytest.approx(0.01, rel=0.05)


def test_alexnet_has_one_activation_everywhere():
    for activation in ("relu", "tanh"):
        network = build("alexnet", IMAGENET, activation=activation)
        parts = [network.stem, *(stack.unit for stack in network.stacks)]
        assert [part.activation for part in parts] == [activation] * 7
    assert build("alexnet", IMAGENET).stem.activation == "relu"


def test_alexnet_form_decides_response_normalization_unless_told():
    def normalizes(**fields):
        return build("alexnet", IMAGENET, **fields).stem.lrn is not None

    assert normalizes() and normalizes(form="one_column", lrn="on")
    assert not normalizes(form="one_column") and not normalizes(lrn="off")


@pytest.mark.parametrize(
    ("name", "shape", "classes", "fields", "message"),
    [
        ("lenet5", MNIST, 10, {"variant": "old"}, "original, modern"),
        ("lenet5", MNIST, 10, {"pooling": "min"}, "max, average"),
        ("lenet5", MNIST, 10, {"activation": "gelu"}, "relu, tanh"),
        ("lenet5", (8, 8, 1), 10, {}, "image_size=32"),
        ("lenet5", (64, 64, 1), 10, {}, "image_size=32"),
        ("lenet5", CIFAR, 10, {"variant": "original"}, "variant='modern'"),
        ("lenet5", MNIST, 26, {"variant": "original"}, "variant='modern'"),
        ("alexnet", IMAGENET, 10, {"form": "three"}, "two_group, one_column"),
        ("alexnet", IMAGENET, 10, {"lrn": "yes"}, "auto, on, off"),
        ("alexnet", CIFAR, 10, {}, "at least 63×63"),
        ("vgg", IMAGENET, 10, {"configuration": "F"}, "A, B, C, D, E"),
        ("vgg", (16, 32, 3), 10, {}, "at least 32×32"),
        ("vgg", CIFAR, 10, {"dtype": "float16"}, "float32, bfloat16"),
        ("veit_plain", (2, 2, 3), 10, {}, "at least 4×4"),
        ("veit_plain", CIFAR, 10, {"depth": 3}, "num_stages"),
        ("veit_plain", CIFAR, 10, {"num_stages": 0}, "num_stages"),
        ("veit_plain", CIFAR, 10, {"width": 0}, "1 or more"),
        ("vgg", CIFAR, 10, {"conv": "fast"}, "auto, lax, cpu"),
        ("vgg", CIFAR, 10, {"fc_width": 0}, "1 or more"),
        ("alexnet", IMAGENET, 10, {"dropout": 1.0}, "rate < 1"),
        ("alexnet", IMAGENET, 10, {"activation": "sine"}, "relu, tanh"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(name, shape, classes, fields, message):
    with pytest.raises(ValueError, match=message):
        build(name, shape, classes, **fields)
