"""Cheap scores of units: closed forms on units that turn and stretch a vector, and what is ranked."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resjax import analysis
from resjax.network import Network, Stack
from resjax.network.unit import Unit
from resjax.studies.cutting.similarity import block_distances
from resjax.studies.ranks import moving_blocks, spearman, spearman_of_rows
from resjax.studies.units.influence import SCORES, _ranked, longest_scored


class Turn(Unit):
    """y = x + f, where f stretches x by 1 + ``along`` and adds ``across`` of it at a right angle."""

    def setup(self):
        self.amount = self.param("amount", nn.initializers.zeros, (2,))

    def split(self, x, train):
        along, across = self.amount
        return x, along * x + across * jnp.stack([-x[..., 1], x[..., 0]], -1)


class Pixels(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x.reshape(len(x), 2)


class Head(nn.Module):
    @nn.compact
    def __call__(self, h, train):
        return h


AMOUNTS = np.array([(0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (-0.2, 0.1), (0.0, 0.3), (0.3, -0.4)], np.float32)
NETWORK = Network(Pixels(), (Stack("turns", Turn(), len(AMOUNTS), 1),), Head())
VARIABLES = {"params": {"turns": {"amount": AMOUNTS}, "stem": {}, "head": {}}, "batch_stats": {}}
IMAGES = np.random.default_rng(0).normal(size=(9, 1, 2, 1)).astype(np.float32)
LABELS = (IMAGES[:, 0, 1, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def result():
    return analysis.influence(NETWORK, VARIABLES, IMAGES, LABELS, batch_size=4, lengths=(1, 2))


def test_scores_in_closed_form(result):
    """Every example is turned by the same angle, so intervals have no width."""
    factor = 1 + AMOUNTS[:, 0] + 1j * AMOUNTS[:, 1]
    for i in range(len(AMOUNTS)):
        for j in range(i, len(AMOUNTS)):
            whole = np.prod(factor[i : j + 1])
            angle, added = np.angle(whole), whole - 1
            expected = [1 - np.cos(angle), abs(angle) / np.pi, abs(added), 1 - (added.real / abs(added)) ** 2]
            np.testing.assert_allclose(result.value[:, i, j], expected, rtol=2e-5, atol=2e-6)
            np.testing.assert_allclose(result.high[:, i, j] - result.low[:, i, j], 0, atol=1e-6)
    assert np.isnan(result.value[:, 3, 1]).all()
    np.testing.assert_allclose(result.of("distance", 2), np.diagonal(result.value[1], 1))


def test_distance_is_that_by_which_units_are_cut(result):
    whole = block_distances(NETWORK, VARIABLES, IMAGES, np.ones(len(AMOUNTS), bool), batch_size=5)
    np.testing.assert_allclose(result.value[1], whole, rtol=1e-5, atol=1e-7)


def test_damage_is_that_of_deletions_and_ranks_are_spearmans(result):
    alone = analysis.lesion(NETWORK, VARIABLES, IMAGES, LABELS)
    np.testing.assert_allclose(np.diagonal(result.loss), alone.loss, rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(result.error), alone.error)
    pair = np.zeros((1, len(AMOUNTS)), bool)
    pair[0, 2:4] = True
    both = analysis.delete_subsets(NETWORK, VARIABLES, IMAGES, LABELS, pair)
    assert result.loss[2, 3] == pytest.approx(both.loss[0], rel=1e-5)
    assert np.isnan(result.loss[0, 2])
    for k, name in enumerate(SCORES):
        expected = stats.spearmanr(result.of(name), alone.loss).statistic
        assert result.rho[0, 0, k] == pytest.approx(expected)
        assert result.rho_low[0, 0, k] <= result.rho[0, 0, k] <= result.rho_high[0, 0, k]


def test_a_branch_of_zeros_has_no_novelty():
    still = {**VARIABLES, "params": {**VARIABLES["params"], "turns": {"amount": 0 * AMOUNTS}}}
    r = analysis.influence(NETWORK, still, IMAGES, LABELS)
    np.testing.assert_array_equal(r.value[:3, 0, 0], 0)
    assert np.isnan(r.value[3, 0, 0]) and np.isnan(r.rho[0, 0]).all()


def test_positions_count_alike():
    """Influence is a mean over positions; distance weighs them by their size."""
    from resjax.studies.units.influence import _scores

    x = np.array([[[1.0, 0.0], [100.0, 0.0]]], np.float32)
    y = np.array([[[0.0, 1.0], [100.0, 0.0]]], np.float32)
    turned, distance, size, _ = np.asarray(_scores(y, x))[:, 0]
    assert turned == pytest.approx(0.5)
    assert size == pytest.approx(np.sqrt(2) / np.sqrt(10_001), rel=1e-5)
    assert distance == pytest.approx(np.arccos(10_000 / 10_001) / np.pi, rel=1e-3)


def test_ranks_of_rows_and_moving_blocks():
    x, y = np.random.default_rng(1).integers(0, 4, (2, 5, 9)).astype(float)
    np.testing.assert_allclose(spearman_of_rows(x, y), [spearman(a, b) for a, b in zip(x, y, strict=True)])
    assert np.isnan(spearman_of_rows(np.ones((1, 3)), np.arange(3.0)[None])).all()
    drawn = moving_blocks(10, 3, 200, 0)
    assert drawn.shape == (200, 10) and drawn.min() == 0 and drawn.max() == 9
    np.testing.assert_array_equal(np.diff(drawn[:, :9].reshape(200, 3, 3), axis=-1), 1)


def test_long_networks_score_short_runs_only():
    assert longest_scored(60) == 60 and longest_scored(600) == 3 and longest_scored(5_000) == 1


def test_bad_lengths_are_refused():
    with pytest.raises(ValueError, match=r"lengths=\(0, 1\); allowed: numbers of units from 1"):
        analysis.influence(NETWORK, VARIABLES, IMAGES, LABELS, lengths=(0, 1))
    with pytest.raises(ValueError, match=r"lengths=\(9,\); allowed here"):
        analysis.influence(NETWORK, VARIABLES, IMAGES, LABELS, lengths=(9,))


def test_neighbouring_runs_are_drawn_together():
    rng = np.random.default_rng(0)
    score, damage = np.arange(12.0), np.arange(12.0) + 4 * rng.normal(size=12)
    starts = np.random.default_rng(7).integers(0, 10, (1_000, 4))
    drawn = (starts[..., None] + np.arange(3)).reshape(1_000, 12)  # four blocks of three neighbours
    made = [stats.spearmanr(score[own], damage[own]).statistic for own in drawn]
    found = _ranked(score, damage, 3, 7)
    np.testing.assert_allclose(found[1:], np.percentile(made, [2.5, 97.5]), atol=1e-9)
    assert found != _ranked(score, damage, 1, 7)
