"""The traced function with gates on the branches of its residual sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resjax.discovery.anatomy import Source, casts
from resjax.discovery.program import Origin, Program
from resjax.discovery.units import Addend, Sum


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
    given, inputs = source.given, jax.tree.leaves(x)
    specs = jax.tree.leaves(given.example)
    if len(inputs) != len(specs):
        raise ValueError(f"the input has {len(inputs)} arrays, the example had {len(specs)}")
    cast = casts((leaf.spec.dtype, v.dtype) for leaf, v in zip(given.leaves, arrays, strict=True))
    cast_x = casts((spec.dtype, v.dtype) for spec, v in zip(specs, inputs, strict=True))
    found = source.anatomy(int(inputs[0].shape[0]), cast, cast_x, train)
    n = len(found.units)
    if gates is not None and jnp.shape(gates) != (n,):
        raise ValueError(f"gates have shape {list(jnp.shape(gates))}; this network has {n} units: [{n}]")
    program = found.program
    known = dict(zip(program.leaves, program.leaf_values(arrays), strict=True))
    known.update(zip(program.inputs, inputs, strict=True))
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
    new = {origin: _value(program, known, value) for origin, value in found.updates.items()}
    return known[found.graph.out], new


def _value(program: Program, known: Mapping[int, Any], value: int) -> Any:
    return known[value] if value in known else program.constants[value]


def _gated(program: Program, unit: Sum, known: Mapping[int, Any], gate: Any) -> jax.Array:
    def signed(addend: Addend) -> Any:
        value = _value(program, known, addend.value)
        return value if addend.sign > 0 else -value

    intact, branches = known[unit.out], [signed(a) for a in unit.branches]
    branch = sum(branches[1:], branches[0])
    gate = jnp.asarray(gate, intact.dtype)
    return jnp.where(gate == 1, intact, signed(unit.shortcut) + gate * branch)
