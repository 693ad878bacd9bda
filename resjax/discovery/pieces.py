"""Stem, halves of units, and head as lists of equations that can be run and compared.

A unit has two halves: from its state to the addends of its sum (split), and from the sum to the next state
(merge). In training mode a half also computes the new running statistics of its normalizations.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from resjax.discovery.anatomy import Anatomy
from resjax.discovery.digests import digest, text_of
from resjax.discovery.graph import SIGNAL
from resjax.discovery.program import Origin
from resjax.discovery.refusal import NotFound


class Piece(NamedTuple):
    """Equations ``which``, from the signal ``start`` (None: the input) to the values ``ends``.

    ``sides`` are the equations of side values that they need, ``keys`` the random keys, and ``statistics``
    the arrays whose new values are the last of ``ends``.
    """

    which: tuple[int, ...]
    sides: tuple[int, ...]
    start: int | None
    ends: tuple[int, ...]
    keys: tuple[int, ...]
    statistics: tuple[Origin, ...]


@functools.lru_cache(maxsize=64)
def pieces_of(found: Anatomy) -> tuple[tuple[Piece, ...], ...]:
    """The stem, the two halves of each unit, and the head."""
    graph, statistics, pieces = found.graph, _owners(found), dict[tuple[int, int], Piece]()
    for at, (which, start, ends) in _halves(found).items():
        own = tuple(statistics.get(at, ()))
        news = [found.updates[origin] for origin in own]
        tops = [] if start is None else [start]
        whole = sorted({*which, *(k for v in news for k in graph.back_to(tops, v))})
        keys = _keys(found, whole)
        sides = graph.sides(whole, keys)
        pieces[at] = Piece(tuple(whole), tuple(sides), start, (*ends, *news), tuple(keys), own)
    for at, counters in _counted(found, pieces).items():
        one, news = pieces[at], [found.updates[origin] for origin in counters]
        sides = sorted({*one.sides, *graph.before(news)})
        pieces[at] = one._replace(
            sides=tuple(sides), ends=(*one.ends, *news), statistics=(*one.statistics, *counters)
        )
    return tuple(
        tuple(piece for _, piece in own)
        for _, own in itertools.groupby(pieces.items(), lambda item: item[0][0])
    )


def _halves(found: Anatomy) -> dict[tuple[int, int], tuple[list[int], int | None, list[int]]]:
    """{(part, half): its equations, the signal that they start from, and their results}, in order."""
    chain, states = found.chain, found.chain.states if found.chain else ()
    assert chain is not None
    halves: dict[tuple[int, int], Any] = {(0, 0): (chain.stem, None, [states[0]])}
    for i, unit in enumerate(chain.units):
        addends = [a.value for a in unit.addends]
        halves[i + 1, 0] = (chain.splits[i], states[i], addends)
        halves[i + 1, 1] = (chain.merges[i], unit.out, [states[i + 1]])
    halves[len(chain.units) + 1, 0] = (chain.head, states[-1], [found.graph.out])
    return halves


def _counted(found: Anatomy, pieces: Mapping[tuple[int, int], Piece]) -> dict[tuple[int, int], list[Origin]]:
    """{(part, half): counters that it updates}. Counters of steps depend on no signal.

    They are updated where they are read; in the stem, if several parts read them, or none.
    """
    graph, counted = found.graph, dict[tuple[int, int], list[Origin]]()
    leaves = dict(zip(found.program.leaves, found.program.origins, strict=True))
    readers: dict[Origin, list[tuple[int, int]]] = {
        o: [] for o, v in found.updates.items() if graph.level[v] < SIGNAL
    }
    for at, piece in pieces.items() if readers else ():
        read = {leaves[v] for k in (*piece.sides, *piece.which) for v in graph.ins(k) if v in leaves}
        for origin in readers.keys() & read:
            readers[origin].append(at)
    for origin, places in sorted(readers.items()):
        alone = len({part for part, _ in places}) == 1
        counted.setdefault(places[0] if alone else (0, 0), []).append(origin)
    return counted


def run(
    found: Anatomy, piece: Piece, arrays: Mapping[Origin, Any], inputs: Any, state: Any, key: Any
) -> list[Any]:
    """The values of ``piece.ends``.

    Args:
      found: the trace that has the shapes and dtypes of what is given.
      piece: of it.
      arrays: those that the piece reads.
      inputs: {value of an input: array}.
      state: the value of ``piece.start``.
      key: a random key, from which the piece's keys are made, or None.
    """
    program = found.program
    known = {
        v: arrays[o] for v, o in zip(program.leaves, program.origins, strict=True) if o in arrays
    } | dict(inputs)
    if piece.start is not None:
        known[piece.start] = state
    if program.key is not None and key is not None:
        known[program.key] = key
        for j, value in enumerate(piece.keys):
            shape, own = program.avals[value].shape, jax.random.fold_in(key, j)
            known[value] = jax.random.split(own, shape) if shape else own
    program.run(sorted({*piece.sides, *piece.which}), known)
    return [program.value(v, known) for v in piece.ends]


def reads(found: Anatomy, pieces: Iterable[Piece]) -> tuple[list[Origin], list[int], bool]:
    """Arrays in the order of first use, inputs (by number) beside the state, and whether keys are needed."""
    program = found.program
    leaves = dict(zip(program.leaves, program.origins, strict=True))
    numbers = {v: i for i, v in enumerate(program.inputs)}
    arrays: dict[Origin, None] = {}
    inputs: dict[int, None] = {}
    random = False
    for piece in pieces:
        for k in sorted({*piece.sides, *piece.which}):
            for v in program.nodes[k].ins:
                if v in leaves:
                    arrays.setdefault(leaves[v])
                elif v in numbers:
                    inputs.setdefault(numbers[v])
                random = random or (v is not None and v == program.key)
        random = random or bool(piece.keys)
        arrays.update(dict.fromkeys(o for o in piece.statistics if o not in arrays))
        for v in piece.ends:
            if v in leaves:
                arrays.setdefault(leaves[v])
    return list(arrays), list(inputs), random


def signature(found: Anatomy, i: int) -> str:
    """A digest that is equal for units that differ in the values of their leaves alone."""
    program, lines, number = found.program, list[str](), dict[int, str]()
    unit = found.units[i]
    signs = [a.sign for a in unit.addends]
    for half, piece in enumerate(pieces_of(found)[i + 1]):
        assert piece.start is not None
        number[piece.start] = "start"
        number.update({v: f"key {j}" for j, v in enumerate(piece.keys)})
        for k in sorted({*piece.sides, *piece.which}):
            node = program.nodes[k]
            for v in node.ins:
                if v is not None and v not in number:
                    number[v] = _outside(found, v, len(number))
            number.update({v: f"{half} {len(number)} {j}" for j, v in enumerate(node.outs)})
            lines.append(f"{text_of(node)} {[number[v] for v in node.ins if v is not None]}")
        lines.append(str([number.get(v, "?") for v in piece.ends]))
    aval = program.avals[pieces_of(found)[i + 1][0].start or 0]
    return hashlib.sha256("\n".join([*lines, str(signs), str(aval)]).encode()).hexdigest()


def _outside(found: Anatomy, value: int, number: int) -> str:
    program = found.program
    if value in program.constants:
        return digest(program.constants[value])
    return f"input {program.inputs.index(value)}" if value in program.inputs else f"leaf {number}"


def _keys(found: Anatomy, which: list[int]) -> list[int]:
    """The keys from which the equations ``which`` draw, in order, as far as they are made of the program's
    key.

    A network gives each unit a key of its own, of which these are made anew: so units are equal although the
    function made their keys in different ways.
    """
    program, made = found.program, found.from_key
    if not made:
        return []
    keys: dict[int, None] = {}
    for k in sorted({*found.graph.sides(which), *which}):
        for v in program.nodes[k].ins:
            if v is None or v not in made or program.nodes[k].name != "random_bits":
                continue
            if jax.dtypes.issubdtype(program.avals[v].dtype, jax.dtypes.prng_key):
                keys.setdefault(v)
    return list(keys)


def _owners(found: Anatomy) -> dict[tuple[int, int], list[Origin]]:
    """{(part, half): arrays whose new statistics it computes}."""
    chain, graph = found.chain, found.graph
    assert chain is not None
    ends = {unit.out: (i + 1, 1) for i, unit in enumerate(chain.units)}
    ends |= {state: (i + 1, 0) for i, state in enumerate(chain.states)}
    owners: dict[tuple[int, int], list[Origin]] = {}
    for origin, value in found.updates.items():
        if graph.level[value] < SIGNAL:
            continue
        reached = graph.reached(graph.back_to(list(ends), value)) | ({value} & set(ends))
        at = {ends[v] for v in reached if v in ends} or {(0, 0)}
        if len(at) > 1:
            raise NotFound(
                "new statistics of training mode depend on the states of several units, not on one"
            )
        owners.setdefault(at.pop(), []).append(origin)
    return owners
