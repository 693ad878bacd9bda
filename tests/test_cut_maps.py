"""Maps in the place of cut units: exact where they can be, else the least squares."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, equal, logits_of
from pattern_helpers import SHAPE, blocks, masked
from test_cut import CASES, IMAGE, close, count, images, whole

from resjax import models
from resjax.models.layer_table import layer_table, totals
from resjax.models.stem_head import Stem
from resjax.network import Network, Stack
from resjax.network.cut import cut, cut_variables
from resjax.network.maps import Map
from resjax.network.unit import Unit
from resjax.studies.cutting.maps import fit, least_squares, moments

C = 5


class Simple(Unit):
    """A branch that a map can compute: a·x + b for each channel, or a matrix of rank 2."""

    kind: str

    def setup(self):
        some = nn.initializers.normal(0.5)
        if self.kind == "affine":
            self.scale, self.bias = self.param("scale", some, (C,)), self.param("bias", some, (C,))
        else:
            self.a, self.b = self.param("a", some, (C, 2)), self.param("b", some, (2, C))

    def split(self, x, train):
        if self.kind == "affine":
            return x, x * self.scale.reshape(1, 1, 1, -1) + self.bias.reshape(1, 1, 1, -1)
        return x, x @ self.a @ self.b


class Logits(nn.Module):
    def __call__(self, h, train):
        return jnp.mean(h, (1, 2)) + h[:, 0, 0]


@pytest.mark.parametrize(
    ("kind", "rank", "exact"), [("affine", 1, True), ("linear", 4, True), ("linear", 1, False)]
)
def test_a_branch_that_is_a_map_is_found(kind, rank, exact):
    """A run of two, whose map is the product of theirs, and one in front of the head."""
    network = Network(Stem(C), (Stack("units", Simple(kind), 5, 1),), Logits())
    variables, x = draw(network, IMAGE), images(IMAGE, 8)
    names = [network.units[i].name for i in (1, 2, 4)]
    smaller = cut(network, names, IMAGE, (kind, rank))
    own = fit(network, variables, names, x, kind, rank, batch_size=3)
    found, expected = logits_of(smaller, own, x), logits_of(network, variables, x)
    apart = np.abs(found - expected).max() / np.abs(expected).max()
    assert (apart < 1e-5) == exact
    shapes = jax.eval_shape(lambda key: smaller.init(key, IMAGE), jax.random.key(0))
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), shapes, own)
    assert jax.tree.structure(shapes) == jax.tree.structure(own) and jax.tree.all(same)


def test_the_affine_map_of_one_unit():
    network = Network(Stem(C), (Stack("units", Simple("affine"), 3, 1),), Logits())
    variables = draw(network, IMAGE)
    own = fit(network, variables, ["stage1/unit2"], images(IMAGE, 4), "affine", 1)
    unit = jax.tree.map(lambda v: v[1], variables["params"]["units"])
    found = own["params"]["units_3"]["before_0"]
    np.testing.assert_allclose(found["scale"][0], 1 + unit["scale"], rtol=1e-4)
    np.testing.assert_allclose(found["bias"][0], unit["bias"], rtol=1e-4, atol=1e-5)


def states(n=400, c=6):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, c)) @ rng.normal(size=(c, c)) + 3
    return x, np.tanh(x @ rng.normal(size=(c, c)) / 3) + x + rng.normal(size=(n, c))


def mapped(kind, found, x, rank=9):
    return np.asarray(Map(kind, rank, False).apply({"params": found}, jnp.asarray(x, jnp.float32), False))


def with_ones(x):
    return np.concatenate([x, np.ones((len(x), 1))], 1)


def test_affine_maps_are_least_squares():
    x, y = states()
    found = least_squares("affine", 1, moments("affine", x, y))
    for c in range(x.shape[1]):
        expected = np.linalg.lstsq(with_ones(x[:, [c]]), y[:, c])[0]
        np.testing.assert_allclose([found["scale"][c], found["bias"][c]], expected, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 6, 9])
def test_linear_maps_are_reduced_rank_regressions(rank):
    """Least squares of full rank, whose fitted values are cut to the rank (Eckart & Young)."""
    x, y = states()
    found = mapped("linear", least_squares("linear", rank, moments("linear", x, y)), x, rank)
    full = with_ones(x) @ np.linalg.lstsq(with_ones(x), y - x)[0]
    mean = full.mean(0)
    left, singular, right = np.linalg.svd(full - mean, full_matrices=False)
    expected = x + mean + left[:, :rank] * singular[:rank] @ right[:rank]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["affine", "linear"])
def test_what_does_not_vary_is_left_out(kind):
    """A constant channel, and for a matrix also one that repeats another."""
    x, y = states()
    x[:, 1], x[:, 4] = 0, x[:, 3] if kind == "linear" else 7.0
    found = least_squares(kind, 6, moments(kind, x, y))
    assert all(np.abs(leaf).max() < 20 for leaf in jax.tree.leaves(found))
    full = with_ones(x) @ np.linalg.lstsq(with_ones(x), y - x)[0]
    if kind == "linear":
        np.testing.assert_allclose(mapped(kind, found, x), x + full, rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_array_equal(found["scale"][jnp.array([1, 4])], 1)
        close(mapped(kind, found, x).mean(0), y.mean(0))


GONE = ("stage1/unit2", "stage2/unit1", "stage2/unit2", "stage3/unit2")


@pytest.mark.parametrize("kind", slow_but(["affine", "linear"], "affine"))
@pytest.mark.parametrize(
    "case", slow_but(["post", "pre", "bn_after_add", "projection", "plain", "effective paths"], "post")
)
def test_new_maps_return_their_input(case, kind):
    """Behind what is left of the shortcuts. Fitted, the logits are finite, and others."""
    network, variables, shape, can_go = whole(case)
    names = [unit.name for unit in network.units if unit.name in GONE and can_go[unit.index]]
    smaller = cut(network, names, shape, (kind, 2))
    own = cut_variables(network, variables, names, shape, (kind, 2))
    x = images(shape)
    expected = logits_of(cut(network, names, shape), cut_variables(network, variables, names, shape), x)
    close(logits_of(smaller, own, x), expected)
    found = logits_of(smaller, fit(network, variables, names, x, kind, 2), x)
    assert np.isfinite(found).all() and np.abs(found - expected).max() > 1e-3


@pytest.mark.slow
def test_later_maps_are_fitted_on_what_the_first_ones_leave():
    network, variables, shape, _ = whole("pre")
    names, x = ["stage1/unit2", "stage2/unit2"], images(shape, 6)
    smaller = cut(network, names, shape, ("linear", 2))
    own = fit(network, variables, names, x, "linear", 2, batch_size=4)
    with jax.default_matmul_precision("highest"):
        intact = network.apply(variables, x, tap=lambda parts: parts.y).taps
        mended = smaller.apply(own, x, tap=lambda parts: parts.x).taps
    end, last = network.units[4], smaller.units[3]
    pair = mended[last.stack.name][0], intact[end.stack.name][end.position]
    expected = least_squares("linear", 2, moments("linear", *(np.float64(v.reshape(-1, 4)) for v in pair)))
    found = jax.tree.map(lambda v: v[0], own["params"][last.part]["before_0"])
    for name, one, other in (
        ("matrix", *(own["down"]["kernel"] @ own["up"]["kernel"] for own in (found, expected))),
        ("bias", *(own["up"]["bias"] for own in (found, expected))),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3, err_msg=name)


@pytest.mark.slow
def test_a_relu_follows_where_one_ends_the_units():
    x = -jnp.ones((2, 3))
    for rectified, expected in ((True, 0), (False, -1)):
        module = Map("affine", 1, rectified)
        y = module.apply(module.init(jax.random.key(0), x, False), x, False)
        np.testing.assert_array_equal(y, np.full((2, 3), expected))
    ends = {"post": True, "bn_after_add": True, "pre": False, "relu_before_add": False, "plain": True}
    for case, rectified in ends.items():
        config = models.defaults("resnet", cut=("stage1/unit2",), map="affine", **CASES[case][2])
        network = models.build(config, image_shape=IMAGE, num_classes=5)
        before = [stack.unit.before for stack in network.stacks if hasattr(stack.unit, "before")]
        assert [[m.rectified for m in some if isinstance(m, Map)] for some in before] == [[rectified]], case


@pytest.mark.parametrize(
    ("kind", "own", "products"), [("affine", 2 * 6, 0), ("linear", 2 * 2 * 6 + 6, 4 * 2 * 2 * 6)]
)
def test_what_a_map_costs(kind, own, products):
    """In the place of the last unit, of 6 channels at 2×2 positions; the rank is 2."""
    network, variables, shape, _ = whole("post")
    names = ["stage3/unit2"]
    plain, mapped = (
        totals(layer_table(cut(network, names, shape, maps), shape)) for maps in (None, (kind, 2))
    )
    assert mapped.parameters - plain.parameters == own
    assert mapped.multiply_adds - plain.multiply_adds == products
    assert mapped.receptive_field == plain.receptive_field
    assert count(cut_variables(network, variables, names, shape, (kind, 2))) == mapped.parameters


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["affine", "linear"])
def test_maps_are_trained(kind):
    network, variables, shape, _ = whole("post")
    x = images(shape, 6)
    smaller = cut(network, GONE, shape, (kind, 2))
    own = fit(network, variables, GONE, x, kind, 2)

    @jax.jit
    def gradient(params):
        def loss(params):
            return jnp.square(smaller.apply({**own, "params": params}, x, train=True).logits).sum()

        return jax.grad(loss)(params)

    found = gradient(own["params"])
    maps = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found) if "before_" in str(path)]
    assert maps and all(np.isfinite(leaf).all() and np.any(leaf) for leaf in maps)


REFUSALS = {
    "spline": ({"map": "spline"}, r"^model\.map='spline'; allowed: none, affine, linear"),
    "rank": ({"map": "linear", "map_rank": 0}, r"^model\.map_rank=0; allowed: 1 or more"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_other_maps_are_refused(case):
    fields, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        models.build(models.defaults("resnet", **fields), image_shape=IMAGE, num_classes=5)


def test_a_map_is_not_joined_to_a_part_that_reads_context():
    network = masked(blocks(2))
    with pytest.raises(
        ValueError, match=r"can't be cut: a map would join the next part, and parts of Masked"
    ):
        cut(network, [network.units[0].name], SHAPE, ("affine", 1))


def test_states_that_are_not_finite_are_refused():
    network, variables, shape, _ = whole("post")
    broken = jax.tree.map(lambda v: v * np.float32("nan"), variables)
    with pytest.raises(
        ValueError, match=r"no map can be fitted: the states in front of or behind stage1/unit2 are"
    ):
        fit(network, broken, ["stage1/unit2"], images(shape), "affine", 1)


def test_nothing_cut_has_no_map():
    network, variables, shape, _ = whole("post")
    assert cut(network, (), shape, ("linear", 2)) is network
    assert equal(fit(network, variables, (), images(shape), "linear", 2), variables)
