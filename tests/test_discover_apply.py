"""What was found computes what the function computes: with units deleted, in other orders,
at other batch sizes and in other dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import (
    NAMES,
    assert_close,
    case,
    found_in,
    jitted,
    layers_swapped,
    layers_swapped_order,
    varied_cases_first,
)
from marks import slow_but

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")


@varied_cases_first
def test_each_unit_deleted_is_the_network_written_without_it(name):
    own, found = case(name, double=True), found_in(name, double=True)
    n = len(own.units)
    gates = np.stack(
        [np.ones(n), *(1 - np.eye(n)), 1 - np.eye(n)[0] - np.eye(n)[-1], np.linspace(0.3, 1.7, n)]
    )
    x = jax.tree.map(lambda v: np.concatenate([v, v[:1]]), own.example)  # another batch size

    def written(variables, x):
        choices = [(), *((i,) for i in range(n)), (0, n - 1)]
        return jnp.stack([own.run(variables, x, left_out) for left_out in choices])

    def program(variables, x):
        return jax.vmap(lambda g: found.apply(variables, x, g))(gates)

    def network(variables, x):
        return jax.vmap(lambda g: found.network.apply(variables, x, gates=g).logits)(gates)

    expected = jitted(written, own.variables, x)
    assert expected.dtype == np.float64
    others = np.abs(expected[1:] - expected[0]).max(axis=tuple(range(1, expected.ndim)))
    assert np.all(others > 1e-3)  # each unit does something
    logits = jitted(program, own.variables, x)
    assert_close(logits[:-1], expected)
    assert np.abs(logits[-1] - expected[0]).max() > 1e-3
    assert_close(jitted(network, found.variables, x), logits)  # at any gates


@varied_cases_first
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


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["linen: ViT", "plain_jax: ConvNeXt, NCHW", "plain_jax: decoder with padding"],
        "plain_jax: ConvNeXt, NCHW",
    ),
)
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
    with pytest.raises(ValueError, match=r"gates have shape \[2\]; this network has 3 units"):
        found.apply(own.variables, own.example, np.ones(2))
    with pytest.raises(ValueError, match="this network has 3 units"):
        found.network.apply(found.variables, own.example, gates=np.ones(2))
