"""The traced function with gates on the branches of its residual sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resjax.discovery.anatomy import Source
from resjax.discovery.program import Origin, Program
from resjax.discovery.units import Sum


def run_gated(
    source: Source,
    arrays: list[Any],
    x: Any,
    gates: jax.Array | None,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[jax.Array, dict[Origin, Any]]:
    """Logits, and in training mode the new statistics {array: value}.

    A sum s + f becomes s + gate · f. With a gate of 1 it stays as the function computed it.

    Args:
      source: the function.
      arrays: of the user's variables.
      x: input, a pytree like the example.
      gates: float [units], or None.
      train: whether the function is run in training mode.
      key: random key for it.

    Raises:
      ValueError: another number of gates, an input of another structure than the example's, or no key where
        one is needed.
    """
    found = source.matching(0, {(i, ()): array for i, array in enumerate(arrays)}, x, train)
    n = len(found.units)
    if gates is not None and jnp.shape(gates) != (n,):
        raise ValueError(f"gates have shape {list(jnp.shape(gates))}; this network has {n} units: [{n}]")
    program = found.program
    known = dict(zip(program.leaves, program.leaf_values(arrays), strict=True))
    known.update(zip(program.inputs, jax.tree.leaves(x), strict=True))
    which = sorted({*found.graph.main, *found.graph.before(found.updates.values())})
    if key is not None and program.key is not None:
        known[program.key] = key
    elif program.key is not None and any(program.key in program.nodes[k].ins for k in which):
        raise ValueError("this network draws random numbers in training: pass key=")
    sums = {}
    if gates is not None:
        sums = {found.graph.maker[unit.out]: (unit, gates[i]) for i, unit in enumerate(found.units)}
    for k in which:
        program.run([k], known)
        if k in sums:
            unit, gate = sums[k]
            known[unit.out] = _gated(program, unit, known, gate)
    new = {origin: program.value(value, known) for origin, value in found.updates.items()}
    return known[found.graph.out], new


def _gated(program: Program, unit: Sum, known: Mapping[int, Any], gate: Any) -> jax.Array:
    intact = known[unit.out]
    shortcut, branch = unit.parts(program.value(a.value, known) for a in unit.addends)
    return _sum(jnp.asarray(gate, intact.dtype), intact, shortcut, branch)


@jax.custom_jvp
def _sum(gate: jax.Array, intact: jax.Array, shortcut: jax.Array, branch: jax.Array) -> jax.Array:
    return jnp.where(gate == 1, intact, shortcut + gate * branch)


@_sum.defjvp
def _sum_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    # At a gate of 1, too, the derivative by the gate is the branch.
    gate, _, _, branch = primals
    by_gate, _, by_shortcut, by_branch = tangents
    return _sum(*primals), by_shortcut + gate * by_branch + by_gate * branch
