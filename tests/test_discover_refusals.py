"""What can't be taken apart is refused with what was found instead and what to do."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import assert_close, jitted
from foreign import refused
from foreign.refused import X, blocks, weights

import resjax
from resjax import analysis
from resjax.discovery import NotFound
from resjax.network.refusal import Refusal

JOIN = weights("join", wide=2 * refused.WIDTH)
REVERSIBLE = {**blocks(), **weights("first", "second"), **JOIN}


def refusal(fn, variables, example=X, **options):
    with pytest.raises(NotFound) as raised:
        resjax.discover(fn, variables, example, **options)
    return str(raised.value)


@pytest.mark.parametrize(
    ("fn", "variables", "found", "remedy"),
    [
        (refused.two_outputs, blocks(), "2 arrays", "logits alone"),
        (refused.plain, blocks(), "no residual units", "without shortcuts"),
        (refused.dense_net, refused.dense_net_variables(), "3 concatenations", "Nothing can be deleted"),
        (refused.rev_net, REVERSIBLE, "RevNet", "one stream|one chain"),
        (
            refused.dense_sums,
            blocks(),
            "densely connected|dense connections",
            "resjax.network.Network|no branch",
        ),
        (refused.shared_convolutions, blocks(), "share layers", "no branch can be removed alone"),
        (refused.in_fori_loop, blocks(), "scan|fori_loop", "Python loop, or as lax.scan"),
        (refused.in_while_loop, blocks(), "1 while_loop or fori_loop", "Python loop, or as lax.scan"),
        (refused.in_cond, blocks(), "3 cond", "Python loop, or as lax.scan"),
        (refused.with_dropout, blocks(), "draws random numbers", "inference mode"),
        (refused.closing_over(blocks()), weights("head"), "6 arrays of 96 numbers", "as variables"),
        (refused.time_first, blocks(), "first axis is not the batch", "batch"),
        (refused.residual, {"name": "none", "depth": 3}, "no array", "parameters as a pytree"),
    ],
)
def test_message(fn, variables, found, remedy):
    text = refusal(fn, variables)
    assert re.search(found, text) and re.search(remedy, text), text


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({}, "must be a batch"),
        (np.float32(1), "must be a batch"),
        ({"x": X, "mask": X[:1]}, "leading axis"),
        ({"x": X, "scale": np.float32(2)}, "must be a batch"),
    ],
)
def test_an_example_is_a_batch(example, message):
    def fn(v, x):
        return refused.residual(v, x["x"])

    assert message in refusal(fn, blocks(), example)


def test_a_refusal_is_a_value_error():
    assert issubclass(NotFound, ValueError)
    assert analysis.discover is resjax.discover


def test_what_the_function_raises_is_raised():
    def fn(v, x):
        return refused.residual(v, x @ v["missing"])

    with pytest.raises(KeyError, match="missing"):
        resjax.discover(fn, blocks(), X)


# --- units that other connections bypass ---


@functools.cache
def u_net():
    variables = {**blocks(4), **JOIN}
    return variables, resjax.discover(refused.u_net, variables, X)


def test_units_of_a_u_net_have_gates():
    variables, found = u_net()
    assert [unit.name for unit in found.units] == [f"blocks/{i}" for i in range(4)]
    assert [unit.bypassed for unit in found.units] == [False, True, True, False]
    assert str(found).count("bypassed") >= 2
    gates = 1 - np.eye(4, dtype=np.float32)

    def of_network(variables, x):
        return jnp.stack([found.network.apply(variables, x, gates=g).logits for g in gates])

    def of_program(variables, x):
        return jnp.stack([found.apply(variables, x, g) for g in gates])

    def edited(variables, x):
        return jnp.stack([refused.u_net_without(i)(variables, x) for i in range(4)])

    expected = jitted(edited, variables, X)
    assert np.ptp(expected, 0).max() > 1e-3
    assert_close(jitted(of_program, variables, X), expected, 1e-5)
    assert_close(jitted(of_network, found.variables, X), expected, 1e-5)
    assert_close(found.network.apply(found.variables, X).logits, refused.u_net(variables, X), 1e-5)
    home = found.unstack(found.variables)
    jax.tree.map(np.testing.assert_array_equal, home, variables)


LABELS = np.array([0, 1])


@pytest.mark.parametrize(
    "study",
    [
        lambda n, v: analysis.path_spectrum(n, v, X, LABELS),
        lambda n, v: analysis.sample_paths(n, v, X, LABELS, draws=2),
        lambda n, v: analysis.jacobians(n, v, X, LABELS),
        lambda n, v: analysis.responses(n, v, X),
        lambda n, v: n.places(v),
        lambda n, v: n.run_stem(v, X),
        lambda n, v: n.apply(v, X, order=np.arange(4)),
        lambda n, v: n.apply(v, X, tap=lambda parts: parts.x),
    ],
)
def test_paths_orders_and_states_of_a_u_net_are_refused(study):
    found = u_net()[1]
    with pytest.raises(NotFound, match=r"2 of 4 units are bypassed.*blocks/1, blocks/2.*U-Net.*gates work"):
        study(found.network, found.variables)


def test_a_u_net_has_no_orders():
    found = u_net()[1]
    with pytest.raises(Refusal, match="change places"):
        analysis.reorder(found.network, found.variables, X, LABELS)


@pytest.mark.xfail(raises=NotFound, strict=True, reason="the study runs the stem, which a U-Net lacks")
def test_a_study_of_gates_works_on_a_u_net():
    found = u_net()[1]
    result = analysis.lesion(found.network, found.variables, X, LABELS)
    assert result.unit == tuple(unit.name for unit in found.units)
    assert np.ptp(result.loss) > 0


# --- what works although it looks as if it did not ---


def test_layers_in_a_scan_over_their_parameters_are_found():
    variables = blocks()
    stacked = {"blocks": jax.tree.map(lambda *rows: np.stack(rows), *variables["blocks"])}

    def fn(v, x):
        x, _ = jax.lax.scan(lambda x, p: (x + refused.branch(x, p), None), x, v["blocks"])
        return refused.head(x, v)

    found = resjax.discover(fn, {**variables, **stacked}, X)
    assert [unit.name for unit in found.units] == ["blocks/0", "blocks/1", "blocks/2"]
    expected = refused.residual(variables, X)
    assert_close(found.network.apply(found.variables, X).logits, expected, 1e-5)


def test_shared_weights_are_one_array(x64):
    """Each application is a unit of its own, and what is shared has one gradient."""
    variables, x = jax.tree.map(np.float64, ({"block": weights("first", "second"), **weights("head")}, X))
    found = resjax.discover(refused.shared_weights, variables, x)
    assert len(found.units) == 3 and len({unit.name for unit in found.units}) == 3
    assert all(any("shares" in note for note in unit.notes) for unit in found.units)
    sizes = sum(v.size for v in jax.tree.leaves(variables))
    assert found.num_parameters == sum(v.size for v in jax.tree.leaves(found.variables["params"])) == sizes
    edited = [refused.shared_weights_without(i)(variables, x) for i in range(3)]
    for i, expected in enumerate(edited):
        gates = np.ones(3)
        gates[i] = 0
        assert_close(found.network.apply(found.variables, x, gates=gates).logits, expected)

    def network(params):
        return found.network.apply({**found.variables, "params": params}, x).logits[:, 0].sum()

    def function(variables):
        return refused.shared_weights(variables, x)[:, 0].sum()

    gradient = found.unstack({**found.variables, "params": jax.grad(network)(found.variables["params"])})
    jax.tree.map(assert_close, gradient, jax.grad(function)(variables))
