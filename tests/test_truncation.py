"""The forward pass with short paths only, in float64 against the definition and against every single path."""

import dataclasses
import functools
import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, logits_of

from resjax.network import Network, Stack
from resjax.network.stochastic_depth import UnitDropout
from resjax.network.unit import Unit
from resjax.studies.paths.truncation import truncated_logits

pytestmark = pytest.mark.usefixtures("x64_throughout")
CLASSES, BATCH = 3, 4


class Matrix(nn.Module):
    features: int
    bias: bool = False

    @nn.compact
    def __call__(self, x):
        rows = self.param("kernel", nn.initializers.normal(0.4), (x.shape[-1], self.features), jnp.float64)
        y = x @ rows
        if self.bias:
            own = self.param("bias", nn.initializers.normal(0.5), (1, self.features), jnp.float64)
            y = y + own
        return y


class Linear(Unit):
    """A unit in which everything is a matrix; the shortcut, too, where the width changes."""

    features: int
    bias: bool = False
    projected: bool = False

    def setup(self):
        self.matrix = Matrix(self.features, self.bias)
        self.projection = Matrix(self.features)

    def split(self, x, train):
        return (self.projection(x) if self.projected else x), self.matrix(x)


class Curved(Linear):
    """tanh in the branch, softplus behind the sum."""

    def split(self, x, train):
        shortcut, branch = super().split(x, train)
        return shortcut, jnp.tanh(branch)

    def merge(self, z, train):
        return nn.softplus(z)


class Rectified(Linear):
    def split(self, x, train):
        shortcut, branch = super().split(x, train)
        return shortcut, nn.relu(branch)


class Plain(Curved):
    @property
    def residual(self):
        return False


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Matrix(4)(x.reshape(len(x), -1).astype(jnp.float64))


class Head(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Matrix(CLASSES)(nn.softplus(x))


def network_of(*stacks, unit_dropout=None):
    """A network of (unit, number of them), and its variables."""
    named = tuple(Stack(f"stack{i}", unit, n, 1) for i, (unit, n) in enumerate(stacks))
    network = Network(Flat(), named, Head(), unit_dropout=unit_dropout)
    return network, jax.tree.map(np.float64, draw(network, (2, 2, 1)))


def images():
    return np.random.default_rng(1).normal(size=(BATCH, 2, 2, 1))


def parts_of(network, variables):
    """For each unit its module, its variables and its gate."""
    gates = np.ones(network.num_units) if network.test_gates is None else np.asarray(network.test_gates)
    for unit, gate in zip(network.units, gates, strict=True):
        own = {"params": jax.tree.map(lambda v, i=unit.position: v[i], variables["params"][unit.stack.name])}
        yield unit.stack.unit, own, gate


def by_definition(network, variables, x):
    """Logits [n + 1, B, classes], with x⁽ᵏ⁾ of every unit from the definition."""
    h, _ = network.run_stem(variables, x)
    states = [h] * (network.residual.sum() + 1)
    for unit, own, gate in parts_of(network, variables):
        both = [unit.apply(own, h, False, method="split") for h in states]
        nothing = jnp.zeros_like(both[0][1])
        branches = [nothing, *(gate * f for _, f in both)]
        kept = [s + branches[k] for k, (s, _) in enumerate(both) if unit.residual]
        sums = kept or [f for _, f in both]
        states = [unit.apply(own, z, False, method="merge") for z in sums]
    return np.stack([network.run_head(variables, h)[0] for h in states])


def by_paths(network, variables, x):
    """Logits of the sums over all paths with at most k branches, from the Jacobians at the intact states.

    A path starts at the stem, or at the constant of a shortcut, a branch or what follows a sum.
    """
    h, _ = network.run_stem(variables, x)
    layers, start = [], np.asarray(h)
    for unit, own, gate in parts_of(network, variables):

        def jacobian(f, at):
            of_each = jax.vmap(jax.jacfwd(lambda v: f(v[None])[0]))(at)
            value = f(at)
            return np.asarray(of_each), np.asarray(value - jnp.einsum("bij,bj->bi", of_each, at))

        def split(x, i, unit=unit, own=own, gate=gate):
            return unit.apply(own, x, False, method="split")[i] * (gate if i else 1)

        def merge(z, unit=unit, own=own):
            return unit.apply(own, z, False, method="merge")

        s, s0 = jacobian(partial(split, i=0), h)
        f, f0 = jacobian(partial(split, i=1), h)
        z = split(h, 0) + split(h, 1)
        m, m0 = jacobian(merge, z)
        layers.append(((m @ s, np.einsum("bij,bj->bi", m, s0) + m0), (m @ f, np.einsum("bij,bj->bi", m, f0))))
        h = merge(z)
    n = len(layers)
    sums = np.zeros((n + 1, *h.shape))
    for source in range(n + 1):  # 0: the stem; i: a constant of unit i − 1
        for taken in itertools.product((0, 1), repeat=n - max(source - 1, 0)):
            rest, way = layers[max(source - 1, 0) :], list(taken)
            if source:
                value, rest = rest[0][way[0]][1], rest[1:]
                length, way = way[0], way[1:]
            else:
                value, length = start, 0
            for (shortcut, branch), step in zip(rest, way, strict=True):
                value = np.einsum("bij,bj->bi", (branch if step else shortcut)[0], value)
                length += step
            sums[length] += value
    return np.stack([network.run_head(variables, h)[0] for h in np.cumsum(sums, 0)])


KINDS = {
    "linear": [(Linear(4), 3), (Linear(5, projected=True), 1), (Linear(5), 1)],
    "affine": [(Linear(4, bias=True), 3), (Linear(5, bias=True, projected=True), 1)],
    "curved": [(Curved(4, bias=True), 3), (Curved(5, projected=True), 1), (Curved(5), 2)],
    "rectified": [(Rectified(4, bias=True), 4)],
    "stochastic depth": [(Curved(4), 3)],
    "some plain": [(Curved(4), 2), (Plain(5), 1), (Curved(5, bias=True), 1), (Plain(5), 2)],
}


@functools.cache
def kind(name):
    dropout = UnitDropout("linear", 3, survival=0.4) if name == "stochastic depth" else None
    return network_of(*KINDS[name], unit_dropout=dropout)


@pytest.mark.parametrize("name", slow_but(KINDS, "curved", "some plain"))
def test_nested_truncation_is_its_definition(name):
    network, variables = kind(name)
    found = truncated_logits(network, variables, images(), linear=False)
    np.testing.assert_allclose(found, by_definition(network, variables, images()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", slow_but(KINDS, "curved", "some plain"))
def test_with_all_lengths_it_is_the_network(name, linear):
    network, variables = kind(name)
    found = truncated_logits(network, variables, images(), linear=linear)
    logits = logits_of(network, variables, images())
    assert len(found) == network.residual.sum() + 1
    np.testing.assert_allclose(found[-1], logits, rtol=1e-12)
    assert np.abs(found[-2] - logits).max() > 1e-6


@pytest.mark.parametrize(
    "name", slow_but([name for name in KINDS if name != "some plain"], "affine", "curved")
)
def test_linearized_it_is_the_sum_over_all_paths_up_to_each_length(name):
    network, variables = kind(name)
    found = truncated_logits(network, variables, images(), linear=True)
    np.testing.assert_allclose(found, by_paths(network, variables, images()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", slow_but(["linear", "affine"], "affine"))
def test_both_agree_where_units_are_affine_and_only_there(name):
    both = [truncated_logits(*kind(name), images(), linear=linear) for linear in (False, True)]
    np.testing.assert_allclose(*both, rtol=1e-10, atol=1e-12)
    curved = [truncated_logits(*kind("curved"), images(), linear=linear) for linear in (False, True)]
    assert np.abs(curved[0][2] - curved[1][2]).max() > 1e-3


@pytest.mark.slow
def test_linearized_it_is_the_taylor_polynomial_in_the_gates_of_an_affine_network():
    network, variables = kind("affine")
    bare = dataclasses.replace(network, head=Copy())  # the polynomial is that of the last state

    def of(t):
        return bare.apply(variables, images(), gates=jnp.full(4, t)).logits

    value, term, derivative = jax.jit(of)(0.0), 1.0, of
    found = truncated_logits(bare, variables, images(), linear=True)
    for k in range(5):
        np.testing.assert_allclose(found[k], value, rtol=1e-9, atol=1e-9)
        derivative = jax.jacfwd(derivative)
        term /= k + 1
        value = value + term * jax.jit(derivative)(0.0)


class Copy(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x


@pytest.mark.slow
def test_without_a_branch_only_shortcuts_are_left():
    network, variables = kind("curved")
    gates = np.zeros(network.num_units)
    bare = logits_of(network, variables, images(), gates=gates)
    for linear in (False, True):
        found = truncated_logits(network, variables, images(), linear=linear)
        assert (np.abs(found[0] - bare).max() < 1e-12) == (not linear)  # softplus is linearized elsewhere
    one = network_of((Curved(4, bias=True), 1))
    gone = truncated_logits(*one, images(), linear=False)
    np.testing.assert_allclose(gone[0], logits_of(*one, images(), gates=np.zeros(1)), rtol=1e-12)
