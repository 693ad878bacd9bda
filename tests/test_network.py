"""A network is data: gates, orders, stacked variables, and what each of them must leave alone."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import draw, equal, on_stack

from resjax import models
from resjax.models.layers import Conv
from resjax.models.resnet import resnet
from resjax.network import Network, Stack, Unit
from resjax.network.stochastic_depth import UnitDropout

SHAPE = (6, 6, 3)
# Units: 0 opens stage 1 (its form differs), 1–3 are a stack, 4 changes the shape.
SIZES = (4, 1)
N = 5


def build(**fields) -> Network:
    given = {"stage_sizes": SIZES, "widths": (4, 6), "block_layers": 1, **fields}
    return resnet(image_shape=SHAPE, num_classes=3, **given)


@pytest.fixture(scope="module")
def net() -> Network:
    return build()


@pytest.fixture(scope="module")
def variables(net):
    return draw(net, SHAPE)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (4, *SHAPE))


class Conv8(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Conv(8)(x)


class Counted:
    """A jitted function and how often it was traced."""

    def __init__(self, f):
        self.traces = 0

        def counted(*args):
            self.traces += 1
            return f(*args)

        self.call = jax.jit(counted)

    def __call__(self, *args):
        return self.call(*args)


@pytest.fixture(scope="module")
def logits(net):
    """(variables, x, gates, order) → logits, outside training; one compilation for them all."""
    return Counted(lambda v, x, gates, order: net.apply(v, x, gates=gates, order=order).logits)


@pytest.fixture(scope="module")
def train(net):
    """(variables, x, order) → (logits, new statistics) in training."""

    def run(v, x, order):
        out = net.apply(v, x, order=order, train=True)
        return out.logits, out.batch_stats

    return jax.jit(run)


ONES = np.ones(N, np.float32)
AS_BUILT = np.arange(N)
ORDERS = [(0, 2, 1, 3, 4), (0, 3, 1, 2, 4)]


def closed(*units):
    """Gates of 1, and of 0 at these units."""
    return np.float32([i not in units for i in range(N)])


# --- gates ---


def test_gates_of_one_and_the_built_order_change_nothing(net, logits, variables, x):
    bare = jax.jit(lambda v, x: net.apply(v, x).logits)(variables, x)
    assert bare.dtype == jnp.float32 and bare.shape == (4, 3)
    assert equal(bare, logits(variables, x, ONES, AS_BUILT))


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("shortcut", ["identity", "none"])
def test_deleting_is_building_without(placement, shortcut, x):
    """Gate 0 on a unit equals, to the last bit, a network that has one unit less."""
    fields = {"placement": placement, "shortcut": shortcut}
    whole, shorter = build(**fields), build(**fields, stage_sizes=(3, 1))
    v = draw(whole, SHAPE)
    with_gates = jax.jit(lambda v, x, g: whole.apply(v, x, gates=g).logits)
    without = jax.jit(lambda v, x: shorter.apply(v, x).logits)
    intact = with_gates(v, x, ONES)
    for unit in [u for u in whole.units if u.stack.n > 1]:
        fewer = on_stack(v, "stage1", lambda a, p=unit.position: np.delete(a, p, axis=0))
        assert equal(with_gates(v, x, closed(unit.index)), without(fewer, x))
        assert not equal(intact, without(fewer, x))


def test_one_compilation_serves_every_lesion_and_order(logits, variables, x):
    outputs = [logits(variables, x, closed(i), AS_BUILT) for i in range(N)]
    outputs += [logits(variables, x, 0.5 * ONES, np.array(order)) for order in ORDERS]
    assert len({np.asarray(o).tobytes() for o in outputs}) == len(outputs)
    assert logits.traces == 1


def test_vmap_over_gates(net, logits, variables, x):
    gates = np.stack([ONES, closed(2), 0.3 * ONES])
    run = jax.vmap(lambda v, x, g: net.apply(v, x, gates=g).logits, (None, None, 0))
    together = jax.jit(run)(variables, x, gates)
    apart = np.stack([logits(variables, x, g, AS_BUILT) for g in gates])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)


def test_gates_take_other_types_than_float32(net, variables, x, logits):
    booleans = np.arange(N) != 2
    expected = logits(variables, x, booleans.astype(np.float32), AS_BUILT)
    # With the order as an argument, too: without, it would be another program, which may round otherwise.
    run = jax.jit(lambda v, x, g, o: net.apply(v, x, gates=g, order=o).logits)
    got = run(variables, x, booleans, AS_BUILT)
    assert equal(got, expected)


# --- orders ---


@pytest.mark.parametrize("order", ORDERS)
def test_reordering_is_permuting_the_variables(logits, variables, x, order):
    permuted = on_stack(variables, "stage1", lambda a: a[np.array(order[1:4]) - 1])
    reordered = logits(variables, x, ONES, np.array(order))
    assert equal(reordered, logits(permuted, x, ONES, AS_BUILT))
    assert not equal(reordered, logits(variables, x, ONES, AS_BUILT))


def test_a_traced_order_takes_variables_that_are_numpy_arrays(net, logits, variables, x):
    order, constants = np.array(ORDERS[1]), jax.tree.map(np.asarray, variables)
    closed_over = jax.jit(lambda x, order: net.apply(constants, x, order=order).logits)
    expected = logits(variables, x, ONES, order)
    np.testing.assert_allclose(closed_over(x, order), expected, rtol=1e-5, atol=1e-6)


def test_gates_follow_their_unit(logits, variables, x):
    order = np.array(ORDERS[1])
    gates = np.linspace(0, 1, N, dtype=np.float32)
    permuted = on_stack(variables, "stage1", lambda a: a[order[1:4] - 1])
    expected = logits(permuted, x, gates[order], AS_BUILT)
    assert equal(logits(variables, x, gates, order), expected)


def test_lists_are_taken_as_arrays(logits, net, variables, x):
    expected = logits(variables, x, closed(2), np.array(ORDERS[0]))
    run = jax.jit(lambda v, x: net.apply(v, x, gates=[1, 1, 0, True, 1.0], order=list(ORDERS[0])).logits)
    assert equal(run(variables, x), expected)


def test_statistics_return_to_their_unit(train, variables, x):
    order = np.array(ORDERS[0])
    back = np.argsort(order)
    permuted = on_stack(variables, "stage1", lambda a: a[order[1:4] - 1])
    got_logits, got = train(variables, x, order)
    logits, new = train(permuted, x, AS_BUILT)
    expected = on_stack({"batch_stats": new}, "stage1", lambda a: a[back[1:4] - 1])
    assert equal(got_logits, logits)
    assert equal(got, expected["batch_stats"])


def test_a_unit_may_run_twice_outside_training(net, logits, variables, x):
    twice = np.array([0, 1, 1, 3, 4])
    expected = on_stack(variables, "stage1", lambda a: a[np.array([0, 0, 2])])
    got = logits(variables, x, ONES, twice)
    assert equal(got, logits(expected, x, ONES, AS_BUILT))
    with pytest.raises(ValueError, match="repeats units"):
        net.apply(variables, x, order=twice, train=True)


# --- refusals ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gates": np.ones(N + 1)}, r"gates have shape \(6,\); this network has 5 units"),
        ({"gates": np.ones((2, N))}, r"must have shape \(5,\)"),
        ({"order": np.arange(N - 1)}, r"order has shape \(4,\).*5 units"),
        ({"gates": [1, 0]}, r"gates have shape \(2,\).*5 units"),
        ({"order": np.arange(N) * 1.0}, r"dtype float64.*must be integers"),
        ({"order": [1, 0]}, r"order has shape \(2,\).*5 units"),
        ({"order": [0.0, 1.0, 2.0, 3.0, 4.0]}, r"dtype float32.*must be integers"),
        ({"order": [1, 0, 2, 3, 4]}, r"unit 1 at place 0 \(stage1/unit1\).*0 to 0"),
        ({"order": np.array([1, 0, 2, 3, 4])}, r"unit 1 at place 0 \(stage1/unit1\).*0 to 0"),
        ({"order": np.array([0, 1, 2, 4, 3])}, r"unit 4 at place 3 \(stage1/unit4\).*1 to 3"),
        ({"order": np.array([0, 1, 2, -1, 4])}, r"unit -1 at place 3"),
        ({"order": np.array([0, 1, 2, 3, 5])}, r"unit 5 at place 4 \(stage2/unit1\).*4 to 4"),
    ],
)
def test_wrong_gates_and_orders_are_refused(net, variables, x, change, message):
    with pytest.raises(ValueError, match=message):
        net.apply(variables, x, **change)


@pytest.mark.parametrize("train", [False, True])
def test_images_of_other_channels_are_refused(net, variables, x, train):
    with pytest.raises(ValueError) as error:
        net.apply(variables, x[..., :1], train=train)
    message = str(error.value)
    assert "Stem gets an input of shape [B, 6, 6, 1]" in message
    assert "conv/kernel of shape [3, 3, 1, 4]; the variables have [3, 3, 3, 4]" in message
    assert "give an input of shape [B, H, W, 3]" in message


def test_images_of_another_size_are_refused_where_that_matters():
    network = models.build(models.defaults("lenet5"), image_shape=(28, 28, 1), num_classes=3)
    v = jax.eval_shape(lambda k: network.init(k, (28, 28, 1)), jax.random.key(0))
    larger = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    with pytest.raises(ValueError, match=r"DenseUnit .*\[B, 2, 2, 120\].*\[480, 84\].*\[120, 84\]"):
        jax.eval_shape(lambda v, x: network.apply(v, x).logits, v, larger)


class Growing(Unit):
    """Two more channels each time, as a dense block."""

    def setup(self):
        self.conv = Conv(10)

    def split(self, x, train):
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2))), self.conv(x)


def test_a_unit_that_changes_the_shape_needs_a_stack_of_its_own(net):
    key = jax.random.key(0)
    message = (
        r"stage1/unit1, a Growing of stack 'body', maps \[6, 6, 8\] to \[6, 6, 10\], so 2 more of the "
        r"same form can't follow it: .* a stack of its own \(n=1\)"
    )
    stem = Conv8()
    with pytest.raises(ValueError, match=message):
        Network(stem, (Stack("body", Growing(), n=3, stage=1),), net.head).init(key, SHAPE)
    alone = Network(stem, (Stack("body", Growing(), n=1, stage=1),), net.head)
    run = lambda key, x: alone.apply(alone.init(key, SHAPE), x).logits  # noqa: E731
    assert jax.eval_shape(run, key, jnp.zeros((1, *SHAPE))).shape == (1, 3)


def test_variables_of_another_network_are_refused(variables, x):
    with pytest.raises(ValueError, match=r"the variables have .*the network's own variables"):
        build(widths=(2, 6)).apply(variables, x)


@pytest.mark.parametrize("fields", [{"unit_dropout": "linear"}, {"shortcut": "dropout"}])
def test_a_missing_key_is_refused(fields, x):
    network = build(**fields)
    v = draw(network, SHAPE)
    jax.eval_shape(lambda v: network.apply(v, x).logits, v)  # none is needed outside training
    with pytest.raises(ValueError, match="pass key="):
        jax.eval_shape(lambda v: network.apply(v, x, train=True).logits, v)


def test_impossible_networks_are_refused(net):
    stack = net.stacks[1]
    with pytest.raises(ValueError, match=r"unique names.*'stage1', 'stage1'"):
        dataclasses.replace(net, stacks=(stack, stack))
    with pytest.raises(ValueError, match="unroll=-1; allowed: 1, 2"):
        dataclasses.replace(net, unroll=-1)
    with pytest.raises(ValueError, match="for 3 units; this network has 5"):
        dataclasses.replace(net, unit_dropout=UnitDropout("uniform", 3))
    with pytest.raises(ValueError, match="unit_dropout needs shortcuts"):
        build(shortcut="none", unit_dropout="uniform")


# --- loops ---


@functools.cache
def loss_and_gradient(unroll: int):
    network = build(unroll=unroll)

    def loss(params, stats, x):
        out = network.apply({"params": params, "batch_stats": stats}, x, train=True)
        return jnp.mean(jnp.square(out.logits)), out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("unroll", [99, 2])
def test_unroll_changes_neither_variables_nor_results(net, logits, variables, x, unroll):
    """Variables and outputs to the last bit; gradients are sums that XLA may order differently."""
    network = build(unroll=unroll)
    key = jax.random.key(0)
    shapes = [jax.eval_shape(lambda k, n=n: n.init(k, SHAPE), key) for n in (network, net)]
    assert shapes[0] == shapes[1]
    run = jax.jit(lambda v, x, g, o: network.apply(v, x, gates=g, order=o).logits)
    args = (variables, x, 0.5 * ONES, np.array(ORDERS[0]))
    assert equal(run(*args), logits(*args))

    args = (variables["params"], variables["batch_stats"], x)
    (_, out), gradient = loss_and_gradient(unroll)(*args)
    (_, expected), expected_gradient = loss_and_gradient(1)(*args)
    got = (out.logits, out.batch_stats, gradient)
    expected = (expected.logits, expected.batch_stats, expected_gradient)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), got, expected)


@pytest.mark.parametrize(
    ("platform", "train", "units", "each"),
    [("cpu", True, 3, 1), ("tpu", True, 3, 1), ("gpu", True, 3, 3), ("gpu", False, 3, 1),
     ("gpu", True, 65, 1)],
)  # fmt: skip
def test_scan_unroll_are_what_is_fast_on_the_device(monkeypatch, platform, train, units, each):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    network = build(stage_sizes=(1 + units, 1))
    v = jax.eval_shape(lambda k: network.init(k, SHAPE), jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
    traced = jax.make_jaxpr(lambda v, x: network.apply(v, x, train=train).logits)(v, x)
    loops = [e.params for e in traced.eqns if e.primitive.name == "scan"]
    assert [(loop["length"], loop["unroll"]) for loop in loops] == [(units, each)]


# --- training ---


def test_batch_statistics_move_in_training_only(net, train, variables, x):
    same = jax.jit(lambda v, x: net.apply(v, x).batch_stats)(variables, x)
    assert equal(same, variables["batch_stats"])
    _, new = train(variables, x, AS_BUILT)
    assert jax.tree.structure(new) == jax.tree.structure(variables["batch_stats"])
    moved = jax.tree.map(lambda a, b: not np.allclose(a, b), new, variables["batch_stats"])
    assert jax.tree.all(moved)


# --- taps, names, walks ---


def test_taps_see_every_unit_in_running_order(net, variables, x):
    def tap(parts):
        means = jax.tree.map(jnp.mean, parts)
        return {"parts": means, "sum": jnp.mean(parts.shortcut + parts.branch)}

    out = jax.jit(lambda v, x: net.apply(v, x, tap=tap))(variables, x)
    assert set(out.taps) == {s.name for s in net.stacks}
    for stack in net.stacks:
        taps = out.taps[stack.name]
        assert taps["sum"].shape == (stack.n,)
        # A pre-activation unit is its sum, and each unit's output is the next one's input.
        np.testing.assert_allclose(taps["sum"], taps["parts"].y, rtol=1e-6)
        np.testing.assert_array_equal(taps["parts"].y[:-1], taps["parts"].x[1:])


def test_walking_by_hand_is_apply(net, logits, variables, x):
    @jax.jit
    def walk(variables, x):
        h, _ = net.run_stem(variables, x)
        for stack in net.stacks:
            h, _, _ = net.run_stack(stack, variables, h, gates=0.5 * jnp.ones(stack.n))
        return net.run_head(variables, h)[0]

    assert equal(walk(variables, x), logits(variables, x, 0.5 * ONES, AS_BUILT))


def test_units_have_addresses(net):
    assert [u.name for u in net.units] == [
        *(f"stage1/unit{i}" for i in (1, 2, 3, 4)),
        "stage2/unit1",
    ]
    assert [u.index for u in net.units] == list(range(N)) and net.num_units == N
    places = [(u.stack.name, u.position) for u in net.units]
    assert places == [
        ("stage1_opening", 0),
        *(("stage1", i) for i in range(3)),
        ("stage2_opening", 0),
    ]


def test_deletable():
    for shortcut, expected in (
        ("identity", [True] * N),
        ("none", [True] * 4 + [False]),
    ):
        network = build(shortcut=shortcut)
        assert network.deletable(draw(network, SHAPE), SHAPE).tolist() == expected


def test_a_program_does_not_grow_with_the_depth(x):
    def operations(n):
        network = build(stage_sizes=(n, n))
        return str(jax.make_jaxpr(lambda v: network.apply(v, x).logits)(draw(network, SHAPE))).count("\n")

    assert operations(3) == operations(30)


def test_first_values_are_those_of_one_draw_after_another(net, key):
    """A unit's own key is a split of its part's, as if every part were made alone."""
    variables = jax.jit(lambda k: net.init(k, SHAPE))(key)
    i, stack = next((i, s) for i, s in enumerate(net.stacks, 1) if s.n > 1)
    h = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    for module in (net.stem, *(s.unit for s in net.stacks[: i - 1])):
        h = jax.eval_shape(lambda x, m=module: m.init_with_output(jax.random.key(0), x, train=False)[0], h)

    @jax.jit
    def alone(key):
        rngs = dict(zip(("params", "dropout"), jax.random.split(key), strict=True))
        return stack.unit.init(rngs, jnp.zeros(h.shape), train=False)["params"]

    for unit, own in enumerate(jax.random.split(jax.random.fold_in(key, i), stack.n)):
        for one, all_units in zip(
            jax.tree.leaves(alone(own)),
            jax.tree.leaves(variables["params"][stack.name]),
            strict=True,
        ):
            np.testing.assert_array_equal(one, all_units[unit])
