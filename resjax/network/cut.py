"""A network without some of its units: a smaller network, with the variables that are left.

``cut`` gives what a gate of 0 computes, up to rounding, without the branches that the gate removes. In most
networks nothing is left of a deleted unit. Where its shortcut changes the state (a projection, a padding, a
pooling, a gate), or an operation other than a ReLU follows the sum, these stay: the next unit, or the head,
begins with them (``Remnant``). With ``maps``, a ``Map`` stands in the place of each run of consecutive units
that were cut, behind what is left of them (``resjax.network.maps``).

A cut network is cut again like any other. What stood in front of a unit, a remnant or a map, stays when this
unit goes, too.

The units that stay are counted anew, so ``stage2/unit5`` may become ``stage2/unit3``.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import operator
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from resjax.network.example import one_example
from resjax.network.initial import variable_shapes
from resjax.network.maps import INITIAL, Map
from resjax.network.maps import check as check_maps
from resjax.network.network import Network, Variables
from resjax.network.parts import part_of
from resjax.network.unit import Stack, Unit, UnitInfo


class Remnant(nn.Module):
    """What is left of a unit without its branch: the shortcut, and what follows the sum."""

    unit: Unit

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.unit.skip(x, train)


class UnitAfter(Unit):
    """A unit that begins with what is left of the units cut in front of it, and with their map."""

    before: tuple[nn.Module, ...]  # each (x, train) → x
    unit: Unit

    @property
    def residual(self) -> bool:
        return self.unit.residual

    @property
    def rectified(self) -> bool:
        return self.unit.rectified

    def split(self, x: jax.Array, train: bool) -> tuple[Any, jax.Array]:
        return self.unit.split(_through(self.before, x, train), train)

    def merge(self, z: jax.Array, train: bool) -> jax.Array:
        return self.unit.merge(z, train)

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.unit.skip(_through(self.before, x, train), train)

    def in_front(self, x: jax.Array) -> jax.Array:
        """The state in front of the last of ``before``, such as a map."""
        return _through(self.before[:-1], x, False)

    def behind(self, x: jax.Array) -> jax.Array:
        """The state behind all of ``before``, the input of ``unit``."""
        return _through(self.before, x, False)


class HeadAfter(nn.Module):
    """A head that begins with what is left of the units cut in front of it, and with their map."""

    before: tuple[nn.Module, ...]
    head: nn.Module

    def __call__(self, h: jax.Array, train: bool) -> jax.Array:
        return self.head(_through(self.before, h, train), train)

    def in_front(self, h: jax.Array) -> jax.Array:
        """The state in front of the last of ``before``, such as a map."""
        return _through(self.before[:-1], h, False)


def beside_branch(path: Sequence[str]) -> bool:
    """Whether a layer with this path in its unit is on the shortcut. What is left of a unit in front of
    another one (``before_0``, …) is on both ways."""
    return "shortcut" in path and not any(key.startswith("before_") for key in path)


def _through(before: Sequence[nn.Module], x: jax.Array, train: bool) -> jax.Array:
    for module in before:
        x = module(x, train)
    return x


class _Left(NamedTuple):
    """A module in front of a unit or of the head, and the place of its variables in the network that is cut.

    They are at ``keys`` among those of ``unit``, which is None for a new map. There, the first ``inner`` of
    the keys that they have within ``module`` are absent.
    """

    module: nn.Module
    unit: UnitInfo | None = None
    keys: tuple[str, ...] = ()
    inner: int = 0


_Before = tuple[_Left, ...]


class _Piece(NamedTuple):
    """Units that stay and follow one another in a stack, and what stands in front of them: what is left of
    the units cut there, and a map. Only a single unit has such."""

    name: str
    stack: Stack
    units: tuple[UnitInfo, ...]
    before: _Before = ()

    @property
    def group(self) -> str:
        return "" if self.before else self.stack.group


def cut(network: Network, gone: Sequence[str], example: Any, maps: tuple[str, int] | None = None) -> Network:
    """``network`` without the units whose names are in ``gone``, for inputs like ``example``
    (``one_example``).

    Args:
      network: any.
      gone: names of units.
      example: an input.
      maps: kind and rank of the ``Map`` in the place of each run of consecutive units that are gone; None for
        no maps.

    Raises:
      ValueError: a unit does not exist or can't be deleted, no unit would be left, or no map is of this kind
        or rank.
    """
    if not gone:
        return network
    return _without(network, *_plan(network, gone, example, maps))


def _without(network: Network, pieces: list[_Piece], tail: _Before) -> Network:
    dropout = network.unit_dropout
    if dropout is not None:
        dropout = dropout.only([unit.index for piece in pieces for unit in piece.units])
    head = HeadAfter(_modules(tail), network.head) if tail else network.head
    return dataclasses.replace(network, stacks=_stacks(pieces), head=head, unit_dropout=dropout)


def cut_variables(
    network: Network,
    variables: Variables,
    gone: Sequence[str],
    example: Any,
    maps: tuple[str, int] | None = None,
) -> Variables:
    """The variables of ``cut(network, gone, example, maps)``, from those of ``network``; maps return their
    input.

    Raises:
      ValueError: as ``cut``.
    """
    if not gone:
        return variables
    pieces, tail = _plan(network, gone, example, maps)
    smaller = _without(network, pieces, tail)
    shapes = variable_shapes(smaller, example)
    sources: dict[str, list[_Piece]] = {stack.part: [] for stack in smaller.stacks}
    for piece, stack in zip(pieces, smaller.stacks, strict=True):
        sources[stack.part].append(piece)

    def value(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        collection, part, *keys = (key.key for key in path)
        if part == "stem" or (part == "head" and not tail):
            return _leaf(variables, collection, part, keys)
        before = tail if part == "head" else sources[part][0].before
        if not before:  # the rows of a group stay in their order
            units = sorted((unit for piece in sources[part] for unit in piece.units), key=lambda u: u.row)
            rows = np.array([unit.row for unit in units])
            return _leaf(variables, collection, units[0].part, keys)[rows]
        first, *keys = keys
        if first == "head":
            return _leaf(variables, collection, "head", keys)
        if first == "unit":
            unit = sources[part][0].units[0]
        else:  # before_0, before_1, …
            one = before[int(first.rpartition("_")[2])]
            if one.unit is None:
                return INITIAL[keys[0]](jax.random.key(0), leaf.shape, leaf.dtype)
            unit, keys = one.unit, [*one.keys, *keys[one.inner :]]
        row = _leaf(variables, collection, unit.part, keys)[unit.row]
        return row if part == "head" else row[None]

    return jax.tree_util.tree_map_with_path(value, shapes)


def _leaf(variables: Variables, collection: str, part: str, keys: Sequence[str]) -> Any:
    return reduce(operator.getitem, keys, variables[collection][part])


def _modules(before: _Before) -> tuple[nn.Module, ...]:
    # Flax shares the variables of a module that occurs twice, also within others.
    return tuple(copy.deepcopy(one.module) for one in before)


def _stacks(pieces: Sequence[_Piece]) -> tuple[Stack, ...]:
    rows: dict[str, list[int]] = {}  # {group: the rows that stay}
    for piece in pieces:
        if piece.group:
            rows.setdefault(piece.group, []).extend(unit.row for unit in piece.units)
    found = []
    for piece in pieces:
        unit, first = piece.stack.unit, piece.units[0].row
        if piece.before:
            unit = UnitAfter(_modules(piece.before), copy.deepcopy(unit))
        start = sum(row < first for row in rows.get(piece.group, ()))
        found.append(Stack(piece.name, unit, len(piece.units), piece.stack.stage, piece.group, start))
    return tuple(found)


def _plan(
    network: Network, gone: Sequence[str], example: Any, maps: tuple[str, int] | None
) -> tuple[list[_Piece], _Before]:
    """What stays, in order; and what stands between the last unit and the head."""
    if maps:
        check_maps(*maps)
    example = one_example(example)
    shapes = variable_shapes(network, example)
    checked = _checked(network, gone, shapes, example)
    inputs = _inputs(network, shapes, example)
    pieces: list[_Piece] = []
    before: _Before = ()
    last: UnitInfo | None = None  # the unit in front, if it is cut

    def with_map() -> _Before:
        return before if last is None or not maps else (*before, _Left(Map(*maps, last.stack.unit.rectified)))

    for stack, span in network.spans:
        name, run = stack.name, list[UnitInfo]()
        for unit in network.units[span]:
            if unit.name in checked:
                if maps:
                    _check_bound(network, unit, "a map")
                last, left = unit, _left_of(unit, shapes, inputs[unit.index])
                if left:
                    _check_bound(network, unit, "its shortcut, or what follows the sum,")
                if maps or left:
                    name = _close(pieces, stack, name, run, unit.position + 2)
                before = (*before, *left)
            elif before := with_map():
                pieces.append(_Piece(name, stack, (unit,), before))
                before, last, name = (), None, f"{stack.name}_{unit.position + 2}"
            else:
                last = None
                run.append(unit)
        _close(pieces, stack, name, run, 0)
    return pieces, with_map()


def _close(pieces: list[_Piece], stack: Stack, name: str, run: list[UnitInfo], following: int) -> str:
    """Moves the units of ``run`` into a piece; returns the name of the next piece of ``stack``."""
    if not run:
        return name
    pieces.append(_Piece(name, stack, tuple(run)))
    run.clear()
    return f"{stack.name}_{following}"


def _checked(network: Network, gone: Sequence[str], shapes: Variables, example: Any) -> set[str]:
    names = [unit.name for unit in network.units]
    for name in gone:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"there is no unit {name!r}.{hint} Allowed: {', '.join(names)}")
    deletable = network.deletable(shapes, example)
    for unit in network.units:
        if unit.name in gone and not deletable[unit.index]:
            allowed = ", ".join(u.name for u in network.units if deletable[u.index]) or "none"
            raise ValueError(
                f"{unit.name} can't be cut: it has no shortcut, and its output has another shape than its "
                f"input; allowed: {allowed}"
            )
    if len(set(gone)) == len(names):
        raise ValueError(f"all {len(names)} units would be cut; leave at least one")
    return set(gone)


def _check_bound(network: Network, unit: UnitInfo, what: str) -> None:
    # What ``bound`` gives to a part stands under the names of its variables, which would be others.
    if type(network).bound is not Network.bound:
        raise ValueError(
            f"{unit.name} can't be cut: {what} would join the next part, and "
            f"parts of {type(network).__name__} read more than the state (bound)"
        )


def whole(module: nn.Module) -> nn.Module:
    """A unit or head without what is left of the units that were cut in front of it."""
    while isinstance(module, UnitAfter | HeadAfter):
        module = module.unit if isinstance(module, UnitAfter) else module.head
    return module


def _inputs(network: Network, shapes: Variables, example: Any) -> list[jax.ShapeDtypeStruct]:
    """The shape of the input of each unit."""

    def states(variables: Variables, x: Any) -> list[jax.Array]:
        taps = network.apply(variables, x, tap=lambda parts: parts.x).taps
        return [taps[unit.stack.name][unit.position] for unit in network.units]

    return jax.eval_shape(states, shapes, example)


def _left_of(unit: UnitInfo, shapes: Variables, x: Any) -> _Before:
    """What is left of a cut unit with input ``x``: what stood in front of it, and a remnant of its own."""
    rows = part_of(shapes, unit.part)
    own = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), rows)
    module, left = unit.stack.unit, list[_Left]()
    keys: tuple[str, ...] = ()
    while isinstance(module, UnitAfter):
        left += [_Left(one, unit, (*keys, f"before_{i}")) for i, one in enumerate(module.before)]
        x = jax.eval_shape(partial(module.apply, method="behind"), own, x)
        module, keys = module.unit, (*keys, "unit")
        own = {collection: tree["unit"] for collection, tree in own.items() if "unit" in tree}
    if not _vanishes(unit.name, module, own, x):
        left.append(_Left(Remnant(module), unit, keys, inner=1))
    return tuple(left)


def _vanishes(name: str, module: Unit, own: Variables, x: Any) -> bool:
    """Whether a deleted unit returns its input. Refuses one whose remnant can't be told from its branch."""
    if module.vanishes is not None:
        return module.vanishes
    traced = jax.make_jaxpr(lambda v, x: module.apply(v, x, method="skip"))(own, x).jaxpr
    if traced.outvars[0] is traced.invars[-1]:
        return True
    key = jax.random.key(0)
    left = jax.eval_shape(lambda x: Remnant(module).init(key, x, train=False), x)
    if jax.tree.leaves(own) and len(jax.tree.leaves(left)) == len(jax.tree.leaves(own)):
        raise ValueError(
            f"{name} can't be cut: skip of {type(module).__name__} reads all variables of the unit, "
            "those of its branch too; override skip(x, train) so that it computes the shortcut alone"
        )
    return False
