"""What holds for every network that can be built, on networks drawn at random.

In float64: what is compared is mostly two programs, and XLA may round each in its own way. Each example is
compiled, which is nearly all of its time; the slow tests draw more of them.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from network_helpers import draw, equal, on_stack

from resjax import models
from resjax.models.residual import PLACEMENTS
from resjax.models.shortcuts import ALTERATIONS, TRANSITIONS
from resjax.network import Network
from resjax.network.losses import cross_entropy
from resjax.studies.paths.path_exact import walk_lengths
from resjax.studies.paths.path_walk import PAPER

BATCH, CLASSES = 2, 3
FEW_AND_MANY = pytest.mark.parametrize("count", [2, pytest.param(30, marks=pytest.mark.slow)])

SEEDS = st.integers(0, 999)


pytestmark = pytest.mark.usefixtures("x64_throughout")


class Drawn(NamedTuple):
    """A network, its fields, variables and images."""

    network: Network
    fields: dict
    variables: dict
    images: np.ndarray

    def __repr__(self):
        return f"<{self.fields} on images {self.images.shape}>"


@st.composite
def networks(draw_from):
    """Small residual networks and plain twins, of all combinations that are allowed."""

    def one_of(*values):
        return draw_from(st.sampled_from(values))

    sizes = one_of((3,), (2,), (1, 2), (2, 1), (2, 2), (1, 3), (1, 1))
    widths = [draw_from(st.integers(2, 4)) for _ in sizes]
    placement = one_of(*PLACEMENTS)
    shortcut = one_of(*ALTERATIONS, "none")
    norm = placement == "bn_after_add" or one_of(True, False)
    scales = ["none"]
    if shortcut != "none":
        scales.append("skipinit")
        if not norm and placement == "post":
            scales.append("fixup")
    fields = {
        "stage_sizes": sizes,
        "widths": tuple(sorted(widths)),
        "block": one_of("basic", "bottleneck"),
        "block_layers": one_of(1, 2, 3),
        "bottleneck_stride": one_of("1x1", "3x3"),
        "placement": placement,
        "shortcut": shortcut,
        "shortcut_scale": one_of(1.0, 0.5),
        "shortcut_branch_scale": one_of(1.0, 2.0),
        "gate_bias": one_of(-1.0, 0.0),
        "transition": one_of(*TRANSITIONS),
        "pad_centre": one_of(True, False),
        "norm": norm,
        "branch_scale": one_of(*scales),
        "conv": one_of("auto", "lax"),
        "dtype": "float64",
    }
    shape = (*(draw_from(st.integers(4, 8)) for _ in range(2)), one_of(1, 3))
    network = models.build(models.defaults("resnet", **fields), image_shape=shape, num_classes=CLASSES)
    images = np.random.default_rng(1).normal(size=(BATCH, *shape))
    variables = jax.tree.map(np.float64, draw(network, shape))
    return Drawn(network, fields, variables, images)


def assert_same(found, expected):
    """But for rounding in float64, measured against the largest number."""
    assert found.dtype == expected.dtype == np.float64 and np.all(np.isfinite(expected))
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * largest)


def holds(count, check, *strategies):
    """Runs a check on ``count`` examples."""
    # A smaller counterexample is not worth the minutes of compilation that it takes to find one.
    phases = (Phase.reuse, Phase.generate)
    slow = [HealthCheck.too_slow]
    given_all = given(*strategies)(check)
    settings(max_examples=count, phases=phases, suppress_health_check=slow)(given_all)()


def logits_of(network):
    return jax.jit(lambda v, x, **changes: network.apply(v, x, **changes).logits)


# --- gates, orders, loops ---


def without(drawn, index):
    """The network and its variables, built without unit ``index``."""
    network, variables = drawn.network, drawn.variables
    unit = network.units[index]
    others = [stack for stack in network.stacks if stack != unit.stack]
    if unit.stack.n == 1:
        return dataclasses.replace(network, stacks=tuple(others)), variables
    shorter = dataclasses.replace(unit.stack, n=unit.stack.n - 1)
    stacks = tuple(shorter if stack == unit.stack else stack for stack in network.stacks)
    fewer = on_stack(variables, unit.stack.name, lambda v: np.delete(v, unit.position, axis=0))
    return dataclasses.replace(network, stacks=stacks), fewer


def vanishes(drawn):
    """bool [unit]: where a deletion leaves nothing: no change of shape, no altered shortcut."""
    if drawn.fields["placement"] == "bn_after_add":  # a BatchNorm stays
        return np.zeros(drawn.network.num_units, bool)
    units = [unit.stack.unit for unit in drawn.network.units]
    if drawn.fields["shortcut"] == "none":
        return drawn.network.deletable(drawn.variables, drawn.images.shape[1:])
    copies = drawn.fields["shortcut"] in ("identity", "dropout")
    return np.array([copies and not unit.shortcut.changes_shape for unit in units])


@FEW_AND_MANY
def test_a_gate_of_zero_is_building_without_the_unit(count):
    def check(drawn, seed):
        index = np.random.default_rng(seed).choice(np.flatnonzero(vanishes(drawn)))
        gates = np.ones(drawn.network.num_units)
        gates[index] = 0
        deleted = logits_of(drawn.network)(drawn.variables, drawn.images, gates=gates)
        network, variables = without(drawn, index)
        assert network.num_units == drawn.network.num_units - 1
        assert_same(deleted, logits_of(network)(variables, drawn.images))

    holds(count, check, networks().filter(lambda drawn: vanishes(drawn).any()), SEEDS)


@FEW_AND_MANY
def test_gates_of_one_orders_and_loops(count):
    """Gates of 1 are none, a loop is its units, an order (to the last bit) a permutation of the variables."""

    def check(drawn, seed):
        rng = np.random.default_rng(seed)
        network, variables, x = drawn.network, drawn.variables, drawn.images
        order, permuted = [], variables
        for stack in network.stacks:
            own = rng.permutation(stack.n)
            permuted = on_stack(permuted, stack.name, lambda v, own=own: v[own])
            order.extend(len(order) + own)
        intact = logits_of(network)(variables, x)
        assert_same(logits_of(dataclasses.replace(network, unroll=99))(variables, x), intact)

        run = logits_of(network)
        ones, as_built = np.ones(network.num_units), np.arange(network.num_units)
        assert_same(run(variables, x, gates=ones, order=as_built), intact)
        reordered = run(variables, x, gates=ones, order=np.array(order))
        assert equal(reordered, run(permuted, x, gates=ones, order=as_built))

    holds(count, check, networks(), SEEDS)


# --- gradients by path length ---


def gradients_by_length(network, variables, x, labels):
    """d mean loss / d images by path length: [length, B, H, W, C]."""
    key = jax.random.key(0)
    walk = walk_lengths(network, cross_entropy, PAPER, variables, x, labels, key)
    return walk.scale * jax.vmap(walk.to_input)(walk.rows)


def gradient_with_factor(network, variables, x, labels, factor):
    """d mean loss / d images, each branch's part of it times ``factor``: Σ factorᵏ · (length k)."""

    def run(name, module, h, method=None, position=...):
        part = {c: jax.tree.map(lambda v: v[position], v[name]) for c, v in variables.items() if name in v}
        return module.apply(part, h, train=False, method=method)

    def loss_of(x):
        h = run("stem", network.stem, x)
        for unit in network.units:
            at = (unit.stack.name, unit.stack.unit)
            s, f = run(*at, h, "split", unit.position)
            held = jax.lax.stop_gradient(f)
            z = held + factor * (f - held)
            h = run(*at, s + z if unit.stack.unit.residual else z, "merge", unit.position)
        return jnp.mean(cross_entropy(run("head", network.head, h), labels))

    return jax.grad(loss_of)(x)


@FEW_AND_MANY
def test_path_lengths_sum_to_the_gradient(count):
    labels = np.arange(BATCH)

    def check(drawn, factor):
        network = drawn.network

        @jax.jit
        def gradients(variables, x, factor):
            def loss_of(x):
                return jnp.mean(cross_entropy(network.apply(variables, x).logits, labels))

            args = (network, variables, x, labels)
            found = gradients_by_length(*args)
            return found, jax.grad(loss_of)(x), gradient_with_factor(*args, factor)

        found, true, weighted = jax.device_get(gradients(drawn.variables, drawn.images, factor))
        n = network.num_units
        lengths = np.arange(n + 1) if drawn.fields["shortcut"] != "none" else np.array([n])
        assert len(found) == len(lengths)
        assert_same(found.sum(0), true)
        # At another factor the powers differ: each length has what belongs to it.
        assert_same(np.tensordot(factor**lengths, found, 1), weighted)

    holds(count, check, networks(), st.floats(0.25, 0.75))
