"""Which units take part in a step, and that the others are not there at all."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import draw, equal

from resjax.models.layers import Conv
from resjax.models.resnet import resnet
from resjax.network import Network, Stack, Unit
from resjax.network.stochastic_depth import UnitDropout

SHAPE = (6, 6, 3)
N = 6  # a stack of five units, and one that changes the shape


def build(kind: str = "uniform", **fields) -> Network:
    given = {"stage_sizes": (5, 1), "widths": (4, 6), "block_layers": 1, "placement": "post"}
    return resnet(image_shape=SHAPE, num_classes=3, unit_dropout=kind, **given, **fields)


@pytest.fixture(scope="module")
def variables():
    return draw(build(), SHAPE)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (4, *SHAPE))


# --- the draws ---


def test_linear_decay():
    """Huang et al. 2016, Eq. 4: p_l = 1 − (l/L)(1 − p_L); with p_L = ½, E[active] = (3L − 1)/4."""
    p = np.asarray(UnitDropout("linear", 54, survival=0.5).probabilities(), np.float64)
    np.testing.assert_allclose(p, 1 - np.arange(1, 55) / 54 * 0.5, rtol=1e-6)
    assert p.sum() == pytest.approx((3 * 54 - 1) / 4, rel=1e-6)
    assert np.all(np.diff(p) < 0)


def test_uniform_and_subset_probabilities():
    np.testing.assert_allclose(UnitDropout("uniform", 5, survival=0.8).probabilities(), [0.8] * 5)
    subset = UnitDropout("subset", 54, active=23)
    np.testing.assert_allclose(subset.probabilities(), [23 / 54] * 54, rtol=1e-6)


@pytest.mark.parametrize(
    "dropout",
    [
        UnitDropout("linear", 10, survival=0.2),
        UnitDropout("uniform", 10, survival=0.7),
        UnitDropout("subset", 10, active=4),
    ],
    ids=lambda d: d.kind,
)
def test_draws_have_their_probabilities(dropout):
    draws = np.asarray(jax.jit(jax.vmap(dropout.draw))(jax.random.split(jax.random.key(0), 4096)))
    assert draws.dtype == np.float32 and set(np.unique(draws)) == {0.0, 1.0}
    # Standard error at most ½/√4096 = 0.008.
    np.testing.assert_allclose(draws.mean(0), dropout.probabilities(), atol=0.035)
    pairs = np.corrcoef(draws.T) - np.eye(10)
    if dropout.kind == "subset":
        assert np.all(draws.sum(1) == 4)
        np.testing.assert_allclose(pairs[~np.eye(10, dtype=bool)], -1 / 9, atol=0.07)
    else:
        np.testing.assert_allclose(pairs, 0, atol=0.07)


def test_a_draw_is_a_function_of_its_key():
    dropout = UnitDropout("uniform", 54)
    first, again, other = (dropout.draw(jax.random.key(k)) for k in (0, 0, 1))
    assert equal(first, again) and not equal(first, other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "half"}, "allowed: linear, uniform, subset"),
        ({"kind": "subset"}, "active=0; allowed: 1 … 8"),
        ({"kind": "subset", "active": 9}, "active=9; allowed: 1 … 8"),
        ({"kind": "linear", "survival": 0.0}, "survival=0.0; allowed: 0 < survival ≤ 1"),
        ({"kind": "uniform", "survival": 1.5}, "survival=1.5"),
    ],
)
def test_wrong_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UnitDropout(num_units=8, **fields)


# --- outside training ---


def test_at_test_branches_are_scaled_by_their_probability(variables, x):
    """Huang et al. 2016, Eq. 6; and gates of one's own multiply."""
    bare, scaled, unscaled = (
        build("none"),
        build("linear"),
        build("linear", unit_scale_at_test=False),
    )
    reference = jax.jit(lambda v, x, g: bare.apply(v, x, gates=g).logits)
    run = jax.jit(lambda v, x, g: scaled.apply(v, x, gates=g).logits)
    p = 1 - np.arange(1, N + 1, dtype=np.float32) / N * np.float32(0.5)
    ones, lesion = np.ones(N, np.float32), np.float32([1, 1, 0, 1, 1, 1])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    close(run(variables, x, ones), reference(variables, x, p))
    close(run(variables, x, lesion), reference(variables, x, p * lesion))
    assert np.abs(run(variables, x, ones) - reference(variables, x, ones)).max() > 1e-3
    assert equal(unscaled.unit_dropout.at_test(), ones)
    close(
        jax.jit(lambda v, x: unscaled.apply(v, x).logits)(variables, x),
        reference(variables, x, ones),
    )


# --- in training ---


@pytest.fixture(scope="module")
def step():
    """key → (which units ran, logits, statistics, gradients), compiled once."""
    network = build()

    def loss(params, stats, x, key):
        out = network.apply(
            {"params": params, "batch_stats": stats},
            x,
            train=True,
            key=key,
            tap=lambda parts: jnp.any(parts.branch != 0),
        )
        ran = jnp.concatenate([out.taps["stage1"], out.taps["stage2_opening"]])
        return jnp.mean(jnp.square(out.logits)), (ran, out.logits, out.batch_stats)

    def run(variables, x, key):
        gradient, (ran, logits, stats) = jax.grad(loss, has_aux=True)(
            variables["params"], variables["batch_stats"], x, key
        )
        return ran, logits, stats, gradient

    return jax.jit(run)


def test_a_dropped_unit_is_as_if_it_were_not_there(step, variables, x):
    bare = build("none")

    @jax.jit
    def with_gates(v, x, gates):
        out = bare.apply(v, x, gates=gates, train=True)
        return out.logits, out.batch_stats

    seen = set()
    for seed in range(4):
        ran, logits, stats, gradient = step(variables, x, jax.random.key(seed))
        seen.add(tuple(np.asarray(ran).tolist()))
        expected, all_stats = with_gates(variables, x, ran.astype(jnp.float32))
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        for i in range(5):  # the stack
            new, old, every, g = (
                jax.tree.map(lambda v, i=i: np.asarray(v[i]), tree["stage1"])
                for tree in (stats, variables["batch_stats"], all_stats, gradient)
            )
            if ran[i]:
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new, every)
                assert all(np.any(leaf) for leaf in jax.tree.leaves(g))
            else:
                assert equal(new, old)
                assert not any(np.any(leaf) for leaf in jax.tree.leaves(g))
    assert len(seen) > 1 and any(not all(s) for s in seen)


class Rectified(Unit):
    """y = max(x − ½ + f(x), 0): the maximum matters without the branch, too."""

    def setup(self):
        self.conv = Conv(3)

    def split(self, x, train):
        return x - 0.5, self.conv(x)

    def merge(self, z, train):
        return nn.relu(z)


class Whole(nn.Module):
    """The sum over pixels; as a stem the image itself."""

    head: bool

    def __call__(self, x, train):
        return x.sum((1, 2)) if self.head else x


def test_what_follows_the_sum_happens_to_a_dropped_unit_too(x):
    dropout = UnitDropout("subset", 3, active=1)
    bare = Network(Whole(False), (Stack("body", Rectified(), n=3, stage=1),), Whole(True))
    network = dataclasses.replace(bare, unit_dropout=dropout)
    variables = draw(bare, SHAPE)
    for seed in range(3):
        key = jax.random.key(seed)
        tap = lambda parts: (jnp.any(parts.branch != 0), parts.x.min(), parts.y.min())  # noqa: E731
        out = network.apply(variables, x, train=True, key=key, tap=tap)
        ran, lowest_x, lowest_y = out.taps["body"]
        assert ran.sum() == 1 and lowest_x[0] < 0 and np.all(lowest_y >= 0)
        expected = bare.apply(variables, x, train=True, gates=ran.astype(jnp.float32))
        np.testing.assert_allclose(out.logits, expected.logits, rtol=1e-5, atol=1e-5)
        assert np.any(out.logits > 0)


def test_steps_in_a_scan(step, variables, x):
    """A loop over steps, each with its own draw, gives what the steps alone give."""
    keys = jax.random.split(jax.random.key(7), 3)

    def body(stats, key):
        ran, logits, stats, gradient = step({**variables, "batch_stats": stats}, x, key)
        return stats, (ran, logits, gradient)

    stats, outs = jax.jit(lambda s: jax.lax.scan(body, s, keys))(variables["batch_stats"])
    expected_stats = variables["batch_stats"]
    for i, key in enumerate(keys):
        expected_stats, expected = body(expected_stats, key)
        got = jax.tree.map(lambda v, i=i: v[i], outs)
        assert equal(got[0], expected[0])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            got[1:],
            expected[1:],
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), stats, expected_stats)


def test_certain_survival_is_no_dropout(variables, x):
    bare, certain = build("none"), build("linear", unit_survival=1.0)
    key = jax.random.key(3)
    a = jax.jit(lambda v, x: bare.apply(v, x, train=True).logits)(variables, x)
    b = jax.jit(lambda v, x: certain.apply(v, x, train=True, key=key).logits)(variables, x)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_draws_belong_to_units_whatever_their_order(variables, x):
    """A unit that an order moves is dropped by its own draw, not by its place's."""
    network = build("subset", units_active=3)

    @jax.jit
    def ran(variables, order, key):
        tap = lambda parts: jnp.any(parts.branch != 0)  # noqa: E731
        taps = network.apply(variables, x, train=True, key=key, order=order, tap=tap).taps
        return jnp.concatenate([taps["stage1"], taps["stage2_opening"]])

    order = np.array([4, 2, 0, 1, 3, 5])
    for seed in range(3):
        key = jax.random.key(seed)
        built = np.asarray(ran(variables, np.arange(N), key))
        assert built.sum() == 3
        np.testing.assert_array_equal(np.asarray(ran(variables, order, key)), built[order])
