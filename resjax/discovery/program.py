"""A traced function as one flat list of equations.

Calls (jit, remat) are inlined. A scan over layers, that is, over arrays that do not depend on the input, is
unrolled: each row of a stacked parameter becomes a leaf of its own. Functions with a derivative of their own
(``custom_jvp``, ``custom_vjp``) stay whole, so that derivatives stay the user's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax

_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_lin"}


Origin = tuple[int, tuple[int, ...]]
"""An array of the variables, by its number among them, and the index of a row, () for the whole array."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One equation: ``ins`` are values, None for literals; ``label`` is the innermost function around it."""

    eqn: Any
    ins: tuple[int | None, ...]
    outs: tuple[int, ...]
    label: str
    debug_info: Any

    @property
    def name(self) -> str:
        return str(self.eqn.primitive.name)

    @property
    def word(self) -> str:
        """What a person would call it: the function it came from, or its own name."""
        inner = self.eqn.params.get("call_jaxpr")
        if inner is None or not self.name.startswith("custom"):
            return self.label or self.name
        names = [str(e.params["name"]) for e in inner.jaxpr.eqns if "name" in e.params]
        return next((n for n in [*names, self.label] if n.isidentifier()), self.name)

    @functools.cached_property
    def alone(self) -> tuple[Any, list[int]]:
        """The equation as a jaxpr, and which of its inputs that takes."""
        own = list(dict.fromkeys(v for v in self.eqn.invars if not isinstance(v, jex.Literal)))
        jaxpr = jex.Jaxpr(
            (), own, list(self.eqn.outvars), [self.eqn], self.eqn.effects, debug_info=self.debug_info
        )
        return jaxpr, [self.eqn.invars.index(v) for v in own]

    def run(self, args: list[Any]) -> list[Any]:
        jaxpr, taken = self.alone
        return list(jax.core.eval_jaxpr(jaxpr, (), *(args[i] for i in taken)))


@dataclasses.dataclass(eq=False)
class Program:
    """Equations over numbered values.

    Attributes:
      avals: shape and dtype of each value.
      nodes: the equations, in an order in which they can be run.
      constants: arrays that the function brought itself, {value: array}.
      leaves: values of the variables' arrays, followed by rows of stacked ones.
      origins: of each of ``leaves``.
      inputs: values of the arrays of ``x``.
      key: value of the random key, or None.
      outs: values of the results, ``out_tree`` their structure.
      scans: numbers of the arrays that each unrolled scan runs over.
      rows: {stacked result of an unrolled scan: the values of its rows}.
      whole: numbers of the arrays whose rows are no leaves of their own.
      casts: {leaf in another dtype: (the leaf, the dtype)}.
    """

    avals: list[Any] = dataclasses.field(default_factory=list)
    nodes: list[Node] = dataclasses.field(default_factory=list)
    constants: dict[int, Any] = dataclasses.field(default_factory=dict)
    leaves: list[int] = dataclasses.field(default_factory=list)
    origins: list[Origin] = dataclasses.field(default_factory=list)
    inputs: list[int] = dataclasses.field(default_factory=list)
    key: int | None = None
    outs: list[int] = dataclasses.field(default_factory=list)
    out_tree: Any = None
    scans: list[list[int]] = dataclasses.field(default_factory=list)
    rows: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    whole: frozenset[int] = frozenset()
    casts: dict[int, tuple[int, Any]] = dataclasses.field(default_factory=dict)

    def new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def constant(self, array: Any) -> int:
        value = self.new(jax.typeof(array))
        self.constants[value] = array
        return value

    def leaf_values(self, arrays: list[Any]) -> list[Any]:
        """The values of ``leaves``, of the variables' arrays."""
        return [arrays[i][row] if row else arrays[i] for i, row in self.origins]

    def value(self, value: int, known: Mapping[int, Any]) -> Any:
        """The array of a value: among ``known``, or a constant."""
        return known[value] if value in known else self.constants[value]

    def run(self, which: Iterable[int], known: dict[int, Any]) -> dict[int, Any]:
        """Runs equations in order; ``known`` {value: array} is completed and returned."""
        for k in which:
            node = self.nodes[k]
            args = [None if v is None else self.value(v, known) for v in node.ins]
            known.update(zip(node.outs, node.run(args), strict=True))
        return known


def flatten(fn: Callable[..., Any], arrays: list[Any], x: Any, *key: Any) -> Program:
    """The program of ``fn(arrays, x, *key)``; arguments are arrays, or their shapes and dtypes."""
    traced = jax.make_jaxpr(fn, return_shape=True)(arrays, x, *key)
    program = _flat(*traced, len(arrays), len(key), frozenset())
    # An array that is also used as a whole is one leaf, so that each number has one place. So is one of which
    # some row is used as a whole, and by rows.
    used = _used(program)
    read = {origin for v, origin in zip(program.leaves, program.origins, strict=True) if v in used}
    wholes = {(i, row[:n]) for i, row in read for n in range(len(row))}
    mixed = frozenset(i for i, _ in read & wholes)
    return _flat(*traced, len(arrays), len(key), mixed) if mixed else program


def _flat(closed: Any, shape: Any, num_arrays: int, num_keys: int, whole: frozenset[int]) -> Program:
    program = Program(whole=whole)
    ins = [program.new(v.aval) for v in closed.jaxpr.invars]
    program.leaves, program.inputs = ins[:num_arrays], ins[num_arrays : len(ins) - num_keys]
    program.key = ins[-1] if num_keys else None
    program.origins = [(i, ()) for i in range(num_arrays)]
    program.out_tree = shape
    varying = set(program.inputs)  # what depends on the input
    program.outs = _inline(program, varying, closed, ins, "")
    return program


def _used(program: Program) -> set[int]:
    """The values on which some result depends."""
    used = set(program.outs)
    for node in reversed(program.nodes):
        if used.intersection(node.outs):
            used.update(v for v in node.ins if v is not None)
    return used


def _inline(program: Program, varying: set[int], closed: Any, args: list[int], label: str) -> list[int]:
    jaxpr, constants = (closed.jaxpr, closed.consts) if isinstance(closed, jex.ClosedJaxpr) else (closed, ())
    values = dict(zip(jaxpr.constvars, map(program.constant, constants), strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(v: Any) -> int | None:
        return None if isinstance(v, jex.Literal) else values[v]

    def value(v: Any) -> int:
        found = read(v)
        return program.constant(np.asarray(v.val, v.aval.dtype)) if found is None else found

    debug_info = jaxpr.debug_info.with_unknown_names()
    for eqn in jaxpr.eqns:
        inner, own = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")), tuple(map(read, eqn.invars))
        if eqn.primitive.name in _CALLS and inner is not None:
            called = str(eqn.params.get("name", ""))
            name = called if called.isidentifier() else label
            outs = _inline(program, varying, inner, list(map(value, eqn.invars)), name)
        elif _over_layers(program, varying, eqn, own):
            outs = _unroll(program, varying, eqn, list(map(value, eqn.invars)), label)
        elif (row := _row_taken(program, eqn, own)) is not None:
            outs = [_row(program, varying, *row)]
        else:
            outs = [program.new(v.aval) for v in eqn.outvars]
            program.nodes.append(Node(eqn, own, tuple(outs), label, debug_info))
            if eqn.primitive.name == "convert_element_type" and own[0] in program.leaves:
                program.casts[outs[0]] = own[0], eqn.params["new_dtype"]
            if varying.intersection(own):
                varying.update(outs)
        values.update(zip(eqn.outvars, outs, strict=True))
    return list(map(value, jaxpr.outvars))


def _over_layers(program: Program, varying: set[int], eqn: Any, ins: tuple[int | None, ...]) -> bool:
    """Whether it is a scan over floats that do not depend on the input: parameters of layers."""
    if eqn.primitive.name != "scan" or not _counts(eqn)[1]:
        return False
    xs = [v for v in ins[sum(_counts(eqn)) :] if v is not None]
    floats = any(jnp.issubdtype(program.avals[v].dtype, jnp.floating) for v in xs)
    return floats and not varying.intersection(xs)


def _counts(eqn: Any) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are its carry.

    Its parameters differ between releases of JAX. What it runs over has one axis more outside.
    """
    inner = eqn.params["jaxpr"]

    def rows(outside: Any, inside: Any) -> int:
        return sum(len(v.aval.shape) > len(a.shape) for v, a in zip(outside, inside, strict=True))

    carry = len(eqn.outvars) - rows(eqn.outvars, inner.out_avals)
    return len(eqn.invars) - carry - rows(eqn.invars, inner.in_avals), carry


def _unroll(program: Program, varying: set[int], eqn: Any, ins: list[int], label: str) -> list[int]:
    p = eqn.params
    first, count = _counts(eqn)
    constants, carry, xs = ins[:first], ins[first : first + count], ins[first + count :]
    turns = list(range(p["length"]))[:: -1 if p["reverse"] else 1]
    arrays = [program.casts.get(v, (v, None))[0] for v in xs]
    program.scans.append([program.origins[program.leaves.index(v)][0] for v in arrays if v in program.leaves])
    rows: dict[int, list[int]] = {}
    for i in turns:
        own = [_row(program, varying, v, i) for v in xs]
        outs = _inline(program, varying, p["jaxpr"], [*constants, *carry, *own], label)
        carry, rows[i] = outs[:count], outs[count:]
    stacked = []
    for column in zip(*(rows[i] for i in range(p["length"])), strict=True):
        stack = jax.make_jaxpr(lambda *v: jnp.stack(v))(*(program.avals[v] for v in column))
        stacked += _inline(program, varying, stack, list(column), label)
        program.rows[stacked[-1]] = list(column)
    return [*carry, *stacked]


def _row(program: Program, varying: set[int], value: int, i: int) -> int:
    """Row ``i`` of what a scan runs over: of a leaf, a leaf of its own, also behind a change of the dtype."""
    if value in program.casts:
        leaf, dtype = program.casts[value]
        row = _row(program, varying, leaf, i)
        cast = jax.make_jaxpr(lambda v: lax.convert_element_type(v, dtype))(program.avals[row])
        return _inline(program, varying, cast, [row], "")[0]
    take = jax.make_jaxpr(lambda v: lax.index_in_dim(v, i, 0, keepdims=False))(program.avals[value])
    array, outer = program.origins[program.leaves.index(value)] if value in program.leaves else (-1, ())
    if array < 0 or array in program.whole:
        return _inline(program, varying, take, [value], "")[0]
    origin = (array, (*outer, i))
    if origin not in program.origins:
        program.leaves.append(program.new(take.out_avals[0]))
        program.origins.append(origin)
    return program.leaves[program.origins.index(origin)]


def _row_taken(program: Program, eqn: Any, ins: tuple[int | None, ...]) -> tuple[int, int] | None:
    """(leaf, row) where an equation makes row i of a leaf: ``leaf[i]`` is a slice, and a squeeze of it."""
    if eqn.primitive.name != "squeeze" or eqn.params["dimensions"] != (0,) or not program.nodes:
        return None
    before = next((node for node in reversed(program.nodes[-64:]) if ins[0] in node.outs), None)
    leaf = None if before is None or before.name != "slice" else before.ins[0]
    source = program.casts.get(leaf, (leaf, None))[0]  # type: ignore[arg-type]
    if before is None or leaf is None or source not in program.leaves:
        return None
    if program.origins[program.leaves.index(source)][0] in program.whole:
        return None
    p, shape = before.eqn.params, before.eqn.invars[0].aval.shape
    if shape[0] == 1:  # its only row is the whole array, which newer releases of JAX do not slice
        return None
    i = p["start_indices"][0]
    whole = (i + 1, *shape[1:]) == p["limit_indices"] and not any(p["start_indices"][1:])
    return (leaf, i) if whole and not set(p["strides"] or (1,)) - {1} else None


def jaxprs_in(eqn: Any) -> Iterator[Any]:
    """The ``Jaxpr`` and ``ClosedJaxpr`` that an equation calls."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jex.Jaxpr | jex.ClosedJaxpr):
                yield item
