"""Networks without some of their units: the same logits as with gates of 0, fewer variables, and refusals."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, equal, initial, logits_of
from pattern_helpers import IMAGES, SHAPE, Layers, Widening, blocks, masked, mixed

from resjax import models
from resjax.models.layer_table import layer_table, totals
from resjax.models.layers import BatchNorm, Conv, Dense
from resjax.models.stem_head import Stem
from resjax.network import Network, Stack
from resjax.network.cut import HeadAfter, UnitAfter, cut, cut_variables
from resjax.network.unit import Unit
from resjax.studies.convolution.moves import total_strides
from resjax.studies.units.responses import layers_of

SMALL = {"stage_sizes": (3, 3, 2), "widths": (2, 4, 6)}  # units 3 and 6 change the shape
POST = {**SMALL, "placement": "post"}
IMAGE = (8, 8, 3)
CASES = {
    "post": ("resnet", IMAGE, POST),
    "pre": ("resnet", IMAGE, {**SMALL, "placement": "pre"}),
    "relu_pre": ("resnet", IMAGE, {**SMALL, "placement": "relu_pre"}),
    "relu_before_add": ("resnet", IMAGE, {**SMALL, "placement": "relu_before_add"}),
    "bn_after_add": ("resnet", IMAGE, {**SMALL, "placement": "bn_after_add"}),
    "projection": ("resnet", IMAGE, {**POST, "transition": "projection"}),
    "pre, projection": ("resnet", IMAGE, {**SMALL, "placement": "pre", "transition": "projection"}),
    "bottleneck": ("resnet", IMAGE, {**POST, "block": "bottleneck", "transition": "projection"}),
    "projections": ("resnet", IMAGE, {**POST, "shortcut": "projection"}),
    "scale": ("resnet", IMAGE, {**POST, "shortcut": "scale", "shortcut_scale": 0.7}),
    "exclusive gates": ("resnet", IMAGE, {**POST, "shortcut": "exclusive_gate"}),
    "shortcut gates": ("resnet", IMAGE, {**POST, "shortcut": "shortcut_gate"}),
    "fixup": ("resnet", IMAGE, {**POST, "norm": False, "branch_scale": "fixup"}),
    "plain": ("resnet", IMAGE, {**POST, "shortcut": "none"}),
    "plain, pre": ("resnet", IMAGE, {**SMALL, "placement": "pre", "shortcut": "none"}),
    "stochastic depth": ("resnet", IMAGE, {**SMALL, "unit_dropout": "linear"}),
    "effective paths": ("resnet", IMAGE, {**SMALL, "unit_dropout": "subset", "units_active": 3}),
    "veit_plain": ("veit_plain", (32, 32, 3), {"depth": 15, "width": 2}),
    "vgg": ("vgg", (32, 32, 3), {"fc_width": 8, "norm": True}),
    "imagenet": ("imagenet_resnet", (32, 32, 3), {"depth": 18}),
    "alexnet": ("alexnet", (67, 67, 3), {}),
}
# The second kind of a set ends in a transition and everything behind it, so the head begins with a remnant.
GONE = {"between": {1, 3, 4}, "last": {2, 3, 6, 7}}
# Few units of these keep their shape; unit 9 of VGG begins with a pooling, which stays.
OF_CASE = {
    "vgg": {"between": {4, 9}, "last": {2, 9, 10, 13}},
    "alexnet": {"between": {2}, "last": {2, 5}},
}


def built(case, names=()):
    name, shape, fields = CASES[case]
    return models.build(models.defaults(name, cut=names, **fields), image_shape=shape, num_classes=5), shape


@functools.cache
def whole(case):
    network, shape = built(case)
    variables = draw(network, shape)
    return network, variables, shape, network.deletable(variables, shape)


def images(shape, n=3):
    return np.random.default_rng(1).normal(size=(n, *shape)).astype(np.float32)


def without(network, names):
    """The gates that delete these units."""
    return np.array([unit.name not in names for unit in network.units], np.float32)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", GONE)
@pytest.mark.parametrize("case", slow_but(CASES, "post", "plain"))
def test_the_logits_are_those_with_gates_of_0(case, kind):
    network, variables, shape, can_go = whole(case)
    chosen = OF_CASE.get(case, GONE)[kind]
    names = tuple(u.name for u in network.units if u.index in chosen and can_go[u.index])
    assert names
    smaller, _ = built(case, names)
    own = cut_variables(network, variables, names, shape)
    x = images(shape)
    close(logits_of(smaller, own, x), logits_of(network, variables, x, gates=without(network, names)))
    assert smaller.num_units == network.num_units - len(names)
    shapes = jax.eval_shape(lambda key: smaller.init(key, shape), jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(own)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), shapes, own))


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_the_variables_of_what_is_cut_are_gone():
    """Units of 8 channels: two 3×3 convolutions and two BatchNorms; a transition's projection stays."""
    fields = {"stage_sizes": (3, 2), "widths": (8, 8), "placement": "post", "transition": "projection"}
    network = models.build(models.defaults("resnet", **fields), image_shape=IMAGE, num_classes=5)
    variables = draw(network, IMAGE)
    branch = 2 * 9 * 64 + 2 * 16
    for name in ("stage1/unit2", "stage2/unit1", "stage2/unit2"):
        own = cut_variables(network, variables, (name,), IMAGE)
        assert count(variables) - count(own) == branch, name
    left = cut_variables(network, variables, ("stage2/unit1",), IMAGE)["params"]["stage2"]
    assert set(left) == {"before_0", "unit"}
    shortcut = {"shortcut": variables["params"]["stage2_opening"]["shortcut"]}
    assert equal(left["before_0"]["unit"], shortcut)


def test_rows_are_those_of_the_units_that_stay():
    network, variables, shape, _ = whole("pre")
    smaller = cut(network, ["stage1/unit2"], shape)
    own = cut_variables(network, variables, ["stage1/unit2"], shape)
    part = network.units[1].part
    rows = [network.units[i].row for i in (0, 2) if network.units[i].part == part]
    assert equal(own["params"][part], jax.tree.map(lambda v: v[np.array(rows)], variables["params"][part]))
    assert [unit.name for unit in smaller.units[:3]] == ["stage1/unit1", "stage1/unit2", "stage2/unit1"]


def test_nothing_cut_is_the_network_itself():
    network, variables, shape, _ = whole("post")
    assert cut(network, (), shape) is network and cut_variables(network, variables, (), shape) is variables


class Residual(Unit):
    """A unit of one's own, whose sum is normalized."""

    def setup(self):
        self.conv, self.norm = Conv(4), BatchNorm()

    def split(self, x, train):
        return x, jnp.tanh(self.conv(x))

    def merge(self, z, train):
        return self.norm(z, train)


class Frugal(Residual):
    """Its shortcut is computed without the branch."""

    def skip(self, x, train=False):
        return self.merge(x, train)


class Mean(nn.Module):
    @nn.compact
    def __call__(self, h, train):
        return Dense(3)(jnp.mean(h, (1, 2)))


def own_network(unit):
    return Network(Stem(4), (Stack("blocks", unit, 4, 1),), Mean())


@pytest.mark.parametrize("gone", [(0, 1), (1, 3), (2, 3)])
def test_units_of_ones_own(gone):
    network = own_network(Frugal())
    variables, x = draw(network, IMAGE), images(IMAGE)
    names = [network.units[i].name for i in gone]
    smaller, own = cut(network, names, IMAGE), cut_variables(network, variables, names, IMAGE)
    close(logits_of(smaller, own, x), logits_of(network, variables, x, gates=without(network, names)))
    kept = [type(stack.unit) for stack in smaller.stacks]
    assert (UnitAfter in kept, type(smaller.head) is HeadAfter) == (gone != (2, 3), 3 in gone)


def test_a_unit_whose_rest_can_not_be_told_from_its_branch_is_refused():
    with pytest.raises(
        ValueError, match=r"^stage1/unit1 can't be cut: skip of Residual reads all variables of .*over"
    ):
        cut(own_network(Residual()), ["stage1/unit1"], IMAGE)


class LeanLayers(Layers):
    def skip(self, x, train=False):
        return self.merge(x, train)


class LeanWidening(Widening):
    def skip(self, x, train=False):
        return self.projection(x)


GROUPED = {"blocks": lambda: blocks(3), "mixed": mixed, "masked": lambda: masked(blocks(3))}


@pytest.mark.parametrize("make", slow_but(GROUPED, "masked"))
def test_groups_and_context(make):
    """Rows of a group go; masks and tied weights stay with those that read them."""
    network, lean = GROUPED[make](), {Layers: LeanLayers, Widening: LeanWidening}
    stacks = [dataclasses.replace(s, unit=lean.get(type(s.unit), type(s.unit))()) for s in network.stacks]
    network = dataclasses.replace(network, stacks=tuple(stacks))
    variables = draw(network, SHAPE)
    for gone in ((1, 5),) if make == "masked" else ((1, 4), (0, 3, 5)):
        names = [network.units[i].name for i in gone]
        smaller = cut(network, names, SHAPE)
        own = cut_variables(network, variables, names, SHAPE)
        expected = logits_of(network, variables, IMAGES, gates=without(network, names))
        close(logits_of(smaller, own, IMAGES), expected)


def test_what_is_left_of_a_unit_is_not_joined_to_a_part_that_reads_context():
    network = masked(blocks(2))
    stacks = [
        dataclasses.replace(s, unit=LeanLayers()) if isinstance(s.unit, Layers) else s for s in network.stacks
    ]
    network = dataclasses.replace(network, stacks=tuple(stacks))
    said = rf"{network.units[2].name} can't be cut: its shortcut.*parts of Masked read more than"
    with pytest.raises(ValueError, match=said):
        cut(network, [network.units[2].name], SHAPE)


@pytest.mark.slow
def test_training_updates_the_statistics_of_what_stays():
    """Also those within what is left of a cut unit, as where the whole network runs with its gates."""
    network, variables, shape, _ = whole("bn_after_add")
    names = ["stage1/unit2", "stage2/unit1", "stage3/unit2"]
    smaller, own = cut(network, names, shape), cut_variables(network, variables, names, shape)
    x = images(shape, 4)

    @functools.partial(jax.jit, static_argnums=0)
    def statistics(network, variables, gates=None):
        return network.apply(variables, x, train=True, gates=gates).batch_stats

    moved = statistics(network, variables, without(network, names))
    expected = cut_variables(network, {**variables, "batch_stats": moved}, names, shape)["batch_stats"]
    found = statistics(smaller, own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    jax.tree.map(lambda a, b: np.testing.assert_raises(AssertionError, np.testing.assert_allclose, a, b),
                 found, own["batch_stats"])  # fmt: skip


@pytest.mark.slow
def test_it_is_initialized_and_has_gradients_everywhere():
    _, _, shape, _ = whole("projection")
    smaller, _ = built("projection", ("stage1/unit2", "stage2/unit1", "stage3/unit2"))
    variables, x = initial(smaller, shape), images(shape)

    @jax.jit
    def gradient(variables):
        def loss(params):
            return jnp.square(smaller.apply({**variables, "params": params}, x, train=True).logits).sum()

        return jax.grad(loss)(variables["params"])

    found = gradient(draw(smaller, shape))
    assert jax.tree.structure(found) == jax.tree.structure(variables["params"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_the_dropout_of_what_stays_is_unchanged():
    network, _, _, _ = whole("stochastic depth")
    smaller, _ = built("stochastic depth", ("stage1/unit1", "stage3/unit1"))
    stay = [0, 6]
    expected = np.delete(network.unit_dropout.probabilities(), stay)
    np.testing.assert_array_equal(smaller.unit_dropout.probabilities(), expected)


@pytest.mark.parametrize("transition", ["pad_subsample", "projection"])
def test_the_strides_of_what_is_left_are_seen(transition):
    """Behind a transition without branch, neighbours lie two pixels apart: 3×3 convolutions see 4 more."""
    fields = {"stage_sizes": (1, 2), "widths": (2, 4), "placement": "post", "transition": transition}
    config = models.defaults("resnet", cut=("stage2/unit1",), **fields)
    network = models.build(config, image_shape=IMAGE, num_classes=5)
    rows = {row.name: row for row in layer_table(network, IMAGE)}
    fields = {name: row.receptive_field[0] for name, row in rows.items() if row.kind == "conv"}
    branch = [fields[f"stage1/unit1/conv{j}"] for j in (1, 2)] + [
        fields[f"stage2/unit1/unit/conv{j}"] for j in (1, 2)
    ]
    assert fields["stem/conv"] == 3 and branch == [5, 7, 11, 15]
    assert total_strides(network, IMAGE) == ((1, 1), (1, 1), (2, 2))
    own = draw(network, IMAGE)
    assert totals(list(rows.values())).parameters == count(own)
    left = {"projection": {"stage2/unit1/before_0/unit/shortcut/conv"}, "pad_subsample": set()}[transition]
    seen = {name for name in layers_of(network, own, IMAGE) if "before_0" in name}
    assert seen == left


REFUSALS = {
    (
        "stage9/unit1",
    ): r"model\.cut=.*there is no unit 'stage9/unit1'\. Did you mean stage.*Allowed: stage1/unit1, ",
    (
        "stage2/unit1",
    ): r"stage2/unit1 can't be cut: it has no shortcut.*allowed: stage1/unit1, stage1/unit2, stage1/",
}


@pytest.mark.parametrize("names", REFUSALS)
def test_what_can_not_be_cut_is_refused_by_name(names):
    with pytest.raises(ValueError, match=REFUSALS[names]):
        built("plain", names)


def test_one_unit_must_stay():
    names = tuple(unit.name for unit in whole("post")[0].units)
    with pytest.raises(ValueError, match=r"all 8 units would be cut; leave at least one"):
        built("post", names)
