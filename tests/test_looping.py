"""Layers run several times and side by side, beside loops written by hand."""

import functools

import jax
import numpy as np
import pytest
from network_helpers import draw
from pattern_helpers import IMAGES, LABELS, SHAPE, blocks, masked, mixed

from resjax import analysis
from resjax.network.losses import cross_entropy
from resjax.network.periods import layers_of


@functools.cache
def made():
    network = masked(blocks(2))
    return network, draw(network, SHAPE)


def loss_by_hand(run):
    """The mean loss where ``run(unit, h)`` goes through the units as it likes; ``unit(u, h)`` runs one."""
    network, variables = made()
    bound = network.bound(variables, IMAGES)
    h, _ = network.run_stem(bound, IMAGES)

    def unit(u, h):
        info = network.units[u]
        own = {
            c: jax.tree.map(lambda v: v[info.row], t[info.part]) for c, t in bound.items() if info.part in t
        }
        return info.stack.unit.apply(own, h, method="parts").y

    return float(cross_entropy(network.run_head(bound, run(unit, h))[0], LABELS).mean())


def through(unit, h, *units):
    for u in units:
        h = unit(u, h)
    return h


@pytest.mark.slow
def test_changes_are_those_by_hand():
    r = analysis.looping(*made(), IMAGES, LABELS, times=(3,), batch_size=4)
    names = [f"stage1/unit{i}" for i in (2, 3, 4, 5, 1)]
    assert r.run == (*names, "layer 1", "layer 2") and r.change == ("loop 3", "parallel")
    np.testing.assert_array_equal(r.first, [1, 2, 3, 4, 0, 1, 3])
    np.testing.assert_array_equal(r.layer, [False] * 4 + [True] * 3)
    assert r.intact_loss == pytest.approx(loss_by_hand(lambda u, h: through(u, h, *range(5))), rel=1e-5)
    loops = {1: (0, 1, 2, 2, 2, 3, 4), 5: (0, 1, 2, 1, 2, 1, 2, 3, 4)}
    for run, units in loops.items():
        expected = loss_by_hand(lambda u, h, units=units: through(u, h, *units))
        assert r.loss[0, run] == pytest.approx(expected, rel=1e-5)
    assert not np.isclose(r.loss[0, 1], r.intact_loss, rtol=1e-4)

    def side_by_side(unit, h):
        x = unit(0, h)
        return through(unit, x, 1, 2) + through(unit, x, 3, 4) - x

    assert r.loss[1, 5] == pytest.approx(loss_by_hand(side_by_side), rel=1e-5)
    # The first unit changes the shape; the last of its kind has no next one.
    np.testing.assert_array_equal(np.isnan(r.loss), [[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0, 1]])


def test_layers_are_the_periods():
    assert [own.tolist() for own in layers_of(blocks(3).stacks)] == [[0], [1, 2], [3, 4], [5, 6]]
    assert [own.tolist() for own in layers_of(mixed().stacks)] == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert [own.tolist() for own in layers_of(blocks(2, grouped=False).stacks)] == [[i] for i in range(5)]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"times=\(1,\); allowed: 2 or more"):
        analysis.looping(*made(), IMAGES, LABELS, times=(1,))
