"""Linen modules that run the equations of stem, units and head with variables of a network."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from resjax.discovery.anatomy import Anatomy, Source
from resjax.discovery.layout import Layout, Part, input_key
from resjax.discovery.pieces import pieces_of, run, signature
from resjax.discovery.program import Origin
from resjax.discovery.refusal import NotFound
from resjax.discovery.reports import report, watched
from resjax.network import Unit


class Code:
    """A found function and where its arrays are; equal only to itself, so that programs are compiled once."""

    def __init__(self, source: Source, layout: Layout) -> None:
        self.source, self.layout = source, layout
        self._checked: dict[int, Anatomy] = {}

    def check(self, found: Anatomy) -> None:
        """Refuses a trace, for other shapes or dtypes, in which units of one class differ.

        Raises:
          NotFound: units that had equal equations in the first trace and have different ones in this.
        """
        if id(found) in self._checked or found is self.source.first:
            return
        for part in self.layout.classes:
            if len({signature(found, i) for i in part.units}) > 1:
                names = ", ".join(found.names[i] for i in part.units[:6])
                raise NotFound(
                    f"the units {names} are equal with the example's batch size and dtypes, and differ with "
                    "these: fn must compute the same at every batch size and dtype, but for precision; "
                    "discover it with an example and variables of these dtypes"
                )
        self._checked[id(found)] = found


def _run_piece(
    module: nn.Module, code: Code, part: Part, place: int, half: int, state: Any, train: bool
) -> list[Any]:
    """Values of half ``half`` of part ``place``: what the stem, a unit or the head does to its state."""
    held = _flat(module.variables)
    arrays = _arrays(part, held)
    found = code.source.matching(place, arrays, state, train)  # traced in ``_traced`` before
    piece = pieces_of(found)[place][half]
    if place == 0:
        inputs = dict(zip(found.program.inputs, jax.tree.leaves(state), strict=True))
    else:
        numbers = found.program.inputs
        inputs = {numbers[i]: held["context"][input_key(i)] for i in part.inputs}
    key = module.make_rng("dropout") if train and part.random else None
    more = watched(code.source, found, place, half)
    values = run(found, piece._replace(ends=(*piece.ends, *more)), arrays, inputs, state, key)
    ends = values[: len(piece.ends)]
    report(code.source, found, place, half, part.units, values[len(ends) :])
    if train:
        news = dict(zip(piece.statistics, ends[len(ends) - len(piece.statistics) :], strict=True))
        keys = {slot.origins[0]: slot.key for slot in part.slots if slot.collection == "batch_stats"}
        own = held.get("batch_stats", {}) | {
            keys[origin]: new for origin, new in news.items() if origin in keys
        }
        for name, tree in unflatten_dict(own, sep="/").items():
            module.put_variable("batch_stats", name, tree)
    return ends[: len(ends) - len(piece.statistics)]


def _traced(code: Code, part: Part, place: int, variables: Any, args: Any, kwargs: Any) -> None:
    """Traces the function for these arguments, if it must be: not within a Linen module, since a function
    that makes Linen modules would then make submodules of it."""
    train = kwargs.get("train", any(a is True for a in args[1:]))
    arrays = _arrays(part, _flat(variables))
    code.check(code.source.matching(place, arrays, args[0] if args else kwargs["x"], train))


def _flat(variables: Any) -> dict[str, dict[str, Any]]:
    """{collection: {path: array}}."""
    return {collection: flatten_dict(tree, sep="/") for collection, tree in variables.items()}


def _arrays(part: Part, held: dict[str, dict[str, Any]]) -> dict[Origin, Any]:
    """The arrays of a part."""
    found = ((slot.origins[0], held.get(slot.collection, {}).get(slot.key)) for slot in part.slots)
    return {origin: array for origin, array in found if array is not None}


class TracedPart(nn.Module):
    """The stem (``place`` 0) or the head of a found network."""

    code: Code
    part: Part
    place: int

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """As that of any module."""
        _traced(self.code, self.part, self.place, variables, args, kwargs)
        return super().apply(variables, *args, **kwargs)

    def __call__(self, x: Any, train: bool) -> Any:
        return _run_piece(self, self.code, self.part, self.place, 0, x, train)[0]


class TracedUnit(Unit):
    """A class of units of a found network, run by the equations of its first."""

    code: Code
    part: Part

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """As that of any module."""
        _traced(self.code, self.part, self.part.units[0] + 1, variables, args, kwargs)
        return super().apply(variables, *args, **kwargs)

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        i = self.part.units[0]
        unit = self.code.source.first.units[i]
        return unit.parts(_run_piece(self, self.code, self.part, i + 1, 0, x, train))

    def merge(self, z: jax.Array, train: bool) -> jax.Array:
        return _run_piece(self, self.code, self.part, self.part.units[0] + 1, 1, z, train)[0]
