"""ReLU against tanh: steps counted by hand, rates chosen on held-out images, what differs."""

import json

import jax
import numpy as np
import pytest

from resjax.models.layers import Conv
from resjax.models.plain import ACTIVATIONS
from resjax.studies.convolution import activations as module
from resjax.studies.convolution.activations import (
    WINDOW,
    TrainingSpeed,
    activations,
    digits,
    four_layers,
    headline,
    ratio,
    smoothed,
    steps_until,
)


def test_steps_are_counted_to_the_middle_of_the_first_window_at_the_threshold():
    """Errors of 1, then of 0: eight zeros in a window of ten leave 0.2, seven leave 0.3."""
    errors = np.concatenate([np.ones(20), np.zeros(20)])
    assert smoothed(errors).shape == (40 - WINDOW + 1,)
    # The window of steps 18 … 27 is the first with eight zeros.
    assert steps_until(errors) == 18 + WINDOW // 2
    assert steps_until(np.full(30, 0.25)) == WINDOW // 2
    assert steps_until(np.full(30, 0.2501)) == np.inf
    # Later errors do not count, and a divergence reaches nothing.
    assert steps_until(np.concatenate([errors, np.ones(50)])) == 18 + WINDOW // 2
    assert steps_until(np.concatenate([np.ones(20), np.full(20, np.nan)])) == np.inf
    with pytest.raises(ValueError, match="9 steps; allowed: 10 or more"):
        smoothed(np.ones(9))


def speed(reached, total=400):
    reached = np.array(reached, float)
    return TrainingSpeed(
        rate=np.array([0.1]),
        held_out_loss=np.array([1.0]),
        chosen=0.1,
        reached=reached,
        step=np.array([5, 6]),
        error=np.ones((len(reached), 2)),
        total=total,
    )


def test_the_ratio_is_paired_by_seed():
    fast, slow = speed([10, 20, 40]), speed([60, 120, 240])
    assert ratio(slow, fast) == pytest.approx((6, 6, 6))
    value, low, high = ratio(speed([60, 100]), speed([10, 20]))
    assert value == pytest.approx(np.sqrt(6 * 5))
    # Two logarithms: mean ± 12.706 · |difference| / 2.
    half = 12.706 * abs(np.log(6) - np.log(5)) / 2
    assert (low, high) == pytest.approx((value * np.exp(-half), value * np.exp(half)), rel=1e-3)


def test_who_is_faster_reverses_when_the_forms_do():
    fast, slow = speed([10, 20, 40]), speed([60, 121, 240])
    assert headline({"ReLU": fast, "tanh": slow}).startswith("ReLU is faster: tanh needs 6.0")
    assert headline({"ReLU": slow, "tanh": fast}).startswith("tanh is faster: ReLU needs 6.0")
    assert headline({"ReLU": fast, "tanh": fast}).startswith("undecided")
    never = speed([np.inf, np.inf, np.inf])
    assert "at least, in each of 3 seeds" in headline({"ReLU": fast, "tanh": never})
    assert headline({"ReLU": never, "tanh": never}).startswith("undecided")


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_signals_keep_their_size_at_first_and_only_the_activation_differs(activation):
    """With ReLU, a layer of variance 2/fan-in keeps the mean square; with tanh, 1/fan-in nearly keeps it."""
    shape = (32, 32, 3)
    network = four_layers(image_shape=shape, num_classes=10, activation=activation, width=64)
    assert [stack.unit.activation for stack in network.stacks] == [activation] * 2
    assert network.stem.activation == activation
    variables = network.init(jax.random.key(0), shape)
    other = four_layers(image_shape=shape, num_classes=10, width=64).init(jax.random.key(0), shape)
    scale = 1 if activation == "relu" else np.sqrt(0.5)
    kernels = (v["params"]["stem"]["conv"]["kernel"] for v in (variables, other))
    np.testing.assert_allclose(next(kernels), scale * np.asarray(next(kernels)), rtol=1e-6)
    conv = network.stacks[1].unit.conv
    assert isinstance(conv, Conv)
    x = ACTIVATIONS[activation](jax.random.normal(jax.random.key(1), (4, 8, 8, 128)))
    own = conv.init(jax.random.key(2), x)
    out = conv.apply(own, x)[:, 1:-1, 1:-1]
    wanted = 2 * np.mean(np.square(x)) if activation == "relu" else np.mean(np.square(x))
    assert np.mean(np.square(out)) == pytest.approx(wanted, rel=0.1)


def small(steps=24):
    c = digits(steps)
    c.model.width = 4
    c.data.train_examples = 200
    return c


@pytest.mark.slow
def test_the_rate_is_chosen_by_the_held_out_loss_of_other_seeds(monkeypatch):
    """A rate of 1e-6 learns nothing in the short training, so the other one is chosen."""
    asked = []
    held_out_loss = module.held_out_loss

    def recorded(recipes, **how):
        asked.append([(c.seed, c.optimizer.learning_rate, c.model.activation) for c in recipes])
        return held_out_loss(recipes, **how)

    monkeypatch.setattr(module, "held_out_loss", recorded)
    seen = []
    results = activations(
        small(),
        rates=(1e-6, 0.05),
        seeds=2,
        choice_seeds=1,
        choice_steps=20,
        holdout=50,
        progress=lambda *parts: seen.append(parts),
    )
    assert asked == [[(2, 1e-6, a), (2, 0.05, a)] for a in ("relu", "tanh")]
    assert seen[0] == (0, 8)
    assert seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    for label, result in results.items():
        assert f"'activation': '{label.lower()}'" in result.choices["network"]
        assert result.chosen == 0.05
        assert result.held_out_loss[1] < result.held_out_loss[0]
        assert result.error.shape == (2, 24 - WINDOW + 1)
        assert result.total == 24
        # Before training, one digit in ten is right by chance.
        assert result.error[:, 0].mean() > 0.5
    back = TrainingSpeed.from_json(json.loads(json.dumps(results["ReLU"].to_json())))
    np.testing.assert_array_equal(back.reached, results["ReLU"].reached)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="seeds=1, choice_seeds=2; allowed: from 2"):
        activations(small(), seeds=1)
    with pytest.raises(ValueError, match="activation='sine'; allowed: relu"):
        four_layers(image_shape=(8, 8, 1), num_classes=2, activation="sine")
