"""Equal units that alternate with others: groups of stacks, and the loops over their periods."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw
from pattern_helpers import (
    IMAGES,
    LABELS,
    SHAPE,
    Layers,
    Mixing,
    Widening,
    apart,
    blocks,
    close,
    masked,
    mixed,
    without_groups,
)

from resjax.network import Stack
from resjax.network.losses import cross_entropy
from resjax.network.norms import flatten_norms, layer_norms
from resjax.network.parts import part_of
from resjax.network.periods import loops
from resjax.network.stochastic_depth import UnitDropout

NETWORKS = {"blocks": blocks(3), "mixed": mixed(), "masked": masked(mixed())}


@pytest.fixture(params=slow_but(NETWORKS, "masked"))
def pair(request):
    """(network, its variables, the same without groups, its variables)."""
    network = NETWORKS[request.param]
    variables = draw(network, SHAPE)
    return network, variables, without_groups(network), apart(network, variables)


def run(network, variables, **given):
    return jax.jit(lambda v, x: network.apply(v, x, **given))(variables, IMAGES)


def test_the_loops_are_those_of_the_periods():
    def found(network):
        variables = jax.eval_shape(lambda key: network.init(key, SHAPE), jax.random.key(0))
        names = []

        def look(variables):
            for own in loops(network.places(variables)):
                names.append([[s.name for s in place.stacks] for place in own])

        jax.eval_shape(look, variables)
        return names

    assert found(blocks(2)) == [[["widening"]], [["mixing0", "mixing1"], ["layers0", "layers1"]]]
    assert found(mixed()) == [[["widening"]], [["a", "c"], ["b", "d"]], [["e"]]]
    assert found(blocks(2, grouped=False)) == [
        [[name]] for name in ("widening", "mixing0", "layers0", "mixing1", "layers1")
    ]
    # Without the units between them, equal stacks are one loop, in the order of the stacks.
    first, a, _, c, *_ = mixed().stacks
    assert found(dataclasses.replace(mixed(), stacks=(first, c, a))) == [[["widening"]], [["c", "a"]]]


@pytest.mark.parametrize("train", [False, True])
def test_apply_is_that_of_the_network_without_groups(pair, train):
    network, variables, other, own = pair
    given = {
        "gates": np.linspace(0.2, 1.5, network.num_units).astype(np.float32),
        "train": train,
        "key": jax.random.key(3) if train else None,
        "tap": lambda parts: {"y": jnp.mean(parts.y), "f": jnp.std(parts.branch)},
    }
    out, expected = run(network, variables, **given), run(other, own, **given)
    close(out.logits, expected.logits)
    close(out.taps, expected.taps)
    assert jax.tree.structure(out.batch_stats) == jax.tree.structure(variables["batch_stats"])
    close(apart(network, {"batch_stats": out.batch_stats})["batch_stats"], expected.batch_stats)
    same = jax.tree.map(np.allclose, out.batch_stats, variables["batch_stats"])
    assert any(jax.tree.leaves(same)) != train


def test_gradients_are_those_of_the_network_without_groups(pair):
    network, variables, other, own = pair

    def gradients(network, variables):
        def loss(params):
            logits = network.apply({**variables, "params": params}, IMAGES).logits
            return jnp.mean(cross_entropy(logits, jnp.asarray(LABELS)))

        return {"params": jax.jit(jax.grad(loss))(variables["params"])}

    found, expected = gradients(network, variables), gradients(other, own)
    close(apart(network, found), expected)
    flat, beside = (
        dict(flatten_norms(net, layer_norms(net, g["params"]), SHAPE))
        for net, g in ((network, found), (other, expected))
    )
    assert list(flat) == list(beside)
    close(flat, beside)


# Units of ``mixed``: 0 widening; 1, 2, 4, 5 mixing; 3, 6, 7 layers.
ORDER = np.array([0, 5, 1, 7, 2, 4, 3, 6])


def test_an_order_moves_units_within_their_group():
    network = mixed()
    variables, gates = draw(network, SHAPE), np.linspace(0.2, 1.5, 8).astype(np.float32)
    moved = jax.tree.map(np.copy, variables)
    for u in network.units:  # the variables of unit ORDER[u] at the row of unit u
        row = network.units[ORDER[u.index]].row
        for collection in variables:
            if u.part in variables[collection]:
                new, old = moved[collection][u.part], variables[collection][u.part]
                jax.tree.map(lambda a, b, u=u, row=row: np.copyto(a[u.row], b[row]), new, old)
    out = run(network, variables, order=ORDER, gates=gates)
    close(out.logits, run(network, moved, gates=gates[ORDER]).logits)
    assert not np.allclose(out.logits, run(network, variables, gates=gates).logits, atol=1e-3)
    true = run(network, variables, order=np.arange(8))
    np.testing.assert_array_equal(true.logits, run(network, variables).logits)


def test_statistics_go_back_to_the_unit_that_made_them():
    """Without branches, a unit's input depends on its place alone; its statistics, on its own weights too."""
    network = mixed()
    variables = draw(network, SHAPE)
    given = {"gates": np.zeros(8, np.float32), "train": True, "key": jax.random.key(0)}
    out = run(network, variables, order=ORDER, tap=lambda parts: parts.x, **given)
    unit = jax.tree.map(lambda v: v[network.units[7].row], part_of(variables, "layers"))
    rngs = {"dropout": jax.random.key(0)}
    _, new = Layers().apply(unit, out.taps["b"][0], train=True, mutable=["batch_stats"], rngs=rngs)
    assert ORDER[3] == 7  # the only unit of stack b
    found = jax.tree.map(lambda v: v[network.units[7].row], out.batch_stats["layers"])
    close(found, new["batch_stats"])


def test_an_order_across_groups_is_refused():
    network = blocks(3)
    with pytest.raises(ValueError, match=r"order puts unit 2 at place 1 .* can be exchanged: here 1, 3, 5"):
        network.apply(draw(network, SHAPE), IMAGES, order=[0, 2, 1, 3, 4, 5, 6])


@pytest.mark.parametrize("train", [False, True])
def test_a_program_does_not_grow_with_the_periods(train):
    def operations(count):
        network = blocks(count)
        variables = jax.eval_shape(lambda key: network.init(key, SHAPE), jax.random.key(0))

        def loss(variables, gates, order):
            given = {"key": jax.random.key(0), "gates": gates, "order": order, "train": train}
            return jnp.sum(network.apply(variables, IMAGES, **given).logits)

        n = network.num_units
        return str(jax.make_jaxpr(jax.grad(loss))(variables, jnp.ones(n), jnp.arange(n))).count(" = ")

    assert operations(3) == operations(12)


def test_stochastic_depth_is_that_of_the_network_without_groups():
    def drops(network):
        return dataclasses.replace(network, unit_dropout=UnitDropout("linear", network.num_units, 0.4))

    network = mixed()
    variables = draw(network, SHAPE)
    for given in ({}, {"train": True, "key": jax.random.key(5)}):
        out = run(drops(network), variables, **given)
        expected = run(drops(without_groups(network)), apart(network, variables), **given)
        close(out.logits, expected.logits)


def test_initial_variables_are_those_of_the_network_without_groups():
    network, other = mixed(), without_groups(mixed())
    key = jax.random.key(1)
    found, expected = (jax.jit(lambda k, net=net: net.init(k, SHAPE))(key) for net in (network, other))
    close(apart(network, found), expected, rtol=1e-6)


def test_units_know_their_rows():
    network = mixed()
    assert [(u.part, u.row) for u in network.units] == [
        ("widening", 0),
        ("mixing", 0),
        ("mixing", 1),
        ("layers", 2),
        ("mixing", 2),
        ("mixing", 3),
        ("layers", 0),
        ("layers", 1),
    ]
    assert [own.tolist() for own in network.classes] == [[0], [1, 2, 4, 5], [3, 6, 7]]
    variables = draw(network, SHAPE)
    mix = variables["params"]["mixing"]["mix"]["kernel"]
    np.testing.assert_array_equal(part_of(variables, network.stacks[3])["params"]["mix"]["kernel"], mix[2:])
    np.testing.assert_array_equal(part_of(variables, "mixing")["params"]["mix"]["kernel"], mix)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Stack("b", Mixing(), 1, 1, "g", 0), r"rows \[0, 0\]; allowed: 0 to 1, each once"),
        (Stack("b", Layers(), 1, 1, "g", 1), "have different units; allowed: equal modules"),
        (Stack("g", Mixing(), 1, 1), "has the name of another part"),
        (Stack("b", Mixing(), 1, 1, "", 1), "start=1 but no group"),
    ],
)
def test_groups_that_contradict_themselves_are_refused(second, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(mixed(), stacks=(Stack("a", Mixing(), 1, 1, "g", 0), second))


def test_units_of_other_shapes_need_another_group():
    stacks = (Stack("a", Widening(), 1, 1, "g", 0), Stack("b", Widening(), 1, 1, "g", 1))
    network = dataclasses.replace(mixed(), stacks=stacks)
    with pytest.raises(ValueError, match=r"maps \[4, 4, 6\] to .* first one maps \[4, 4, 4\] to"):
        jax.eval_shape(lambda key: network.init(key, SHAPE), jax.random.key(0))
