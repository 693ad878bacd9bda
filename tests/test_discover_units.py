"""The units of networks of five libraries: exactly those that they were written with, and their bits."""

import functools

import jax
import numpy as np
import pytest
from discover_helpers import NAMES, case, every_case, found_in, on_device, paths_of, varied_cases_first
from network_helpers import equal

import resjax
from resjax.discovery import NotFound

pytestmark = pytest.mark.usefixtures("foreign_code")


@every_case
def test_units_are_exact(name):
    own, found = case(name), found_in(name)
    assert tuple((unit.name, unit.shortcut) for unit in found.units) == own.units
    assert not any(unit.bypassed for unit in found.units)
    assert found.network.num_units == len(own.units)
    assert tuple(unit.name for unit in found.network.units) == tuple(name for name, _ in own.units)


@every_case
def test_equal_units_are_of_one_class(name):
    """Those whose variables are rows of the same arrays."""
    own, found = case(name), found_in(name)
    groups = [unit.stack.group or unit.stack.name for unit in found.network.units]
    pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
    assert [groups[i] == groups[j] for i, j in pairs] == [own.classes[i] == own.classes[j] for i, j in pairs]


@every_case
def test_what_follows_the_sums(name):
    own, found = case(name), found_in(name)
    follows = {unit.follows for unit in found.units}
    if own.follows == "normalization":
        assert follows == {"normalization"}
    else:
        assert follows == {own.follows}


@every_case
def test_sizes_and_the_table(name):
    own, found = case(name), found_in(name)
    text, leaves = str(found), [v for v in jax.tree.leaves(own.variables) if hasattr(v, "dtype")]
    for unit in found.units:
        assert unit.name in text and unit.shortcut in text and f"{unit.parameters:,}" in text
        assert len(unit.shape) in (2, 3) and all(size > 1 for size in unit.shape)
    inside = sum(unit.parameters for unit in found.units)
    assert 0.3 * sum(v.size for v in leaves) < inside < sum(v.size for v in leaves)
    shapes = [v.shape for v in jax.tree.leaves(found.example)]
    assert shapes == [v.shape for v in jax.tree.leaves(own.example)]


def test_parameters_are_those_of_the_branch():
    units, variables = found_in("linen: ViT").units, case("linen: ViT").variables["params"]
    for i, unit in enumerate(units):
        layer = variables[f"layer{i // 2}"]
        own = ("norm1", "attention") if i % 2 == 0 else ("norm2", "wider", "narrower")
        assert unit.parameters == sum(v.size for part in own for v in jax.tree.leaves(layer[part]))
        assert unit.shape == (5, 4)
    block = found_in("plain_jax: post-activation bottlenecks").units[2]
    weights = case("plain_jax: post-activation bottlenecks").variables["blocks"][2]
    assert block.parameters == sum(v.size for name, v in weights.items() if name != "projection")
    assert block.shape == (3, 3, 6)


def test_statistics_are_no_parameters():
    found, variables = (
        found_in("linen: post-activation ResNet"),
        case("linen: post-activation ResNet").variables,
    )
    for collection in ("params", "batch_stats"):
        sizes = sum(v.size for v in jax.tree.leaves(variables[collection]))
        assert sum(v.size for v in jax.tree.leaves(found.variables[collection])) == sizes
    block = variables["params"]["block0"]
    assert found.units[0].parameters == sum(v.size for v in jax.tree.leaves(block))


def test_shapes_suffice():
    own = case("linen: ViT")
    shapes, example = (jax.eval_shape(lambda v: v, tree) for tree in (own.variables, own.example))
    found = resjax.discover(own.fn, shapes, example)
    assert found.units == found_in("linen: ViT").units


def test_layers_instead_of_sums():
    """Attention and MLP of a layer as one unit; a network whose layers have one sum stays as it is."""
    own = case("plain_jax: decoder with padding")
    found = resjax.discover(own.fn, own.variables, own.example, grain="layer")
    assert [unit.name for unit in found.units] == ["blocks/0", "blocks/1"]
    sizes = [unit.parameters for unit in found_in("plain_jax: decoder with padding").units]
    assert [unit.parameters for unit in found.units] == [sum(sizes[i : i + 2]) for i in (0, 2)]
    assert [stack.n for stack in found.network.stacks] == [2]
    own = case("plain_jax: parallel attention and MLP")
    found = resjax.discover(own.fn, own.variables, own.example, grain="layer")
    assert found.units == found_in("plain_jax: parallel attention and MLP").units
    with pytest.raises(ValueError, match="grain='block'; allowed: sum, layer"):
        resjax.discover(own.fn, own.variables, own.example, grain="block")


def test_boundaries_choose_units():
    own = case("plain_jax: decoder with padding")
    find = functools.partial(resjax.discover, own.fn, own.variables, own.example)
    found = find(boundaries=["blocks/0", "blocks/1/mlp"])
    sizes = [unit.parameters for unit in found_in("plain_jax: decoder with padding").units]
    assert [unit.parameters for unit in found.units] == [sizes[0] + sizes[1], sizes[3]]
    assert [unit.name for unit in find(boundaries="blocks/*").units] == ["blocks/0", "blocks/1"]
    assert [unit.name for unit in find(boundaries=["blocks/*", "blocks/0"]).units] == ["blocks/0", "blocks/1"]
    with pytest.raises(NotFound, match="'blocks/1' and 'blocks/1/mlp', which have residual sums in common"):
        find(boundaries=["blocks/1", "blocks/1/mlp"])
    with pytest.raises(NotFound, match=r"boundaries='layers/\*'.*blocks/0"):
        find(boundaries="layers/*")


def test_axes_of_any_lengths_leave_a_batch_size_to_trace_with():
    own = case("plain_jax: decoder with padding")
    unread = [jax.ShapeDtypeStruct((n,), np.float32) for n in range(3, 60)]
    found = resjax.discover(lambda v, x: own.fn(v[0], x), (own.variables, unread), own.example)
    assert [unit.shape for unit in found.units] == [
        unit.shape for unit in found_in("plain_jax: decoder with padding").units
    ]


def test_names_are_those_of_the_variables():
    """Whoever reads a name finds the parameters under it."""
    for name in NAMES:
        if isinstance(name, str) and name.split(":")[0] in ("plain_jax", "linen", "nnx", "haiku"):
            paths = "\n".join(paths_of(case(name).variables))
            for unit in found_in(name).units:
                stacked = unit.name.replace("/0/", "/").replace("/1/", "/").replace("/2/", "/")
                assert unit.name in paths or stacked in paths


def test_no_initial_variables():
    found = found_in("linen: ViT")
    with pytest.raises(NotFound, match="initial"):
        found.network.init(jax.random.key(0), (6, 6, 3))
    initial = found.stack(jax.tree.map(np.zeros_like, case("linen: ViT").variables))
    assert jax.tree.structure(initial) == jax.tree.structure(found.variables)
    assert not any(np.any(v) for v in jax.tree.leaves(initial))


# --- bits ---


def bits(logits):
    return np.asarray(logits).view(np.uint32)


@varied_cases_first
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
