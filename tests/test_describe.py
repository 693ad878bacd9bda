"""The table of layers: published sizes, Ng's examples, and the command that prints it."""

import io
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from resjax import config as configs
from resjax import models
from resjax.describe import as_table, as_text, describe
from resjax.models.layer_table import growth, layer_table, totals
from resjax.models.layers import Conv, Dense, Pool
from resjax.network import Network, Stack
from resjax.network.unit import Unit

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)


def table(name, shape, classes=10, **fields):
    network = models.build(models.defaults(name, **fields), image_shape=shape, num_classes=classes)
    return layer_table(network, shape)


def by_name(rows):
    return {row.name: row for row in rows}


class Chain(nn.Module):
    """Layers in a row, as the stem of a network without units."""

    layers: tuple[nn.Module, ...]

    def __call__(self, x, train):
        del train
        for layer in self.layers:
            x = layer(x)
        return x


class Flat(nn.Module):
    dense: nn.Module

    def __call__(self, x, train):
        del train
        return self.dense(x.reshape(x.shape[0], -1))


def chain(shape, *layers, classes=1):
    return layer_table(Network(Chain(layers), (), Flat(Dense(classes))), shape)


def valid(features, kernel, stride=1, **kwargs):
    size, strides = (kernel, kernel), (stride, stride)
    return Conv(features, size, strides, "VALID", use_bias=True, **kwargs)


def test_a_convolution_shares_and_is_sparse_where_a_dense_layer_does_not():
    """Ng's example: 32×32×3 to 28×28×6 with 5×5 windows (his 156 forgets the three channels)."""
    row = chain(CIFAR, valid(6, 5))[0]
    assert row.output_shape == (28, 28, 6)
    assert row.parameters == 456
    assert row.dense == 14_450_688 + 4_704
    assert row.locally_connected == 28 * 28 * 456
    assert row.connections == 75
    assert row.multiply_adds == 28 * 28 * 6 * 75
    assert (row.kernel, row.stride, row.receptive_field) == ((5, 5), (1, 1), (5, 5))


def test_ngs_other_sizes():
    assert chain((6, 6, 3), valid(10, 3))[0].parameters == 280
    assert chain((60, 60, 3), valid(10, 3))[0].parameters == 280  # whatever the size of the image
    assert chain((300, 300, 3), valid(100, 5))[0].parameters == 7_600
    assert chain((300, 300, 3), classes=100)[0].parameters == 27_000_100
    assert chain((1000, 1000, 3), classes=1000)[0].parameters == 3 * 10**9 + 1000
    rows = chain((39, 39, 3), valid(10, 3), valid(20, 5, 2), valid(40, 5, 2))
    assert [r.output_shape for r in rows] == [(37, 37, 10), (17, 17, 20), (7, 7, 40), (1,)]
    assert rows[-1].connections == 1_960


def test_units_that_alternate_share_entries():
    rows = table("vit", (8, 8, 1), size="digits")
    names = [str(cell) for cell in as_table("", rows).columns[0].cells]
    assert "stage1/unit1, 3 … 11/branch/qkv" in names and "stage1/unit2, 4 … 12/branch/outer" in names
    assert sum(name.startswith("stage1/") for name in names) == 4 + 3
    whole = as_table("", rows, every=True).columns[0].cells
    assert sum(str(name).startswith("stage1/") for name in whole) == 6 * (4 + 3)


def test_groups_see_their_own_channels_only():
    row = by_name(table("alexnet", IMAGENET, 1000))["stage2/unit1/conv"]
    assert row.connections == 5 * 5 * 48
    assert row.parameters == 307_456
    assert row.multiply_adds == 27 * 27 * 256 * 1200
    assert row.dense == (27 * 27 * 96) * (27 * 27 * 256) + 27 * 27 * 256


def test_lenet_as_the_paper_counts_it():
    rows = table("lenet5", (32, 32, 1), variant="original")
    assert [row.output_shape for row in rows] == [
        (28, 28, 6),
        (14, 14, 6),
        (10, 10, 16),
        (5, 5, 16),
        (1, 1, 120),
        (84,),
        (10,),
    ]
    assert [row.parameters for row in rows] == [156, 12, 1_516, 32, 48_120, 10_164, 0]
    # The paper's "connections" are the weights and biases of every position (it misprints C3's).
    connections = [row.locally_connected for row in rows]
    assert [connections[i] for i in (0, 2, 4, 5)] == [122_304, 151_600, 48_120, 10_164]
    assert [row.receptive_field[0] for row in rows] == [5, 6, 14, 16, 32, 32, 32]
    assert rows[2].connections == 150
    assert totals(rows).parameters == 60_000


@pytest.mark.parametrize(
    ("name", "shape", "classes", "fields", "published"),
    [
        ("resnet", CIFAR, 10, {"depth": 20, "placement": "post"}, 40.6e6),
        ("resnet", CIFAR, 10, {"depth": 56, "placement": "post"}, 125.5e6),
        ("resnet", CIFAR, 10, {"depth": 110}, 252.9e6),
        ("resnet", CIFAR, 10, {"depth": 1202}, 2.83e9),
        ("imagenet_resnet", IMAGENET, 1000, {"depth": 18, "version": "v1"}, 1.81e9),
        ("imagenet_resnet", IMAGENET, 1000, {"depth": 34, "version": "v1"}, 3.66e9),
        ("imagenet_resnet", IMAGENET, 1000, {"depth": 50, "version": "v1"}, 3.86e9),
        ("imagenet_resnet", IMAGENET, 1000, {"depth": 152, "version": "v1"}, 11.28e9),
        ("vgg", IMAGENET, 1000, {}, 15.47e9),
        ("vgg", IMAGENET, 1000, {"configuration": "E"}, 19.63e9),
    ],
)
def test_multiply_adds_are_the_published_ones(name, shape, classes, fields, published):
    rows = table(name, shape, classes, **fields)
    assert totals(rows).multiply_adds == pytest.approx(published, rel=3e-3)


@pytest.mark.parametrize(
    ("name", "shape", "fields"),
    [
        ("resnet", CIFAR, {"depth": 20, "transition": "projection"}),
        ("resnet", CIFAR, {"depth": 8, "placement": "bn_after_add", "shortcut": "exclusive_gate"}),
        ("resnet", CIFAR, {"depth": 8, "norm": False, "branch_scale": "skipinit"}),
        (
            "resnet",
            CIFAR,
            {"depth": 8, "norm": False, "branch_scale": "fixup", "placement": "post"},
        ),
        ("resnet", CIFAR, {"depth": 29, "block": "bottleneck", "shortcut": "none"}),
        ("alexnet", (63, 63, 3), {}),
        ("vgg", CIFAR, {"configuration": "C", "norm": True}),
        ("veit_plain", CIFAR, {"norm": True}),
        ("lenet5", CIFAR, {}),
    ],
)
def test_every_parameter_is_in_one_row(name, shape, fields):
    network = models.build(models.defaults(name, **fields), image_shape=shape, num_classes=10)
    params = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))["params"]
    rows = layer_table(network, shape)
    assert totals(rows).parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert len({row.name for row in rows}) == len(rows)
    assert {row.unit for row in rows} >= {unit.name for unit in network.units}


def test_receptive_fields_are_where_the_gradient_reaches():
    shape = (65, 65, 1)
    network = models.build(
        models.defaults("resnet", depth=8, norm=False, conv="lax"), image_shape=shape, num_classes=2
    )
    shapes = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))
    # Positive weights on a positive image: every ReLU passes, nothing cancels.
    variables = jax.tree.map(lambda v: np.full(v.shape, 0.05, np.float32), shapes)
    rows = by_name(layer_table(network, shape))

    image = jnp.ones((1, *shape))

    def middle(x, depth):
        h, _ = network.run_stem(variables, x)
        for stack in network.stacks[:depth]:
            h, _, _ = network.run_stack(stack, variables, h)
        return h[0, h.shape[1] // 2, h.shape[2] // 2].sum()

    for depth, name in enumerate(["stem/conv", *(f"stage{i}/unit1/conv2" for i in (1, 2, 3))]):
        gradient = jax.jit(jax.grad(middle), static_argnums=1)(image, depth)[0, :, :, 0]
        reached = np.flatnonzero(np.abs(gradient).sum(0))
        assert np.ptp(reached) + 1 == len(reached) == rows[name].receptive_field[1]


@pytest.mark.parametrize(
    ("layer", "field"),
    [("stage5/unit3/conv", 196), ("stage6/unit1/pool", 212), ("stage6/unit1/dense", 404)],
)
def test_receptive_fields_of_vgg16(layer, field):
    assert by_name(table("vgg", IMAGENET, 1000))[layer].receptive_field == (field, field)


def test_adaptive_pooling_spans_the_image_it_gets():
    rows = by_name(table("alexnet", (320, 320, 3), 10, form="one_column"))
    assert rows["stage4/unit1/pool"].output_shape == (9, 9, 256)
    pool, dense = rows["stage4/unit1/adaptive_pool"], rows["stage4/unit1/dense"]
    assert pool.output_shape == (6, 6, 256)
    assert dense.receptive_field[0] == 195 + (9 - 1) * 32


class WithShortcut(Unit):
    """1×1 branch beside a shortcut that looks farther than it; stock Flax layers."""

    def setup(self):
        self.near = nn.Conv(4, (1, 1))
        self.shortcut = nn.Conv(4, (5, 5))

    def split(self, x, train):
        del train
        return self.shortcut(x), self.near(x)


def test_the_larger_field_of_branch_and_shortcut_goes_on():
    stem = Chain((Conv(4), Pool("max")))
    network = Network(stem, (Stack("units", WithShortcut(), 3, 1),), Flat(nn.Dense(2)))
    fields = {row.name: row.receptive_field[0] for row in layer_table(network, (16, 16, 1))}
    assert fields == {
        "stem/layers_0": 3,
        "stem/layers_1": 4,
        "stage1/unit1/shortcut": 12,
        "stage1/unit1/near": 4,
        "stage1/unit2/shortcut": 20,
        "stage1/unit2/near": 12,
        "stage1/unit3/shortcut": 28,
        "stage1/unit3/near": 20,
        "head/dense": 28 + 7 * 2,
    }


def grown(name, shape, classes=10, **fields):
    return growth(table(name, shape, classes, **fields), shape)


def test_vgg16_doubles_three_times_in_thirteen_convolutions():
    """Not with each convolution, and not at the fifth stage; the dense layers hold most parameters."""
    g = grown("vgg", IMAGENET, 1000)
    assert (g.channels, g.doublings, g.convolutions) == ((64, 128, 256, 512), 3, 13)
    assert ([height for height, _ in g.sides], g.halvings) == ([224, 112, 56, 28, 14, 7], 5)
    assert g.dense == 102_764_544 + 16_781_312 + 4_097_000
    assert g.parameters - g.dense == 14_714_688
    assert as_text(g).splitlines() == [
        "channels: 64 → 128 → 256 → 512; doubled 3 times in 13 convolutions",
        "sides: 224 → 112 → 56 → 28 → 14 → 7; halved 5 times",
        "dense layers: 123,642,856 of 138,357,544 parameters, 89.4 %",
    ]


@pytest.mark.parametrize(
    ("name", "shape", "fields", "doublings", "convolutions", "halvings", "dense"),
    [
        ("resnet", CIFAR, {"depth": 110}, 2, 109, 2, 650),
        # Shortcuts with a convolution of stride 2 halve nothing once more.
        ("resnet", CIFAR, {"depth": 20, "transition": "projection"}, 2, 19, 2, 650),
        # Within its units a bottleneck narrows and widens: 256 → 64 → 64 → 256.
        ("imagenet_resnet", IMAGENET, {"depth": 50}, 3, 49, 5, 20_490),
        ("lenet5", (28, 28, 1), {}, 0, 3, 2, 10_164 + 850),
        ("alexnet", IMAGENET, {}, 0, 5, 3, 37_752_832 + 16_781_312 + 40_970),
    ],
    ids=["resnet110", "projection", "resnet50", "lenet", "alexnet"],
)
def test_growth_of_other_networks(name, shape, fields, doublings, convolutions, halvings, dense):
    g = grown(name, shape, **fields)
    assert (g.doublings, g.convolutions, g.halvings, g.dense) == (doublings, convolutions, halvings, dense)


def test_odd_and_unequal_sides_are_halved_too():
    g = grown("resnet", (33, 65, 3), depth=8)
    assert (g.sides, g.halvings) == (((33, 65), (17, 33), (9, 17)), 2)
    assert "sides: 33×65 → 17×33 → 9×17; halved twice" in as_text(g)


def test_a_network_without_convolutions_has_only_its_dense_share():
    g = growth(chain((4, 4, 1), classes=3), (4, 4, 1))
    assert (g.doublings, g.convolutions, g.halvings) == (0, 0, 0)
    assert as_text(g) == "dense layers: 51 of 51 parameters, 100.0 %"
    # Four pixels become two without a step of 2: smaller, but not by halving.
    shrunk = growth(chain((4, 4, 1), valid(2, 3)), (4, 4, 1))
    assert (shrunk.sides, shrunk.halvings, shrunk.convolutions) == (((4, 4), (2, 2)), 0, 1)
    assert "never halved" in as_text(shrunk)


def config(name, dataset, **fields):
    c = configs.default(name, **fields)
    c.data.name = dataset
    return c


@pytest.mark.parametrize(
    "config",
    [config("imagenet_resnet", "imagenet2012"), config("vgg", "imagenet2012")],
    ids=["resnet50", "vgg16"],
)
def test_the_table_fits_into_120_columns(config):
    _, rows = describe(config)
    out = io.StringIO()
    Console(file=out, width=120).print(as_table("title", rows, tight=True))
    text = out.getvalue()
    assert "…" not in text
    assert f"{totals(rows).parameters:,}" in text
    assert "stage3/unit2–" in text


def test_equal_units_share_an_entry_unless_all_are_asked_for():
    _, rows = describe(config("resnet", "cifar10", depth=20))
    few, every = as_table("", rows), as_table("", rows, every=True)
    assert every.row_count == len(rows)
    # Two layers or so less for each stage: its third unit repeats the second.
    assert few.row_count == len(rows) - 3 * 4
    names = list(few.columns[0].cells)
    assert "stage2/unit2–3/conv1" in names
    assert "5" in list(few.columns[9].cells)


CONFIG = """
from resjax import config

def get_config(arg=""):
    c = config.default("lenet5")
    c.data.name = "mnist"
    return c
"""


def run(tmp_path, *arguments):
    path = tmp_path / "lenet.py"
    path.write_text(CONFIG)
    command = [sys.executable, "-m", "resjax.describe", f"--config={path}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_json_without_data(tmp_path):
    done = run(tmp_path, "--json", "--config.model.variant=original")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"]["variant"] == "original"
    assert (document["image_shape"], document["num_classes"]) == ([28, 28, 1], 10)
    assert document["totals"]["parameters"] == 60_000
    assert document["growth"]["sides"] == [[28, 28], [14, 14], [10, 10], [5, 5], [1, 1]]
    assert [layer["name"] for layer in document["layers"]][-2:] == ["stage3/unit1/dense", "head"]


def test_the_command_prints_a_table_or_says_what_is_wrong(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "61,706" in done.stdout
    assert "lenet5, mnist: images 28×28×1" in done.stdout
    assert "dense layers: 11,014 of 61,706 parameters, 17.8 %" in done.stdout
    done = run(tmp_path, "--config.model.variant=old")
    assert done.returncode == 1
    assert "error: model.variant='old'; allowed: original, modern" in done.stderr
