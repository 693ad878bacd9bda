"""The traced function with gates on the branches of its residual sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resjax.discovery.anatomy import Source
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
      ValueError: another number of gates, or an input of another structure than the example's.
    """
    found = source.matching(0, {(i, ()): array for i, array in enumerate(arrays)}, x, train=False)
    n = len(found.units)
    if gates is not None and jnp.shape(gates) != (n,):
        raise ValueError(f"gates have shape {list(jnp.shape(gates))}; this network has {n} units: [{n}]")
    program = found.program
    known = dict(zip(program.leaves, program.leaf_values(arrays), strict=True))
    known.update(zip(program.inputs, jax.tree.leaves(x), strict=True))
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
    gate = jnp.asarray(gate, intact.dtype)
    return jnp.where(gate == 1, intact, signed(unit.shortcut) + gate * branch)
