"""Greedy deletion: the order, and the examples that it is chosen on."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, subject_of

from resjax import models
from resjax.network import Network, Stack
from resjax.network.unit import Unit
from resjax.studies.lesions.pruning import STUDY, Pruning, pruning, random_curve
from resjax.studies.lesions.sets import delete_subsets
from resjax.studies.options import Options
from resjax.studies.variants import measure, with_gates

SHAPE, CLASSES, BATCH = (6, 6, 1), 4, 4


class Start(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return jnp.zeros((len(x), 1))


class Add(Unit):
    """Adds its number."""

    def setup(self):
        self.number = self.param("number", nn.initializers.ones, ())

    def split(self, x, train):
        return x, jnp.broadcast_to(self.number, x.shape)


class Evidence(nn.Module):
    """The sum is the logit of class 0, as far as ``most``."""

    most: float

    @nn.compact
    def __call__(self, h, train):
        logit = jnp.minimum(h, self.most)
        return jnp.concatenate([logit, jnp.zeros_like(logit)], axis=1)


def prune_sum(numbers, most=100.0, **options):
    """All examples are of class 0, so the loss falls with the sum."""
    network = Network(Start(), (Stack("stage1", Add(), len(numbers), 1),), Evidence(most))
    variables = {"params": {"stage1": {"number": jnp.array(numbers)}}}
    x, y = np.zeros((3, 1, 1, 1), np.float32), np.zeros(3, int)
    return pruning(network, variables, x, y, choose_on=(x, y), **options)


def test_the_least_harmful_goes_first():
    result = prune_sum([2.0, -1.0, 3.0, 0.5])
    np.testing.assert_array_equal(result.order, [1, 3, 0, 2])
    sums = np.array([4.5, 5.5, 5.0, 3.0, 0.0])
    np.testing.assert_allclose(result.loss, np.log1p(np.exp(-sums)), rtol=1e-4)
    np.testing.assert_allclose(result.choice_loss, result.loss, rtol=1e-6)


def test_who_goes_next_depends_on_who_is_gone():
    # Each alone can go without harm, because 3 is enough; of the twins, only one.
    result = prune_sum([3.0, 3.0, 0.5], most=3.0)
    np.testing.assert_array_equal(result.order, [0, 2, 1])
    assert result.loss[0] == result.loss[1] == result.loss[2] < result.loss[3]


def test_a_loss_that_is_not_finite_is_the_worst():
    result = prune_sum([np.inf, 1.0, 2.0], max_deleted=2)
    np.testing.assert_array_equal(result.order, [1, 2])


@functools.cache
def network_of(shortcut):
    config = models.defaults("resnet", stage_sizes=(4, 1), widths=(4, 6), shortcut=shortcut)
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n=11, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


@functools.cache
def pruned(shortcut):
    network, variables = network_of(shortcut)
    return pruning(network, variables, *examples(7), choose_on=examples(11, 2), draws=3, batch_size=BATCH)


@pytest.mark.parametrize("shortcut", slow_but(["identity", "none"], "identity"))
def test_equals_a_loop_over_whole_networks(shortcut):
    network, variables = network_of(shortcut)
    result = pruned(shortcut)
    gates = np.ones(5, np.float32)
    for k, unit in enumerate(result.order):
        left = [u for u in range(5) if gates[u] and result.unit[u] not in result.left_out]
        trials = np.where(np.eye(5, dtype=bool)[left], 0, gates)
        scores, _ = measure(network, variables, *examples(11, 2), with_gates, trials, batch_size=BATCH)
        assert left[int(np.argmin(scores.loss))] == unit
        np.testing.assert_allclose(result.choice_loss[k + 1], scores.loss.min(), rtol=1e-5)
        gates[unit] = 0
    assert set(result.left_out) == ({"stage2/unit1"} if shortcut == "none" else set())
    assert len(result.order) == 5 - len(result.left_out)


def test_the_curve_is_measured_on_the_other_examples():
    network, variables = network_of("identity")
    result = pruned("identity")
    out = np.zeros((6, 5), bool)
    for k, unit in enumerate(result.order):
        out[k + 1 :, unit] = True
    other = delete_subsets(network, variables, *examples(7), out, batch_size=BATCH)
    for name in ("error", "loss", "kl", "agreement"):
        np.testing.assert_array_equal(getattr(result, name), getattr(other, name))
    assert (result.kl[0], result.agreement[0]) == (0, 1)
    assert result.intact_error == result.error[0]
    assert (result.num_examples, result.num_choice_examples) == (7, 11)
    # Other examples to measure on: the same order.
    images, labels = examples(8, 5)
    again = pruning(network, variables, images, labels, choose_on=examples(11, 2), draws=1, batch_size=BATCH)
    np.testing.assert_array_equal(again.order, result.order)
    np.testing.assert_array_equal(again.choice_loss, result.choice_loss)


def test_fewer_rounds_are_the_first_rounds():
    network, variables = network_of("identity")
    seen = []
    result = pruning(
        network,
        variables,
        *examples(7),
        choose_on=examples(11, 2),
        max_deleted=2,
        draws=3,
        batch_size=BATCH,
        progress=lambda *a: seen.append(a),
    )
    np.testing.assert_array_equal(result.order, pruned("identity").order[:2])
    np.testing.assert_array_equal(result.error, pruned("identity").error[:3])
    assert result.choices["deletions tried"] == 5 + 4
    np.testing.assert_array_equal(random_curve(result).amount, [0, 1, 2])
    assert seen == sorted(seen)
    assert seen[-1] == (9 + 3 + 3 + 3,) * 2  # trials, curve, random sets of one and of two


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_deleted": 6}, "allowed: 1 … 5"),
        ({"max_deleted": 0}, "allowed: 1 … 5"),
        ({"draws": 0}, "1 draw or more"),
        ({"choose_on": examples(0)}, "no example"),
        ({"choose_on": (examples(4)[0], examples(5)[1])}, "labels of shape"),
    ],
)
def test_impossible_wishes_are_refused(change, message):
    options = {"choose_on": examples(4), **change}
    with pytest.raises(ValueError, match=message):
        pruning(*network_of("identity"), *examples(4), **options)


def test_json_keeps_everything():
    result = pruned("none")
    back = Pruning.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


def test_the_study_chooses_on_training_images():
    network, variables = network_of("identity")
    asked = []

    def give(split, most):
        asked.append(split)
        return examples(min(most, 9), 1 + (split == "train"))

    run = subject_of(network, variables, give, SHAPE)
    assert STUDY.unsuited(run) is None
    result = STUDY.run(run, Options(max_examples=8, batch_size=BATCH), None)
    assert sorted(asked) == ["test", "train"]
    alone = pruning(network, variables, *examples(8), choose_on=examples(8, 2), draws=1, batch_size=BATCH)
    np.testing.assert_array_equal(result.order, alone.order)
    assert result.choices["chosen on"] == "8 training examples, not augmented"
