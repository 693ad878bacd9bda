"""The function without some of its units: only the equations and arrays that are left.

A unit's sum s + f becomes its shortcut s, as with a gate of 0, and what only f needed is not run. So the
arrays of the variables that nothing else reads can go.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from resjax.discovery.anatomy import Anatomy, Source
from resjax.discovery.program import Origin

_REMEDY = "give the variables that found.cut returned, or others of their form"


@dataclasses.dataclass(frozen=True, eq=False)
class CutFunction:
    """(variables, x) → logits of the units that are left.

    Attributes:
      source: the whole function.
      gone: indices of the units that were cut.
    """

    source: Source
    gone: frozenset[int]

    def __call__(self, variables: Any, x: Any) -> jax.Array:
        """Logits, for the variables that ``smaller`` gave, or others of their form, and an input like the
        example, of any batch size.

        Raises:
          ValueError: variables of another form.
        """
        arrays = self._arrays(variables)
        specs = [leaf.spec for leaf in self.source.given.leaves]
        dtypes: dict[Origin, Any] = {(i, ()): arrays.get(i, spec) for i, spec in enumerate(specs)}
        found = self.source.matching(0, dtypes, x, False)
        program, which = found.program, _needed(found, self.gone)
        leaves = dict(zip(program.leaves, program.origins, strict=True))
        known = {v: self._leaf(arrays, leaves[v]) for v in which.leaves}
        known.update(zip(program.inputs, jax.tree.leaves(x), strict=True))
        sums = {found.graph.maker[found.units[i].out]: found.units[i] for i in self.gone}
        for k in which.equations:
            if k in sums:
                value, sign = sums[k].shortcut
                shortcut = program.value(value, known)
                known[sums[k].out] = shortcut if sign > 0 else -shortcut
            else:
                program.run([k], known)
        return known[found.graph.out]

    def smaller(self, variables: Any) -> Any:
        """The user's pytree without what only the units that were cut read: None instead of an array, and a
        stacked array without their rows.

        Raises:
          ValueError: variables of another form than the function's.
        """
        given = self.source.given
        values = list(given.values)
        for leaf, rows, array in zip(given.leaves, self._rows, given.arrays(variables), strict=True):
            values[leaf.index] = array if rows is None else _taken(array, rows) if rows else None
        return jax.tree_util.tree_unflatten(given.tree, values)

    @functools.cached_property
    def _rows(self) -> list[tuple[int, ...] | None]:
        """For each array, the rows of its first axis that are left: None for all of them."""
        found, shapes = self.source.first, [leaf.spec.shape for leaf in self.source.given.leaves]
        origins = dict(zip(found.program.leaves, found.program.origins, strict=True))
        before, now = ({origins[v] for v in _needed(found, gone).leaves} for gone in ((), self.gone))

        def left(i: int) -> tuple[int, ...] | None:
            lost = {row[:1] for array, row in before if array == i} - {row[:1] for a, row in now if a == i}
            if () in lost:
                return ()
            return tuple(r for r in range(shapes[i][0]) if (r,) not in lost) if lost else None

        return [left(i) for i in range(len(shapes))]

    def _arrays(self, variables: Any) -> dict[int, Any]:
        """{number among all arrays: the array, without the rows of units that were cut}."""
        given = self.source.given
        left = {leaf.index: i for i, leaf in enumerate(given.leaves) if self._rows[i] != ()}
        absent = {leaf.index for leaf in given.leaves} - left.keys()
        places = [j for j in range(len(given.values)) if j not in absent]
        values = jax.tree.leaves(variables)
        if len(values) != len(places):
            raise ValueError(
                f"the variables have {len(values)} leaves, those of the cut function {len(places)}: {_REMEDY}"
            )
        arrays = {left[j]: value for j, value in zip(places, values, strict=True) if j in left}
        for i, array in arrays.items():
            leaf, rows = given.leaves[i], self._rows[i]
            shape = leaf.spec.shape if rows is None else (len(rows), *leaf.spec.shape[1:])
            if np.shape(array) != shape:
                raise ValueError(
                    f"the variables have {leaf.raw} of shape {list(np.shape(array))}, those of the cut "
                    f"function {list(shape)}: {_REMEDY}"
                )
        return arrays

    def _leaf(self, arrays: dict[int, Any], origin: Origin) -> Any:
        array, row = origin
        rows = self._rows[array]
        if not row:
            return arrays[array]
        first = row[0] if rows is None else rows.index(row[0])
        return arrays[array][(first, *row[1:])]


def _taken(array: Any, rows: Sequence[int]) -> Any:
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(rows), *array.shape[1:]), array.dtype)
    return array[np.array(rows)]


@dataclasses.dataclass(frozen=True)
class _Needed:
    equations: list[int]  # in order; those of the sums that become shortcuts are among them
    leaves: list[int]


def _needed(found: Anatomy, gone: Collection[int]) -> _Needed:
    """What the logits depend on when the units ``gone`` return their shortcuts."""
    program, maker = found.program, found.graph.maker
    shortcuts = {found.units[i].out: found.units[i].shortcut.value for i in gone}
    todo, seen = [found.graph.out], set[int]()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in shortcuts:
            todo.append(shortcuts[value])
        elif value in maker:
            todo += [v for v in program.nodes[maker[value]].ins if v is not None]
    equations = sorted({maker[value] for value in seen if value in maker})
    return _Needed(equations, [v for v in program.leaves if v in seen])


def chosen(names: Sequence[str], gone: Sequence[str]) -> frozenset[int]:
    """The indices of the units ``gone`` among all ``names``.

    Raises:
      ValueError: a name of no unit, or all of them.
    """
    for name in gone:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"there is no unit {name!r}.{hint} Allowed: {', '.join(names)}")
    if len(set(gone)) == len(names):
        raise ValueError(f"all {len(names)} units would be cut; leave at least one")
    return frozenset(names.index(name) for name in gone)
