"""Where the arrays of a user's variables stand in the variables of a ``Network``, and back.

Equal units form a class, whose arrays are stacked: row i belongs to the i-th unit of the class. An array that
several parts read (a tied embedding, a layer that runs twice) is stored once, with the stem, and is given to
the other parts as *context* when the network runs; so it has one gradient, the sum over its uses.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from resjax.discovery.anatomy import Anatomy, paths_of
from resjax.discovery.given import Given
from resjax.discovery.names import Path, common
from resjax.discovery.pieces import pieces_of, reads, signature
from resjax.discovery.program import Origin
from resjax.discovery.refusal import NotFound

COLLECTIONS = ("params", "batch_stats", "buffers")


@dataclasses.dataclass(frozen=True)
class Slot:
    """An array of a part: in ``collection`` at the path ``key``; ``origins`` one for each row of a class."""

    collection: str  # one of COLLECTIONS, or 'context'
    key: str
    origins: tuple[Origin, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Stem, head, or a class of units.

    Attributes:
      name: in the network's variables.
      units: indices of the units of a class; empty for stem and head.
      slots: its arrays.
      inputs: numbers of the inputs that it reads beside the state.
      random: whether it draws random numbers in training.
    """

    name: str
    units: tuple[int, ...]
    slots: tuple[Slot, ...]
    inputs: tuple[int, ...]
    random: bool

    @property
    def rows(self) -> int:
        return max(len(self.units), 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """All parts. ``homes`` says where each array is stored: {origin: (part, slot, row)}."""

    parts: tuple[Part, ...]
    homes: Mapping[Origin, tuple[str, Slot, int | None]]

    @property
    def classes(self) -> tuple[Part, ...]:
        return self.parts[1:-1]

    def of_unit(self, i: int) -> tuple[Part, int]:
        """The class of unit ``i``, and its row."""
        part = next(part for part in self.classes if i in part.units)
        return part, part.units.index(i)

    def stack(self, given: Given, variables: Any) -> dict[str, Any]:
        """The user's pytree as variables of the network; shapes and dtypes where it has only these."""
        arrays = given.arrays(variables)
        abstract = any(isinstance(array, jax.ShapeDtypeStruct) for array in arrays)
        if not abstract:
            return self._stacked(arrays)
        shapes: dict[str, Any] = jax.eval_shape(self._stacked, arrays)
        return shapes

    def _stacked(self, arrays: list[Any]) -> dict[str, Any]:
        flat: dict[str, dict[str, dict[str, Any]]] = {collection: {} for collection in COLLECTIONS[:2]}
        for part in self.parts:
            for slot in part.slots:
                if slot.collection == "context":
                    continue
                rows = [arrays[i][row] if row else arrays[i] for i, row in slot.origins]
                value = jnp.stack(rows) if part.units else jnp.asarray(rows[0])
                flat.setdefault(slot.collection, {}).setdefault(part.name, {})[slot.key] = value
        return {
            collection: {name: unflatten_dict(own, sep="/") for name, own in parts.items()}
            for collection, parts in flat.items()
        }

    def unstack(self, given: Given, variables: Mapping[str, Any]) -> Any:
        """Variables of the network as a pytree of the user's form; arrays that it does not use stay."""
        self.check(variables)
        arrays = [given.values[leaf.index] for leaf in given.leaves]
        values = {origin: stored(variables, home) for origin, home in self.homes.items()}
        return given.rebuild(filled(arrays, values))

    def check(self, variables: Any) -> None:
        """Raises a ``ValueError`` for variables that are not in the form of ``Found.variables``."""
        for part, slot, _ in self.homes.values():
            value, path = variables, (slot.collection, part, *slot.key.split("/"))
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is None:
                raise ValueError(
                    f"these are not the variables of found.network: nothing is at {'/'.join(path)}; give "
                    "found.variables, or found.stack(variables) of variables in the form of your function"
                )

    def context(self, variables: Mapping[str, Any], x: Any) -> dict[str, Any]:
        """{part: what it reads beside its own arrays and the state}, with rows for classes."""
        inputs, found = jax.tree.leaves(x), dict[str, Any]()
        for part in self.parts:
            own = {
                slot.key: _rows([stored(variables, self.homes[origin]) for origin in slot.origins], part)
                for slot in part.slots
                if slot.collection == "context"
            }
            if part.name != "stem":
                for i in part.inputs:
                    value = jnp.asarray(inputs[i])
                    own[input_key(i)] = (
                        jnp.broadcast_to(value, (part.rows, *value.shape)) if part.units else value
                    )
            if own:
                found[part.name] = unflatten_dict(own, sep="/")
        return found


def lay_out_gated(given: Given, found: Anatomy) -> Layout:
    """Where units are bypassed: each unit's own arrays, and all others with the stem."""
    program, parts = found.program, list[Part]()
    homes: dict[Origin, tuple[str, Slot, int | None]] = {}
    paths = dict(zip(program.origins, paths_of(given, program), strict=True))
    taken: set[int] = set()

    def slots_of(leaves: list[int]) -> tuple[Slot, ...]:
        own = [program.origins[v] for v in leaves]
        keys = _keys_of([paths[origin] for origin in own])
        return tuple(Slot(given.leaves[o[0]].kind, key, (o,)) for key, o in zip(keys, own, strict=True))

    for i, unit in enumerate(found.units):
        others = found.graph.leaves_of([k for k in found.graph.main if k not in unit.region])
        own = sorted(v for v in unit.leaves - others - taken)
        taken |= set(own)
        name, slots = _class_name(found.names[i]), slots_of(own)
        homes.update({slot.origins[0]: (name, slot, 0) for slot in slots})
        parts.append(Part(name, (i,), slots, (), False))
    rest = [v for v, value in enumerate(program.leaves) if found.graph.uses[value] and v not in taken]
    slots = slots_of(rest)
    homes.update({slot.origins[0]: ("stem", slot, None) for slot in slots})
    return Layout((Part("stem", (), slots, (), False), *parts, Part("head", (), (), (), False)), homes)


def filled(arrays: list[Any], values: Mapping[Origin, Any]) -> list[Any]:
    """``arrays`` of the user's variables with other ``values`` at some places."""
    rows: dict[int, dict[tuple[int, ...], Any]] = {}
    for (array, row), value in values.items():
        rows.setdefault(array, {})[row] = value
    return [_filled(array, rows[i]) if i in rows else array for i, array in enumerate(arrays)]


def input_key(i: int) -> str:
    """The name of input ``i`` in the context of a part."""
    return f"input {i}"


def stored(variables: Mapping[str, Any], home: tuple[str, Slot, int | None]) -> Any:
    """The array at its home in the network's variables."""
    part, slot, row = home
    value = functools.reduce(operator.getitem, slot.key.split("/"), variables[slot.collection][part])
    return value if row is None else value[row]


def lay_out(given: Given, found: Anatomy, train: Anatomy | None) -> Layout:
    """Classes of equal units, and the place of every array."""
    assert found.chain is not None
    modes = [found] if train is None else [found, train]
    n = len(found.units)
    needs = [_needs(modes, part) for part in range(n + 2)]
    signs = [tuple(signature(mode, i) for mode in modes) for i in range(n)]
    classes = [tuple(i for i in range(n) if signs[i] == sign) for sign in dict.fromkeys(signs)]
    readers = Counter(origin for arrays, _, _ in needs for origin in arrays)
    paths = dict(zip(found.program.origins, paths_of(given, found.program), strict=True))
    homes: dict[Origin, tuple[str, Slot, int | None]] = {}
    pieces = pieces_of(modes[-1])
    parts: list[Part] = []
    for name, units in [("stem", ()), *((_class_name(found.names[c[0]]), c) for c in classes), ("head", ())]:
        places = [i + 1 for i in units] or [0 if name == "stem" else n + 1]
        columns = list(zip(*(needs[p][0] for p in places), strict=True))
        keys = _keys_of([paths[column[0]] for column in columns])
        slots = []
        for key, column in zip(keys, columns, strict=True):
            tied = any(readers[origin] > 1 for origin in column) and name != "stem"
            updated = train is not None and any(origin in train.updates for origin in column)
            made = (o in piece.statistics for p, o in zip(places, column, strict=True) for piece in pieces[p])
            if tied and any(made):
                raise NotFound(
                    f"training mode makes new statistics at {'/'.join(paths[column[0]])}, which several "
                    "parts of the network read: give each unit statistics of its own"
                )
            kind = "batch_stats" if updated else given.leaves[column[0][0]].kind
            slots.append(Slot("context" if tied else kind, key, column))
            if not tied:
                homes.update({o: (name, slots[-1], row if units else None) for row, o in enumerate(column)})
        random = any(needs[p][2] for p in places)
        parts.append(Part(name, units, tuple(slots), tuple(needs[places[0]][1]), random))
    tied_only = [o for o in readers if o not in homes]
    extra = _keys_of([paths[o] for o in tied_only], [slot.key for slot in parts[0].slots])
    for origin, key in zip(tied_only, extra, strict=True):
        slot = Slot(given.leaves[origin[0]].kind, key, (origin,))
        homes[origin] = ("stem", slot, None)
        parts[0] = dataclasses.replace(parts[0], slots=(*parts[0].slots, slot))
    return Layout(tuple(parts), homes)


def _filled(array: Any, rows: Mapping[tuple[int, ...], Any]) -> Any:
    """``array`` with other rows, {index: row}; () is the whole array."""
    if () in rows:
        return rows[()]
    own: dict[int, dict[tuple[int, ...], Any]] = {}
    for (i, *rest), row in rows.items():
        own.setdefault(i, {})[tuple(rest)] = row
    return jnp.stack([_filled(array[i], own[i]) if i in own else array[i] for i in range(array.shape[0])])


def _needs(modes: Sequence[Anatomy], part: int) -> tuple[list[Origin], list[int], bool]:
    """What a part reads in any mode."""
    found = [reads(mode, pieces_of(mode)[part]) for mode in modes]
    arrays = list(dict.fromkeys(o for own, _, _ in found for o in own))
    inputs = list(dict.fromkeys(i for _, own, _ in found for i in own))
    return arrays, inputs, any(random for _, _, random in found)


def _rows(values: list[Any], part: Part) -> Any:
    return jnp.stack(values) if part.units else values[0]


def _class_name(unit: str) -> str:
    """Of a class, after its first unit. Stem and head keep their names."""
    name = unit.replace("/", ".")
    return f"unit.{name}" if name in ("stem", "head") else name


def _keys_of(paths: Sequence[Path], taken: Sequence[str] = ()) -> list[str]:
    """Names of arrays: what follows the common part of their paths, if they differ then."""
    shared = common(paths)
    cut = min([len(shared), *(len(path) - 1 for path in paths)]) if paths else 0
    keys, seen = [], Counter(taken)
    for path in paths:
        key = "/".join(path[cut:])
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return keys
