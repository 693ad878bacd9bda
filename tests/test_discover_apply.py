"""What was found computes what the function computes: intact, with units deleted, in other orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import (
    NAMES,
    assert_close,
    case,
    every_case,
    found_in,
    jitted,
    layers_swapped,
    layers_swapped_order,
    on_device,
)
from network_helpers import equal

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")


def bits(logits):
    return np.asarray(logits).view(np.uint32)


@every_case
def test_gates_of_one_give_the_function_bit_for_bit(name):
    """In float32, operation by operation."""
    own, found = case(name), found_in(name)
    variables, x = on_device(own.variables), on_device(own.example)
    jax.eval_shape(lambda x: found.apply(variables, x), x)  # it is traced with jit, and run without
    with jax.disable_jit():
        expected = own.fn(variables, x)
        assert expected.dtype == np.float32
        for gates in (None, np.ones(len(found.units), np.float32)):
            np.testing.assert_array_equal(bits(found.apply(variables, x, gates)), bits(expected))


@every_case
def test_each_unit_deleted_is_the_network_written_without_it(name):
    own, found = case(name, double=True), found_in(name, double=True)
    n = len(own.units)
    gates = np.concatenate([np.ones((1, n)), 1 - np.eye(n), [1 - np.eye(n)[0] - np.eye(n)[-1]]])

    def written(variables, x):
        choices = [(), *((i,) for i in range(n)), (0, n - 1)]
        return jnp.stack([own.run(variables, x, left_out) for left_out in choices])

    def program(variables, x):
        return jax.vmap(lambda g: found.apply(variables, x, g))(gates)

    def network(variables, x):
        return jax.vmap(lambda g: found.network.apply(variables, x, gates=g).logits)(gates)

    expected = jitted(written, own.variables, own.example)
    assert expected.dtype == np.float64
    others = np.abs(expected[1:] - expected[0]).max(axis=tuple(range(1, expected.ndim)))
    assert np.all(others > 1e-3)  # each unit does something
    assert_close(jitted(program, own.variables, own.example), expected)
    assert_close(jitted(network, found.variables, own.example), expected)


@every_case
def test_a_gate_scales_the_branch(name):
    """The logits at 0, 1 and between are continuous: at gates of α the derivative is the branch's effect."""
    own, found = case(name, double=True), found_in(name, double=True)
    gates = np.linspace(0.3, 1.7, len(own.units))

    def both(variables, stacked, x):
        return found.apply(variables, x, gates), found.network.apply(stacked, x, gates=gates).logits

    program, network = jitted(both, own.variables, found.variables, own.example)
    assert_close(network, program)
    assert np.abs(program - jitted(own.fn, own.variables, own.example)).max() > 1e-3


@every_case
def test_other_orders(name):
    own, found = case(name, double=True), found_in(name, double=True)
    expected = jitted(own.fn, layers_swapped(own.variables), own.example)
    assert np.abs(expected - jitted(own.fn, own.variables, own.example)).max() > 1e-3

    def network(variables, x, order):
        return found.network.apply(variables, x, order=order).logits

    assert_close(jitted(network, found.variables, own.example, layers_swapped_order(own)), expected)
    other = own.classes.index(next(c for c in own.classes if c != "a")) if set(own.classes) > {"a"} else None
    if other is not None:
        order = np.arange(len(own.units))
        order[[0, other]] = order[[other, 0]]
        with pytest.raises(ValueError, match="only equal units"):
            found.network.apply(found.variables, own.example, order=order)


@every_case
def test_variables_go_home(name):
    own, found = case(name), found_in(name)
    home = found.unstack(found.variables)
    assert jax.tree.structure(home) == jax.tree.structure(own.variables)
    for there, here in zip(jax.tree.leaves(home), jax.tree.leaves(own.variables), strict=True):
        assert np.array_equal(there, here) if hasattr(here, "dtype") else there is here
    assert equal(found.stack(home), found.variables)
    # What is done to stacked variables is done to the user's own.
    half = jax.tree.map(lambda v: np.asarray(v) / 2, found.variables)
    for there, here in zip(jax.tree.leaves(found.unstack(half)), jax.tree.leaves(own.variables), strict=True):
        assert not hasattr(here, "dtype") or np.array_equal(there, np.asarray(here) / 2)


@every_case
def test_other_batch_sizes(name):
    own, found = case(name, double=True), found_in(name, double=True)
    x = jax.tree.map(lambda v: np.concatenate([v, v[:1]]), own.example)

    def all_of(variables, stacked, x):
        return found.apply(variables, x), found.apply(stacked, x), found.network.apply(stacked, x).logits

    expected = jitted(own.fn, own.variables, x)
    for logits in jitted(all_of, own.variables, found.variables, x):
        assert_close(logits, expected)


@pytest.mark.parametrize("name", ["linen: ViT", "plain_jax: ConvNeXt, NCHW", "plain_jax: decoder with padding"])
def test_other_dtypes(name):
    """What was found in float32 runs in float64 and in bfloat16: the function is traced again."""
    own, found = case(name), found_in(name)
    for dtype, tolerance in ((jnp.float64, 1e-10), (jnp.bfloat16, 0.1)):
        cast = jax.tree.map(
            lambda v, t=dtype: jnp.asarray(v, t) if jnp.issubdtype(v.dtype, jnp.floating) else v,
            (own.variables, own.example),
        )
        stacked = found.stack(cast[0])
        expected = jitted(own.fn, *cast)
        assert expected.dtype == dtype
        program = jitted(found.apply, *cast)
        assert program.dtype == dtype
        network = jitted(lambda v, x: found.network.apply(v, x).logits, stacked, cast[1])
        assert network.dtype == jnp.promote_types(dtype, np.float32)
        for logits in (program, network):
            assert_close(np.float64(logits), np.float64(expected), tolerance)


def test_wrong_gates():
    own, found = case(NAMES[0]), found_in(NAMES[0])
    with pytest.raises(ValueError, match=r"gates have shape \[3\]; this network has 4 units"):
        found.apply(own.variables, own.example, np.ones(3))
    with pytest.raises(ValueError, match="this network has 4 units"):
        found.network.apply(found.variables, own.example, gates=np.ones(3))
