"""What can't be taken apart is refused with what was found instead and what to do."""

import re

import jax
import numpy as np
import pytest
from discover_helpers import assert_close
from foreign import refused
from foreign.refused import X, blocks, weights

import resjax
from resjax import analysis
from resjax.discovery import NotFound

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
