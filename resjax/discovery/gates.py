"""The traced function with gates on the branches of its residual sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resjax.discovery.anatomy import Source, casts
from resjax.discovery.program import Program
from resjax.discovery.units import Addend, Sum


def run_gated(source: Source, arrays: list[Any], x: Any, gates: jax.Array | None) -> jax.Array:
    """Logits; a sum s + f becomes s + gate · f. With a gate of 1 it stays as the function computed it.

    Args:
      source: the function.
      arrays: of the user's variables.
      x: input, a pytree like the example.
      gates: float [units], or None.

    Raises:
      ValueError: another number of gates, or an input of another structure or shape than the example's.
    """
    given, inputs = source.given, source.given.inputs(x)
    specs = jax.tree.leaves(given.example)
    cast = casts((leaf.spec.dtype, v.dtype) for leaf, v in zip(given.leaves, arrays, strict=True))
    cast_x = casts((spec.dtype, v.dtype) for spec, v in zip(specs, inputs, strict=True))
    found = source.anatomy(int(inputs[0].shape[0]), cast, cast_x)
    n = len(found.units)
    if gates is not None and jnp.shape(gates) != (n,):
        raise ValueError(f"gates have shape {list(jnp.shape(gates))}; this network has {n} units: [{n}]")
    program = found.program
    known = dict(zip(program.leaves, program.leaf_values(arrays), strict=True))
    known.update(zip(program.inputs, inputs, strict=True))
    if gates is None:
        program.run(found.graph.main, known)
        return known[found.graph.out]
    sums = {found.graph.maker[unit.out]: (i, unit) for i, unit in enumerate(found.units)}
    for k in found.graph.main:
        program.run([k], known)
        if k in sums:
            i, unit = sums[k]
            known[unit.out] = _gated(program, unit, known, gates[i])
    return known[found.graph.out]


def _gated(program: Program, unit: Sum, known: Mapping[int, Any], gate: Any) -> jax.Array:
    def signed(addend: Addend) -> Any:
        value = known[addend.value] if addend.value in known else program.constants[addend.value]
        return value if addend.sign > 0 else -value

    intact, branches = known[unit.out], [signed(a) for a in unit.branches]
    branch = sum(branches[1:], branches[0])
    return _sum(jnp.asarray(gate, intact.dtype), intact, signed(unit.shortcut), branch)


@jax.custom_jvp
def _sum(gate: jax.Array, intact: jax.Array, shortcut: jax.Array, branch: jax.Array) -> jax.Array:
    return jnp.where(gate == 1, intact, shortcut + gate * branch)


@_sum.defjvp
def _sum_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    # At a gate of 1, too, the derivative by the gate is the branch.
    gate, _, _, branch = primals
    by_gate, _, by_shortcut, by_branch = tangents
    return _sum(*primals), by_shortcut + gate * by_branch + by_gate * branch
