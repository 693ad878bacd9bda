"""Deletions and orders with BatchNorm statistics of the lesioned network, as if done by hand for each."""

import functools

import jax
import numpy as np
import pytest
from network_helpers import draw, logits_of, programs

from resjax import models
from resjax.analysis import delete_subsets, deletions, pairs, reestimate, reorder
from resjax.network.losses import cross_entropy
from resjax.studies.lesions import recalibrated_walk as walk
from resjax.studies.lesions.prefixes import measure_places

SHAPE, CLASSES, BATCH = (6, 6, 1), 4, 4


@functools.cache
def network_of(**fields):
    """Unit 0 stands alone, 1 and 2 are a stack, 3 changes the shape."""
    config = models.defaults("resnet", stage_sizes=(3, 1), widths=(4, 6), **fields)
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n=11, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


REFERENCE = 1 + examples(8, seed=2)[0]


def by_hand(kind, gates):
    """Error and loss of one network whose statistics were estimated by ``reestimate``."""
    network, variables = network_of(**kind)
    new = reestimate(network, variables, REFERENCE, gates=gates, batch_size=BATCH)
    images, labels = examples()
    logits = logits_of(network, new, images, gates=gates)
    error = np.mean(np.asarray(logits).argmax(-1) != labels)
    return error, float(cross_entropy(logits, labels).mean())


@pytest.mark.parametrize(
    "kind", [{}, pytest.param({"unit_dropout": "linear", "unit_survival": 0.6}, marks=pytest.mark.slow)]
)
def test_every_set_equals_the_computation_by_hand(kind):
    network, variables = network_of(**kind)
    made = programs(walk._run_unit)
    seen = []
    result = deletions(
        *(network, variables, *examples()),
        ks=(0, 1, 2),
        draws=3,
        recalibrate_on=REFERENCE,
        batch_size=BATCH,
        progress=lambda *a: seen.append(a),
    )
    assert programs(walk._run_unit) <= made + len(network.stacks)
    assert seen == sorted(seen) and len({of / 2 for _, of in seen}) <= 2
    for row in range(len(result.deleted)):
        error, loss = by_hand(kind, 1 - result.deleted[row].astype(np.float32))
        assert result.error[row] == error
        np.testing.assert_allclose(result.loss[row], loss, rtol=1e-5)
    running = delete_subsets(network, variables, *examples(), result.deleted, batch_size=BATCH)
    assert np.abs(result.loss - running.loss).min() > 1e-3  # also where nothing is deleted
    assert result.intact_loss == pytest.approx(running.intact_loss, rel=1e-6)
    assert "re-estimated for each lesioned network, on 8 images" in result.choices["BatchNorm"]
    assert "equal beginnings run once" in result.choices["forward passes"]
    assert set(result.choices) - {"draws", "seed", "units that change the shape"} == set(running.choices)


def test_every_order_equals_a_network_of_permuted_variables():
    network, variables = network_of()
    result = reorder(
        *(network, variables, *examples()),
        swaps=(1,),
        draws=2,
        recalibrate_on=REFERENCE,
        batch_size=BATCH,
    )
    row = int(np.flatnonzero(result.order[:, 1] == 2)[0])
    np.testing.assert_array_equal(result.order[row], [0, 2, 1, 3])
    # The units themselves change places, and are estimated as a network of their own.
    (stack,) = (s.name for s in network.stacks if s.n == 2)
    flip = {
        c: {k: jax.tree.map(lambda v: v[::-1], t) if k == stack else t for k, t in tree.items()}
        for c, tree in variables.items()
    }
    flipped = reestimate(network, flip, REFERENCE, batch_size=BATCH)
    logits = logits_of(network, flipped, examples()[0], gates=np.ones(4, np.float32))
    loss = cross_entropy(logits, examples()[1]).mean()
    np.testing.assert_allclose(result.loss[row], loss, rtol=1e-5)
    running = reorder(network, variables, *examples(), swaps=(1,), draws=2, batch_size=BATCH)
    assert np.abs(result.loss - running.loss).min() > 1e-3
    assert "re-estimated" in result.choices["BatchNorm"]
    assert running.choices["BatchNorm"].startswith("running statistics")


def test_none_is_the_paper_s_choice_to_the_bit():
    network, variables = network_of()
    result = deletions(network, variables, *examples(), draws=3, recalibrate_on=None, batch_size=BATCH)
    places = np.where(result.deleted, ~np.arange(4), np.arange(4))
    scores, _ = measure_places(network, variables, *examples(), places, batch_size=BATCH)
    order = reorder(network, variables, *examples(), swaps=(1,), draws=2, batch_size=BATCH)
    scored, _ = measure_places(network, variables, *examples(), order.order, batch_size=BATCH)
    for name in ("error", "loss", "kl", "agreement"):
        np.testing.assert_array_equal(getattr(result, name), getattr(scores, name))
        np.testing.assert_array_equal(getattr(order, name), getattr(scored, name))
    assert result.choices["BatchNorm"] == (
        "running statistics of training, not re-estimated after the deletion"
    )


@pytest.mark.parametrize("analysis", [deletions, pairs, reorder])
def test_what_can_t_be_estimated_is_refused(analysis):
    network, variables = network_of(norm=False)
    with pytest.raises(ValueError, match="no BatchNorm"):
        analysis(network, variables, *examples(), recalibrate_on=REFERENCE)
    network, variables = network_of()
    with pytest.raises(ValueError, match=r"recalibrate_on is float32 \[8, 5, 6, 1\]; allowed: .* \[11, 6"):
        analysis(network, variables, *examples(), recalibrate_on=REFERENCE[:, 1:])
    with pytest.raises(ValueError, match="no example"):
        analysis(network, variables, *examples(), recalibrate_on=REFERENCE[:0])
