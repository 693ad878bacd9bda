"""The order in which units are cut, and how many of them."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw
from test_pruning import Add, Evidence, Start

from resjax import models
from resjax.network import Network, Stack
from resjax.network.unit import Unit
from resjax.studies.cutting.choose import BY, Chosen, how_many, order
from resjax.studies.cutting.similarity import block_distances, by_similarity
from resjax.studies.lesions.pruning import pruning
from resjax.studies.variants import measure, with_gates

SHAPE, CLASSES = (6, 6, 1), 4


def choose(numbers, by, most=100.0, **how):
    """The order of units that add these numbers to the logit of class 0, of which all examples are."""
    network = Network(Start(), (Stack("stage1", Add(), len(numbers), 1),), Evidence(most))
    variables = {"params": {"stage1": {"number": jnp.array(numbers)}}}
    x, y = np.zeros((3, 1, 1, 1), np.float32), np.zeros(3, int)
    return order(network, variables, by, choose_on=(x, y), **how)


def names(*numbers):
    return tuple(f"stage1/unit{i}" for i in numbers)


def test_greedy_looks_at_what_is_gone_and_single_does_not():
    # Each twin alone can go without harm, because 3 is enough; a third of them is needed.
    twins = [3.0, 3.0, 0.5]
    assert choose(twins, "greedy", 3.0).units == names(1, 3)
    assert choose(twins, "single", 3.0).units == names(1, 2)
    assert choose([2.0, -1.0, 3.0], "single").units == names(2, 1)


@pytest.mark.parametrize("by", ["greedy", "single"])
def test_a_loss_that_is_not_finite_is_the_worst(by):
    assert choose([1.0, np.nan, 2.0], by, count=1).units == names(2)
    assert choose([1.0, 2.0, np.nan, np.nan], by).units == names(1, 2, 3)


def test_last_and_random():
    numbers = [1.0] * 6
    assert choose(numbers, "last").units == names(6, 5, 4, 3, 2)
    drawn = [choose(numbers, "random", seed=seed).units for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    assert choose(numbers, "random", count=2).units == drawn[0][:2]


@pytest.mark.parametrize("by", BY)
def test_errors_and_losses_are_those_without_the_first_units(by):
    numbers = [2.0, -1.0, 3.0, -5.0]
    chosen = choose(numbers, by)
    left = dict(zip(names(1, 2, 3, 4), numbers, strict=True))
    sums = [sum(left.values()), *(sum(left.values()) for unit in chosen.units if left.pop(unit) is not None)]
    np.testing.assert_allclose(chosen.loss, np.log1p(np.exp(-np.array(sums))), rtol=1e-4)
    np.testing.assert_array_equal(chosen.error, [float(s < 0) for s in sums])
    assert (chosen.num_examples, chosen.pool, chosen.by) == (3, 3, by)


@functools.cache
def network_of(shortcut):
    config = models.defaults("resnet", stage_sizes=(3, 2), widths=(4, 6), shortcut=shortcut, placement="post")
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n=7):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def test_greedy_is_the_order_of_the_pruning_study():
    network, variables = network_of("identity")
    result = pruning(network, variables, *examples(5), choose_on=examples(), max_deleted=3, draws=1)
    chosen = order(network, variables, "greedy", choose_on=examples(), count=3)
    assert chosen.units == tuple(result.unit[u] for u in result.order)
    np.testing.assert_array_equal(chosen.loss, result.choice_loss)


def test_a_unit_that_can_not_be_deleted_is_in_no_order():
    network, variables = network_of("none")
    for by in ("last", "similarity"):
        chosen = order(network, variables, by, choose_on=examples())
        assert set(chosen.units) == {"stage1/unit1", "stage1/unit2", "stage1/unit3", "stage2/unit2"}
        assert set(chosen.left_out) == {"stage2/unit1"} and chosen.pool == 4


# --- similarity ---


class Turn(Unit):
    """Turns a vector in the plane by its angle: the branch is the difference."""

    def setup(self):
        self.angle = self.param("angle", lambda key: jnp.zeros(()))

    def split(self, x, train):
        c, s = jnp.cos(self.angle), jnp.sin(self.angle)
        return x, x @ jnp.array([[c, s], [-s, c]]) - x


def turns(*degrees):
    class Plane(Start):
        pass

    network = Network(_Ahead(), (Stack("stage1", Turn(), len(degrees), 1),), Evidence(9.0))
    return network, {"params": {"stage1": {"angle": jnp.deg2rad(jnp.array(degrees, jnp.float32))}}}


class _Ahead(Start):
    def __call__(self, x, train):
        return jnp.ones((len(x), 1)) * jnp.array([[3.0, 4.0]])


def test_the_distance_of_a_block_is_the_angle_by_which_it_turns_the_state():
    network, variables = turns(30.0, -30.0, 90.0, 0.001)
    found = block_distances(network, variables, examples()[0], np.ones(4, bool))
    expected = np.abs([[30, 0, 90, 90.001], [0, 30, 60, 60.001], [0, 0, 90, 90.001], [0, 0, 0, 0.001]]) / 180
    known = np.triu(np.ones((4, 4), bool))
    np.testing.assert_allclose(found[known], expected[known], atol=2e-7)  # the least angle, too
    assert np.isnan(found[~known]).all()


def test_neighbours_count_as_one_block():
    network, variables = turns(5.0, 50.0, -50.0, 8.0)
    chosen = order(network, variables, "similarity", choose_on=examples())
    # First those that turn by 5 and 8. Then units 3 and 4 as a block turn by 42, and units 1 and 2 by 55.
    assert chosen.units == ("stage1/unit1", "stage1/unit4", "stage1/unit3")
    again = by_similarity(np.array([[5, 55, 5, 13], [0, 50, 0, 8], [0, 0, 50, 42], [0, 0, 0, 60.0]]) / 180,
                          np.array([False, True, True, True]), 3)  # fmt: skip
    np.testing.assert_array_equal(again, [1, 2, 3])


@pytest.mark.parametrize("shortcut", slow_but(["identity", "none"], "identity"))
def test_a_block_is_compared_with_what_it_returns_without_its_branches(shortcut):
    """Written out with gates: the state in front of the classifier, with the block and without it."""
    network, variables = network_of(shortcut)
    allowed, x = network.deletable(variables, SHAPE), examples()[0]
    found = block_distances(network, variables, x, allowed, batch_size=4)
    n, last = network.num_units, network.stacks[-1]

    def behind_all(gates):
        taps = network.apply(variables, x, gates=gates, tap=lambda parts: parts.y).taps[last.name]
        return np.asarray(taps[-1], float).reshape(len(x), -1)

    for i in range(n):
        block = allowed[i:].all()
        assert np.isnan(found[i, n - 1]) == (not block)
        if block:
            a, b = behind_all(None), behind_all(np.float32(np.arange(n) < i))
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            np.testing.assert_allclose(found[i, n - 1], np.mean(np.arccos(cosine)) / np.pi, rtol=1e-4)


# --- how many ---

CHOSEN = Chosen("last", 4, ("d", "c", "b", "a"), np.array([0.1, 0.1, 0.105, 0.2, 0.1]), np.zeros(5), 200, {})


def costs(k):
    return [100, 90, 70, 70, 40][k]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ({"count": 3}, 3),
        ({"flops": 0.95}, 1),
        ({"flops": 0.9}, 1),
        ({"flops": 0.7}, 2),
        ({"flops": 0.4}, 4),
        ({"rise": 0}, 1),
        ({"rise": 0.5}, 2),
        ({"rise": 9.9}, 2),  # the last does not count, because the one before it is worse
        ({"rise": 10}, 4),
    ],
)
def test_how_many(criterion, expected):
    assert how_many(CHOSEN, costs, **criterion) == expected


@pytest.mark.parametrize(
    ("criterion", "text"),
    [
        ({}, "give exactly one of count, flops and rise"),
        ({"count": 1, "rise": 1}, "give exactly one of count, flops and rise"),
        ({"count": 5}, "count=5; allowed: 1 … 4"),
        ({"flops": 1.0}, "flops=1.0; allowed: 0 < flops < 1"),
        ({"flops": 0.3}, r"without all 4 units that can be cut, 0\.400 of the multiply-adds are left"),
        ({"rise": -1}, "rise=-1; allowed: 0 ≤ rise < 100"),
    ],
)
def test_what_can_not_be_met_is_refused(criterion, text):
    with pytest.raises(ValueError, match=text):
        how_many(CHOSEN, costs, **criterion)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no multiply-adds are seen in this network; give count or rise"):
        how_many(CHOSEN, lambda k: 0, flops=0.5)


def test_a_unit_that_costs_too_much_is_named():
    harmful = dataclasses.replace(CHOSEN, error=np.array([0.1, 0.3, 0.1, 0.1, 0.1]))
    with pytest.raises(ValueError, match=r"rise=1: cutting one unit, d, raises the error .* by 20.00 points"):
        how_many(harmful, costs, rise=1)


def test_refusals_of_the_order():
    with pytest.raises(ValueError, match="by='best'; allowed: greedy, single, similarity, random, last"):
        choose([1.0, 2.0], "best")
    with pytest.raises(ValueError, match="count=2; allowed: 1 … 1, since 1 of 2 units can be cut"):
        choose([1.0, 2.0], "greedy", count=2)
    with pytest.raises(ValueError, match="the only unit of this network can't be cut"):
        choose([1.0], "last")


def test_deletions_are_measured_on_the_whole_network_too():
    """As by gates, for a rule that walks through prefixes."""
    network, variables = network_of("identity")
    chosen = order(network, variables, "single", choose_on=examples(), batch_size=3)
    gates = np.array([[u.name not in chosen.units[:k] for u in network.units] for k in range(5)], np.float32)
    scores, _ = measure(network, variables, *examples(), with_gates, gates)
    np.testing.assert_allclose(chosen.loss, scores.loss, rtol=1e-5)
