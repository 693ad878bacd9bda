"""The forward pass with short paths only: every path through at most k branches, for all k at once.

*Question.* The gradient of a residual network is a sum over paths, sorted by length in ``path_exact``. The
forward pass is no such sum, because a branch is not linear. What is left of it when only short paths are
kept?

*Nested truncation.* Let x⁽ᵏ⁾ be a state that the image has reached through at most k branches in a row. The
branch of a unit adds one to the length of what it reads, so it reads x⁽ᵏ⁻¹⁾; the shortcut passes x⁽ᵏ⁾ on:

    x⁽ᵏ⁾  ←  m(s(x⁽ᵏ⁾) + f(x⁽ᵏ⁻¹⁾)),     x⁽⁰⁾ ← m(s(x⁽⁰⁾)),     x⁽ᵏ⁾ = stem at the start

with s, f, m the shortcut, the branch and what follows their sum. x⁽¹⁾ is the stem's output plus every branch
applied to it; x⁽ⁿ⁾ is the network, because in front of unit i at most i − 1 branches have run. Nothing is
approximated: every x⁽ᵏ⁾ is what a network computes whose longest chain has k branches. (Going from k to k + 1
is one step of Jacobi's iteration for the states of all units, with which Song et al. 2021 run layers in
parallel.)

*Linearized branches.* The same recursion with s, f and m replaced by their first-order expansions at the
states of the intact network. Then everything is affine, x⁽ᵏ⁾ − x⁽ᵏ⁻¹⁾ is exactly the sum over the paths that
cross k branches, and x⁽ᵏ⁾ is the Taylor polynomial of order k in a common factor t of all branches, at t = 1.
A branch's constant belongs to its paths: a bias that is added in a branch has crossed that branch. For ReLU
and BatchNorm with running statistics, the expansion is the network with the ReLUs' masks frozen.

For linear units both are the same, and the 2ⁿ paths can be enumerated. For others they differ: the linearized
one is given slopes at states that only the whole network computes, so its short paths know what long paths
found. It bounds what is *transported* along short paths, not what can be *computed* with them.

*What is not counted.* The stem, the head, shortcuts that transform (projections), and what follows the sum
(the last ReLU of a post-activation unit) are on every path. Units without a shortcut, too: they never
shorten a path.

*Cost.* With n residual units, n(n + 1)/2 evaluations of a branch, (n + 1)/2 forward passes; linearized, as
many products with a branch's Jacobian. Memory: n + 1 states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resjax.cpu.conv import transposed_twice
from resjax.network import Network, Variables
from resjax.network.periods import Place, scan_places
from resjax.network.unit import Unit


class Maps(NamedTuple):
    """The two functions of one unit: x → (shortcut, gated branch), and their sum → output."""

    split: Callable[[jax.Array], tuple[Any, jax.Array]]
    merge: Callable[[jax.Array], jax.Array]


def truncated_logits(network: Network, variables: Variables, images: Any, *, linear: bool) -> jax.Array:
    """Logits [n + 1, B, classes] of the forward pass with paths of at most k = 0 … n residual branches.

    Args:
      linear: with branches, shortcuts and what follows their sum linearized at the intact network's states.
        The head always runs as it is.
    """
    residual = network.residual
    before = (residual.cumsum() - residual).astype(np.int32)  # residual units in front of each
    variables = network.bound(variables, images)
    h, _ = network.run_stem(variables, images)
    rows = jnp.zeros((residual.sum() + 1, *h.shape), h.dtype).at[0].set(h)

    def step(place: Place, rows: jax.Array, own: Any) -> tuple[jax.Array, None]:
        unit, (part, gate, before) = place.stack.unit, own
        maps = _maps(unit, part, gate)
        if linear:  # row ``before`` has all paths so far, so it is the intact state
            maps = _linearized(maps, unit, lax.dynamic_index_in_dim(rows, before, keepdims=False))
        return _cross(maps, unit, rows, before), None

    places = network.places(variables)
    own = [(place.variables, place.gates, place.take(before)) for place in places]
    rows, _ = scan_places(places, step, rows, own)
    return lax.map(lambda h: network.run_head(variables, h)[0], rows)


def _maps(unit: Unit, part: Any, gate: jax.Array | None) -> Maps:
    def split(x: jax.Array) -> tuple[Any, jax.Array]:
        both: Any = unit.apply(part, x, False, method="split")
        s, f = both
        return s, (f if gate is None else gate.astype(f.dtype) * f)

    def merge(z: jax.Array) -> Any:
        return unit.apply(part, z, False, method="merge")

    return Maps(split, merge)


def _linearized(maps: Maps, unit: Unit, h: jax.Array) -> Maps:
    """First-order expansions of ``maps`` at the state ``h``."""
    s, f = maps.split(h)
    z = s + f if unit.residual else f
    y, push, push_sum = maps.merge(z), _pushforward(maps.split, h), _pushforward(maps.merge, z)

    def split(x: jax.Array) -> tuple[Any, jax.Array]:
        ds, df = push(x - h)
        return (s + ds if unit.residual else None), f + df

    return Maps(split, lambda v: y + push_sum(v - z))


def _pushforward(function: Callable[[jax.Array], Any], at: jax.Array) -> Callable[[jax.Array], Any]:
    """v → J v, as the transpose of the linear map c → Jᵀc: convolutions on CPUs have no forward mode."""
    with transposed_twice():
        output, pull = jax.vjp(function, at)
        transposed = jax.linear_transpose(lambda c: pull(c)[0], output)
    return lambda v: transposed(v)[0]


def _cross(maps: Maps, unit: Unit, rows: jax.Array, before: jax.Array) -> jax.Array:
    """Rows in front of a unit → rows behind it; rows 0 … ``before`` differ in front of it, the others are not
    read. A row is read before it is overwritten."""
    s, f = jax.eval_shape(maps.split, rows[0])
    shape = jax.eval_shape(maps.merge, f)
    room = rows if shape.shape == rows.shape[1:] else jnp.zeros((len(rows), *shape.shape), shape.dtype)

    def read(new: jax.Array, k: jax.Array) -> jax.Array:
        return lax.dynamic_index_in_dim(new if room is rows else rows, k, keepdims=False)

    if not unit.residual:

        def replace(k: jax.Array, new: jax.Array) -> jax.Array:
            return new.at[k].set(maps.merge(maps.split(read(new, k))[1]))

        return lax.fori_loop(0, before + 1, replace, room)

    def shift(k: jax.Array, state: tuple[jax.Array, Any, jax.Array]) -> tuple[jax.Array, Any, jax.Array]:
        new, _, shorter = state  # the branch of the row before, which has paths of one branch less
        s, f = maps.split(read(new, k))
        return new.at[k].set(maps.merge(s + shorter)), s, f

    start = (room, jnp.zeros(s.shape, s.dtype), jnp.zeros(f.shape, f.dtype))
    # The bound is traced: rows that no path has reached yet are not computed.
    new, s, f = lax.fori_loop(0, before + 1, shift, start)
    return new.at[before + 1].set(maps.merge(s + f))
