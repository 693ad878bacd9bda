"""Variants of a network beside the intact one, and intervals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import draw, logits_of, programs
from scipy import stats

from resjax import models
from resjax.network.losses import cross_entropy
from resjax.studies import intervals, variants
from resjax.studies.lesions.lesion import lesion

SHAPE, CLASSES = (6, 6, 1), 3


@pytest.fixture(scope="module")
def setting():
    config = models.defaults("resnet", stage_sizes=(3, 1), widths=(4, 8))
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(11, *SHAPE)).astype(np.float32)
    return network, draw(network, SHAPE), images, rng.integers(0, CLASSES, 11)


def test_scores_are_those_of_a_loop(setting):
    network, v, images, labels = setting
    gates = np.array([[1, 1, 1, 1], [0, 1, 0.5, 1], [1, 0, 0, 0]], np.float32)
    scores, intact = variants.measure(network, v, images, labels, variants.with_gates, gates, batch_size=4)
    whole = logits_of(network, v, images)
    for j, g in enumerate(gates):
        logits = logits_of(network, v, images, gates=g)
        wrong = np.asarray(np.argmax(logits, -1) != labels)
        p, q = jax.nn.log_softmax(whole), jax.nn.log_softmax(logits)
        assert scores.error[j] == pytest.approx(wrong.mean())
        loss = cross_entropy(logits, labels).mean()
        assert scores.loss[j] == pytest.approx(float(loss), rel=1e-5)
        kl = jnp.sum(jnp.exp(p) * (p - q), -1).mean()
        assert scores.kl[j] == pytest.approx(float(kl), abs=1e-6)
        same = np.argmax(logits, -1) == np.argmax(whole, -1)
        assert scores.agreement[j] == pytest.approx(same.mean())
        for c in range(CLASSES):
            assert scores.class_error[j, c] == pytest.approx(wrong[labels == c].mean())
    assert scores.agreement[0] == 1 and abs(scores.kl[0]) < 1e-6
    assert intact.error[0] == scores.error[0] and intact.error.shape == (1,)


@pytest.mark.slow
def test_deleting_each_is_a_variant(setting):
    network, v, images, labels = setting
    one = lesion(network, v, images, labels, per_class=True)
    many, _ = variants.measure(
        network, v, images, labels, variants.with_gates, 1 - np.eye(4, dtype=np.float32)
    )
    for name in ("error", "loss", "kl", "agreement", "class_error"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=2e-5, atol=1e-6)
    assert lesion(network, v, images, labels).class_error is None


def test_orders_and_logits(setting):
    network, v, images, labels = setting
    orders = np.array([[0, 1, 2, 3], [0, 2, 1, 3]])
    logits = variants.logits_of(network, v, images, variants.with_order, orders, batch_size=4)
    assert logits.shape == (2, 11, CLASSES)
    for order, own in zip(orders, logits, strict=True):
        expected = logits_of(network, v, images, order=order)
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)
    scores, _ = variants.measure(network, v, images, labels, variants.with_order, orders)
    assert scores.error[1] == np.mean(logits[1].argmax(-1) != labels)


def test_progress_ends_at_the_end(setting):
    network, v, images, labels = setting
    seen = []
    variants.measure(
        network,
        v,
        images,
        labels,
        variants.with_gates,
        np.ones((2, 4)),
        batch_size=6,
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_compilation_for_any_number_of_variants(setting):
    network, v, images, labels = setting
    unique = dataclasses.replace(network, unroll=3)  # not compiled by another test
    before = programs(variants._score)
    for m in (1, 3):
        variants.measure(unique, v, images, labels, variants.with_gates, np.ones((m, 4)))
    assert programs(variants._score) == before + 1


@pytest.mark.parametrize("gates", [np.zeros((0, 4)), np.float32(1), {}, (np.ones(2), np.ones(3))])
def test_no_variants_are_refused(setting, gates):
    network, v, images, labels = setting
    with pytest.raises(ValueError, match="leading axis"):
        variants.measure(network, v, images, labels, variants.with_gates, gates)


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(0)
    low, high = intervals.bootstrap(rng.normal(size=(300, 40)), resamples=400)
    assert low.shape == (300,)
    # 40 draws: the bootstrap is a little too narrow, by no more than some percent.
    assert 0.89 < np.mean((low < 0) & (high > 0)) < 0.97
    width = np.mean(high - low)
    assert width == pytest.approx(2 * stats.norm.ppf(0.975) / np.sqrt(40), rel=0.05)
    same = intervals.bootstrap(np.ones((2, 5)), np.median)
    assert np.array_equal(same, np.ones((2, 2)))
    with pytest.raises(ValueError, match="1 draw has no interval"):
        intervals.bootstrap(np.ones((3, 1)))


@pytest.mark.parametrize("together", [1, 150, 2**20])
def test_medians_of_many_resamples_are_those_of_each(together, monkeypatch):
    monkeypatch.setattr(intervals, "TOGETHER", together)
    values = np.random.default_rng(0).normal(size=(2, 3, 8))
    calls, median = [], np.median
    monkeypatch.setattr(np, "median", lambda *a, **k: calls.append(1) or median(*a, **k))
    found = intervals.bootstrap(values, np.median, resamples=100)
    assert len(calls) == {1: 100, 150: 34, 2**20: 1}[together]
    each = intervals.bootstrap(values, lambda v, axis: median(v, axis=axis), resamples=100)
    np.testing.assert_array_equal(found, each)


def test_wilson():
    low, high = intervals.wilson(0.0, 100)
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(0.0370, abs=1e-4)
    # The published example of 81 in 263 (Newcombe 1998, Table I): 0.2553 to 0.3662.
    assert intervals.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
