"""Scaled, frozen, reset and redrawn units, and stacks whose units run side by side."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, equal, logits_of, programs

from resjax import models
from resjax.models.layers import Dense
from resjax.models.plain import DenseUnit
from resjax.network import Network, Stack
from resjax.studies import variants
from resjax.studies.lesions import forwards
from resjax.studies.lesions.forwards import in_parallel, mean_branches, with_means, with_variables
from resjax.studies.lesions.interventions import MEANS, Interventions, interventions
from resjax.studies.lesions.lesion import lesion
from resjax.studies.variants import with_gates

SHAPE, CLASSES = (6, 6, 2), 3
FORMS = {
    # A lone first unit, a stack of two, a lone transition.
    "pre": {"stage_sizes": (3, 1)},
    "post": {"stage_sizes": (3, 1), "placement": "post", "transition": "projection"},
    "merged": {"stage_sizes": (3, 1), "placement": "bn_after_add"},
    "plain": {"stage_sizes": (3, 1), "shortcut": "none"},
    "dropped": {"stage_sizes": (3, 1), "unit_dropout": "linear"},
}


def build(form, **more):
    fields = {"widths": (4, 8), **FORMS[form], **more}
    return models.build(models.defaults("resnet", **fields), image_shape=SHAPE, num_classes=CLASSES)


@functools.cache
def made(form):
    network = build(form)
    return network, draw(network, SHAPE)


def examples(n=10, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def error_of(logits, labels):
    return np.mean(np.asarray(logits).argmax(-1) != labels)


def other(variables):
    """Other variables of the same shapes."""
    return jax.tree.map(lambda v: np.flip(v) * np.float32(1.25), variables)


def run(network, variables, x, forward, variant, extra=None):
    return jax.jit(forward, static_argnums=0)(network, variables, x, variant, extra)


def logits(network, variables, x):
    return jax.jit(lambda v, x: network.apply(v, x).logits)(variables, x)


# --- what changes nothing ---


@pytest.mark.parametrize("form", slow_but(["pre", "post", "plain"], "pre", "plain"))
def test_what_changes_nothing_changes_no_bit(form):
    network, v = made(form)
    x, _ = examples()
    n, intact = network.num_units, logits(network, v, x)
    every = np.ones(n, bool)
    assert equal(intact, run(network, v, x, with_gates, np.ones(n, np.float32)))
    assert equal(intact, run(network, v, x, with_variables, every, v))
    assert equal(intact, run(network, v, x, with_variables, ~every, other(v)))
    assert equal(intact, run(network, v, x, with_variables, every, {"params": v["params"]}))


def test_a_stack_of_one_runs_in_parallel_with_nobody():
    network = build("pre", stage_sizes=(2, 1))
    assert [stack.n for stack in network.stacks] == [1, 1, 1]
    v, (x, _) = draw(network, SHAPE), examples()
    alone = run(network, v, x, in_parallel, np.ones(3, bool))
    assert equal(logits(network, v, x), alone)


# --- against loops in float64 ---


def loop(network, variables, x, branch=None, together=()):
    """The network unit by unit: ``branch(i, f)`` may replace f; stacks in ``together`` sum on one input."""
    gates = network.unit_dropout.at_test() if network.unit_dropout else np.ones(network.num_units)
    h, _ = network.run_stem(variables, x)
    i = 0
    for stack in network.stacks:
        start, total = h, h
        for j in range(stack.n):
            part = {c: jax.tree.map(lambda a, j=j: a[j], t[stack.name]) for c, t in variables.items()}
            unit = stack.unit.bind(part)
            s, f = unit.split(start if stack.name in together else h, False)
            f = gates[i] * (f if branch is None else branch(i, f))
            if stack.name in together:
                total = total + (s - start) + f
                h = unit.merge(total, False)
            else:
                h = unit.merge(s + f if unit.residual else f, False)
            i += 1
    return network.run_head(variables, h)[0]


@functools.cache
def made_wide(form):
    network = build(form, dtype="float64")
    v = jax.tree.map(lambda a: a.astype(jnp.float64), draw(build(form), SHAPE))
    return network, v, examples()[0].astype(np.float64)


@pytest.mark.parametrize("form", slow_but(["pre", "post", "plain", "dropped"], "post", "dropped"))
def test_frozen_units_equal_a_loop(form, x64):
    network, v, x = made_wide(form)
    reference = examples(7, seed=2)[0].astype(np.float64)
    seen = {}
    loop(network, v, reference, lambda i, f: seen.setdefault(i, f))
    means = mean_branches(network, v, reference, batch_size=3)
    flat = [m for stack in network.stacks for m in means[stack.name]]
    for i, mean in enumerate(flat):
        assert mean.dtype == np.float64
        np.testing.assert_allclose(mean, np.mean(seen[i], 0), rtol=1e-10, atol=1e-12)
    for chosen in ([1], [0, 2], [3]):
        frozen = np.isin(np.arange(4), chosen)

        def branch(i, f, frozen=frozen):
            return jnp.broadcast_to(flat[i], f.shape) if frozen[i] else f

        expected = loop(network, v, x, branch)
        actual = run(network, v, x, with_means, frozen, means)
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", slow_but(["pre", "post", "merged", "dropped"], "pre", "merged"))
def test_parallel_units_equal_a_loop(form, x64):
    network, v, x = made_wide(form)
    for names in (["stage1"], []):
        together = np.array([stack.name in names for stack in network.stacks])
        assert together.any() == bool(names)
        actual = run(network, v, x, in_parallel, together)
        np.testing.assert_allclose(actual, loop(network, v, x, together=names), rtol=1e-9, atol=1e-10)
    intact = logits_of(network, v, x)
    np.testing.assert_allclose(actual, intact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", ["pre", "plain"])
def test_other_variables_equal_a_network_built_by_hand(form):
    network, v = made(form)
    x, _ = examples()
    new = other(v)

    def exchanged(j):
        return lambda a, b: np.concatenate([a[:j], b[j : j + 1], a[j + 1 :]])

    for unit in network.units:
        name, exchange = unit.stack.name, exchanged(unit.position)
        by_hand = {c: {**t, name: jax.tree.map(exchange, t[name], new[c][name])} for c, t in v.items()}
        one = np.arange(network.num_units) == unit.index
        changed = run(network, v, x, with_variables, one, new)
        assert equal(logits(network, by_hand, x), changed)
        assert not equal(logits(network, v, x), changed)


# --- the analysis ---


@functools.cache
def result_of(form, **fields):
    network, v = made(form)
    x, y = examples(11)
    reference = examples(6, seed=2)[0]
    given = {"initial": other(v), "reference": reference, "alphas": (0.0, 2.0), "draws": 2}
    return interventions(network, v, x, y, batch_size=4, **{**given, **fields})


@pytest.mark.parametrize("form", slow_but(["pre", "plain"], "pre"))
def test_rows_are_those_interventions(form):
    network, v = made(form)
    x, y = examples(11)
    r = result_of(form)
    assert r.intervention == ("scale 0", "scale 2", "freeze", "reset", "redraw 1", "redraw 2")
    assert r.error.shape == r.kl.shape == (6, network.num_units)
    deleted = lesion(network, v, x, y)
    np.testing.assert_array_equal(r.deleted, deleted.error)
    np.testing.assert_allclose(r.of("scale", "kl")[0], deleted.kl, rtol=1e-4, atol=1e-6)
    assert set(r.left_out) == set(deleted.left_out)
    assert np.isfinite(r.error[2:]).all()
    means = mean_branches(network, v, examples(6, seed=2)[0])
    kept = {"params": other(v)["params"]}
    for i in range(network.num_units):
        one = np.arange(network.num_units) == i
        frozen = run(network, v, x, with_means, one, means)
        assert r.of("freeze")[0, i] == error_of(frozen, y)
        reset = run(network, v, x, with_variables, one, kept)
        assert r.of("reset")[0, i] == error_of(reset, y)
    assert r.stack == (("stage1",) if form == "pre" else ())
    if r.stack:
        assert (r.first[0], r.size[0]) == (1, 2)
        side = run(network, v, x, in_parallel, np.array([s.name == "stage1" for s in network.stacks]))
        assert r.parallel_error[0] == error_of(side, y)
    mean, low, high = r.redrawn("kl")
    assert np.all((low <= mean + 1e-12) & (mean <= high + 1e-12))


def test_running_statistics_of_step_0_are_a_choice():
    network, v = made("pre")
    one = np.arange(network.num_units) == 1
    x, y = examples(11)
    r = interventions(network, v, x, y, initial=other(v), alphas=(), draws=0, reset_statistics=True)
    reset = run(network, v, x, with_variables, one, other(v))
    assert r.of("reset")[0, 1] == error_of(reset, y)
    assert "running statistics of step 0" in r.choices["BatchNorm of reset and redrawn units"]
    assert not np.array_equal(r.kl, result_of("pre").of("reset", "kl"))


@pytest.mark.slow
def test_each_kind_is_compiled_once():
    network = build("post", widths=(3,), stage_sizes=(2,))
    v = jax.tree.map(jnp.asarray, draw(network, SHAPE))  # numpy's count as another kind of argument
    before = programs(variants._score)
    interventions(network, v, *examples(4), initial=v, reference=examples(4)[0], alphas=(0, 2), draws=2)
    assert programs(variants._score) == before + 2  # frozen, and in parallel


def test_draws_are_those_of_the_seed_and_never_step_0():
    network, v = made("pre")
    # Training with seed 0 starts from the first half of that split key.
    start = jax.jit(network.init, static_argnums=1)(jax.random.split(jax.random.key(0))[0], SHAPE)
    r = interventions(network, v, *examples(11), initial=start, alphas=(), draws=2, batch_size=4)
    drawn = r.of("redraw", "kl")
    assert not np.isclose(r.of("reset", "kl"), drawn, rtol=1e-3).any()
    np.testing.assert_array_equal(drawn, result_of("pre").of("redraw", "kl"))
    assert not np.isclose(drawn[0], drawn[1], rtol=1e-3).any()
    assert not np.isclose(drawn, result_of("pre", seed=1).of("redraw", "kl"), rtol=1e-3).any()


def test_a_network_of_dense_units_allows_what_it_allows():
    class Flatten(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x.reshape(len(x), -1)

    class Logits(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return Dense(CLASSES)(x)

    network = Network(Flatten(), (Stack("one", DenseUnit(Dense(5)), 1, 1),), Logits())
    v = draw(network, SHAPE)
    r = interventions(network, v, *examples(5), initial=v)
    assert r.intervention[0] == "reset" and len(r.alpha) == 0 and r.stack == ()
    np.testing.assert_allclose(r.of("reset", "kl"), 0, atol=1e-6)
    with pytest.raises(ValueError, match="nothing to do"):
        interventions(network, v, *examples(5), draws=0)


def test_wrong_input_is_refused():
    network, v = made("pre")
    with pytest.raises(ValueError, match="draws=1"):
        interventions(network, v, *examples(3), draws=1)
    with pytest.raises(ValueError, match=r"run\.initial_variables"):
        interventions(network, v, *examples(3), initial=made("post")[1])
    with pytest.raises(ValueError, match="no example"):
        interventions(network, v, *examples(3), reference=examples(0)[0])
    with pytest.raises(ValueError, match="kind='delete'"):
        result_of("pre").of("delete")


@pytest.mark.parametrize("form", slow_but(["pre", "plain"], "pre"))
def test_json_keeps_everything(form):
    result = result_of(form)
    back = Interventions.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


def test_the_rule_for_parallel_stacks():
    chain = build("plain").stacks
    assert not any(forwards.can_run_in_parallel(stack) for stack in chain)
    assert [forwards.can_run_in_parallel(stack) for stack in build("pre").stacks] == [
        False,
        True,
        False,
    ]


@pytest.mark.slow
def test_progress_covers_the_means_too():
    network, v = made("pre")
    images, labels = examples()
    seen = []
    interventions(
        *(network, v, images, labels),
        reference=images,
        alphas=(0.5,),
        draws=0,
        batch_size=4,
        progress=lambda done, of: seen.append(done / of),
    )
    assert seen[0] == 0 and seen[-1] == 1 and seen == sorted(seen)
    assert sum(0 <= share <= 1 / MEANS for share in seen) >= 4  # 3 batches
