"""Other people's functions without some units: the logits are those with gates of 0, the variables fewer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import (
    assert_close,
    case,
    found_in,
    jitted,
    on_device,
    paths_of,
    varied_cases_first,
)

import resjax

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")


def gates_of(found, names):
    return np.array([unit.name not in names for unit in found.units], float)


@varied_cases_first
def test_the_logits_are_those_with_gates_of_0(name):
    """Also at another batch size, and for other variables of the same form."""
    own, found = case(name, double=True), found_in(name, double=True)
    names = [unit.name for unit in found.units][:: max(len(found.units) - 1, 1)][:2]
    names = names if len(names) < len(found.units) else names[:1]
    fn, smaller = found.cut(names)
    x = jax.tree.map(lambda v: np.concatenate([v, v[:1]]), own.example)
    expected = jitted(lambda v, x: found.apply(v, x, gates_of(found, names)), own.variables, x)
    assert_close(jitted(fn, smaller, x), expected)
    assert np.abs(expected - jitted(own.fn, own.variables, x)).max() > 1e-3
    other = jax.tree.map(lambda v: v * 1.1 if hasattr(v, "dtype") and v.dtype == float else v, own.variables)
    expected = jitted(lambda v, x: found.apply(v, x, gates_of(found, names)), other, x)
    assert_close(jitted(fn, fn.smaller(other), x), expected)


def sizes(tree):
    return {path: np.size(leaf) for path, leaf in paths_of(tree).items() if hasattr(leaf, "dtype")}


@varied_cases_first
def test_only_what_the_cut_units_read_is_gone(name):
    """The units' parameters go, unless others share them; it is discovered again."""
    own, found = case(name, double=True), found_in(name, double=True)
    gone = found.units[0]
    fn, smaller = found.cut([gone.name])
    before, behind = sizes(own.variables), sizes(smaller)
    assert set(behind) <= set(before)
    shared = any("shares weights" in note for note in gone.notes)
    less = sum(before.values()) - sum(behind.values())
    assert (less == 0) if shared else less >= gone.parameters > 0
    again = resjax.discover(fn, smaller, own.example)
    assert len(again.units) == len(found.units) - 1
    assert [unit.parameters for unit in again.units] == [unit.parameters for unit in found.units[1:]]


def test_rows_of_stacked_layers_go():
    def fn(variables, x):
        def layer(h, w):
            return h + jnp.tanh(h @ w), None

        return jax.lax.scan(layer, x @ variables["in"], variables["layers"])[0] @ variables["out"]

    rng = np.random.default_rng(0)
    variables = {
        "in": rng.normal(size=(3, 4)),
        "layers": rng.normal(size=(5, 4, 4)),
        "out": rng.normal(size=(4, 2)),
        "unread": np.ones(3),
    }
    x = rng.normal(size=(6, 3))
    found = resjax.discover(fn, variables, x)
    names = [unit.name for unit in found.units]
    cut, smaller = found.cut([names[1], names[3]])
    np.testing.assert_array_equal(smaller["layers"], variables["layers"][[0, 2, 4]])
    assert smaller["unread"] is variables["unread"]  # by any unit
    shapes = jax.eval_shape(lambda: variables)
    _, smaller_shapes = resjax.discover(fn, shapes, x).cut([names[1], names[3]])
    assert smaller_shapes["layers"].shape == (3, 4, 4)
    written = fn({**variables, "layers": variables["layers"][[0, 2, 4]]}, x)
    assert_close(cut(smaller, x), written)
    with pytest.raises(
        ValueError, match=r"have layers of shape \[5, 4, 4\], those of the cut function \[3, 4, 4\]: give"
    ):
        cut(variables, x)


@pytest.mark.slow
def test_gradients_are_those_of_the_smaller_function():
    own, found = (
        case("plain_jax: normalization behind the sum", double=True),
        found_in("plain_jax: normalization behind the sum", double=True),
    )
    names = [found.units[1].name]
    fn, smaller = found.cut(names)
    found_gradient = jax.grad(lambda v: fn(v, own.example).sum())(on_device(smaller))
    whole = jax.grad(lambda v: found.apply(v, own.example, gates_of(found, names)).sum())(
        on_device(own.variables)
    )
    for path, leaf in paths_of(found_gradient).items():
        assert_close(leaf, paths_of(whole)[path])


def test_refusals():
    found = found_in("plain_jax: normalization behind the sum", double=True)
    names = [unit.name for unit in found.units]
    with pytest.raises(ValueError, match=rf"there is no unit '{names[0]}x'\. Did you mean {names[0]}"):
        found.cut([f"{names[0]}x"])
    with pytest.raises(ValueError, match=rf"all {len(names)} units would be cut; leave at least one"):
        found.cut(names)
    fn, _ = found.cut(names[:1])
    with pytest.raises(
        ValueError, match=r"leaves, those of the cut function \d+: give the variables that found.cut"
    ):
        fn(case("plain_jax: normalization behind the sum", double=True).variables, found.example)
