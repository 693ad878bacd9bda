"""Networks that are cut again, with and without maps: what stood in front of a unit stays when it goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, equal, logits_of
from test_cut import CASES, IMAGE, close, count, images, whole, without
from test_cut_maps import C, Logits, Simple

from resjax import models
from resjax.models import cuts
from resjax.models.layer_table import layer_table, totals
from resjax.models.stem_head import Stem
from resjax.network import Network, Stack
from resjax.network.cut import HeadAfter, UnitAfter, cut, cut_variables
from resjax.network.maps import Map
from resjax.network.unit import Unit
from resjax.studies.convolution.moves import total_strides
from resjax.studies.cutting.maps import fit
from resjax.studies.units.responses import layers_of

# The second cut takes a neighbour of each gap, in front of it or behind it, and the last unit.
FIRST = ("stage1/unit2", "stage2/unit1", "stage3/unit1")
SECOND = ("stage1/unit2", "stage2/unit1", "stage3/unit1")
BOTH = ("stage1/unit2", "stage1/unit3", "stage2/unit1", "stage2/unit2", "stage3/unit1", "stage3/unit2")


def same_form(network, variables, shape):
    wanted = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    assert jax.tree.structure(wanted) == jax.tree.structure(variables)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), wanted, variables)
    )


def smaller_by_one(network, variables, shape, names, maps):
    """The cut network and its variables; maps are fitted."""
    smaller = cut(network, names, shape, maps)
    if maps:
        return smaller, fit(network, variables, names, images(shape, 4), *maps)
    return smaller, cut_variables(network, variables, names, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", slow_but(["post", "pre", "bn_after_add", "projection", "effective paths"], "projection")
)
def test_two_cuts_compute_what_one_does(case):
    network, variables, shape, _ = whole(case)
    once = smaller_by_one(network, variables, shape, FIRST, None)
    twice, own = smaller_by_one(*once, shape, SECOND, None)
    same_form(twice, own, shape)
    x = images(shape)
    close(logits_of(twice, own, x), logits_of(network, variables, x, gates=without(network, BOTH)))
    close(logits_of(twice, own, x), logits_of(*once, x, gates=without(once[0], SECOND)))
    direct = cut(network, BOTH, shape)
    assert count(own) == count(cut_variables(network, variables, BOTH, shape))
    assert total_strides(twice, shape) == total_strides(direct, shape)
    fields = [[r.receptive_field for r in layer_table(n, shape) if r.kind == "conv"] for n in (twice, direct)]
    assert fields[0] == fields[1]


LINEAR, AFFINE = ("linear", 2), ("affine", 1)
KINDS = {
    "none, linear": (None, LINEAR),
    "linear, none": (LINEAR, None),
    "affine, linear": (AFFINE, LINEAR),
    "linear, linear": (LINEAR, LINEAR),
}


@pytest.mark.slow
@pytest.mark.parametrize("kinds", slow_but(KINDS, "affine, linear"))
@pytest.mark.parametrize("case", slow_but(["post", "bn_after_add"], "post"))
def test_the_configuration_says_both_cuts(kinds, case):
    """New gaps have maps of the second cut, and the maps of the first cut stay, with their values."""
    network, variables, shape, _ = whole(case)
    name, _, fields = CASES[case]
    model = models.defaults(name, **fields)
    once = smaller_by_one(network, variables, shape, FIRST, KINDS[kinds][0])
    twice, own = smaller_by_one(*once, shape, SECOND, KINDS[kinds][1])
    for maps, names in zip(KINDS[kinds], (FIRST, SECOND), strict=True):
        cuts.add(model, names, maps)
    built = models.build(model, image_shape=shape, num_classes=5)
    same_form(built, own, shape)
    x = images(shape)
    found = logits_of(built, own, x)
    assert np.isfinite(found).all() and equal(found, logits_of(twice, own, x))
    if not KINDS[kinds][1]:
        close(found, logits_of(*once, x, gates=without(once[0], SECOND)))
    assert count(own) == totals(layer_table(built, shape)).parameters


class Frame(Unit):
    """A unit whose branch has no variables."""

    def split(self, x, train):
        return x, jnp.tanh(x)


@pytest.mark.parametrize("kind", slow_but(["affine", "linear"], "linear"))
def test_a_cut_is_relative_to_the_network_at_hand(kind):
    """Every branch is a map, so fitted maps are exact. The maps of the first cut have moved since, as by
    training; those of the second one give what the moved network computes."""
    network = Network(Stem(C), (Stack("units", Simple(kind), 7, 1),), Logits())
    variables, x, maps = draw(network, IMAGE), images(IMAGE, 8), (kind, 4)
    first = ["stage1/unit3", "stage1/unit7"]
    once = cut(network, first, IMAGE, maps)
    own = fit(network, variables, first, x, *maps)
    moved = jax.tree.map(lambda v: 1.1 * v + 0.02, own)
    expected = logits_of(once, moved, x)
    assert np.abs(expected - logits_of(network, variables, x)).max() > 0.1 * np.abs(expected).max()
    # Unit 2 is in front of the first map, unit 3 begins with it, unit 5 is in front of that of the head.
    second = ["stage1/unit2", "stage1/unit3", "stage1/unit5"]
    twice, found = cut(once, second, IMAGE, maps), fit(once, moved, second, x, *maps)
    apart = np.abs(logits_of(twice, found, x) - expected).max() / np.abs(expected).max()
    assert apart < 2e-5
    head, old = found["params"]["head"], moved["params"]["head"]
    assert equal(head["head"]["before_0"], old["before_0"]) and not equal(head["before_0"], old["before_0"])
    begins = [stack.unit for stack in twice.stacks if isinstance(stack.unit, UnitAfter)]
    assert [[type(one).__name__ for one in unit.before] for unit in begins] == [["Map", "Map"]]
    assert type(twice.head) is HeadAfter and type(twice.head.head) is HeadAfter


def test_a_branch_without_variables_behind_a_map_can_be_cut():
    network = Network(Stem(C), (Stack("frames", Frame(), 4, 1),), Logits())
    variables, x = draw(network, IMAGE), images(IMAGE)
    once = smaller_by_one(network, variables, IMAGE, ["stage1/unit2"], AFFINE)
    twice, own = smaller_by_one(*once, IMAGE, ["stage1/unit2"], None)
    close(logits_of(twice, own, x), logits_of(*once, x, gates=without(once[0], ["stage1/unit2"])))


def test_maps_in_the_place_of_a_unit_that_begins_with_one_are_rectified_alike():
    model = models.defaults("resnet", **CASES["post"][2], cut=("stage1/unit1",), map="affine")
    model.cut_again = ("affine stage1/unit1",)  # the unit that begins with the first map
    network = models.build(model, image_shape=IMAGE, num_classes=5)
    (unit,) = (stack.unit for stack in network.stacks if isinstance(stack.unit, UnitAfter))
    new = unit.before[-1]
    assert isinstance(new, Map) and new.rectified


@pytest.mark.slow
def test_a_shortcut_within_what_is_left_is_on_the_way():
    """A map in front of a unit that begins with a projection: the strides of the latter count for both."""
    network, variables, shape, _ = whole("projection")
    once = smaller_by_one(network, variables, shape, ["stage2/unit1"], None)
    twice, own = smaller_by_one(*once, shape, ["stage1/unit3"], AFFINE)
    assert total_strides(twice, shape) == total_strides(cut(once[0], ["stage1/unit3"], shape), shape)
    rows = {row.name: row for row in layer_table(twice, shape)}
    field = "stage2/unit1/unit/before_0/unit/shortcut/conv"
    assert rows["stage2/unit1/unit/unit/conv1"].receptive_field[0] == rows[field].receptive_field[0] + 4
    assert field in layers_of(twice, own, shape)


REFUSALS = {
    "spline stage1/unit1": r"^model\.cut_again='spline stage1/unit1'; allowed: 'none', 'affine' or 'linear:",
    "linear stage1/unit1": r"^model\.cut_again='linear stage1/unit1'; allowed: ",
    "linear:x stage1/unit1": r"^model\.cut_again='linear:x stage1/unit1'; allowed: ",
    "affine:3 stage1/unit1": r"^model\.cut_again='affine:3 stage1/unit1'; allowed: ",
    "none": r"^model\.cut_again='none'; allowed: .* and names of units",
    "": r"^model\.cut_again=''; allowed: ",
    "linear:0 stage1/unit1": r"^model\.cut_again='linear:0 stage1/unit1': map_rank=0; allowed: 1 or more",
    "none stage1/unit3": r"^model\.cut_again='none stage1/unit3': there is no unit 'stage1/unit3'.*Allowed",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_a_further_cut_that_is_none_is_refused(text):
    """Of three units in the first stage, two are left for it."""
    model = models.defaults("resnet", cut=("stage1/unit2",), cut_again=(text,), **CASES["post"][2])
    with pytest.raises(ValueError, match=REFUSALS[text]):
        models.build(model, image_shape=IMAGE, num_classes=5)


def test_nothing_is_added_where_the_first_cut_has_its_place():
    """The fields of a first cut are those that older configurations have."""
    model = models.defaults("resnet", map="linear", map_rank=3)
    cuts.add(model, ["stage1/unit2"], None)
    assert (model.cut, model.map, model.cut_again) == (("stage1/unit2",), "none", ())
    cuts.add(model, ["stage1/unit1"], ("linear", 5))
    cuts.add(model, ["stage2/unit1", "stage2/unit2"], None)
    assert model.cut == ("stage1/unit2",) and model.map == "none"
    assert model.cut_again == ("linear:5 stage1/unit1", "none stage2/unit1 stage2/unit2")
