"""The tensors and plain values in a recorded checkpoint, by full name, and where an object stands in it."""

from collections.abc import Callable, Iterator
from typing import Any

from resjax.pretrained.reading.meanings import meaning
from resjax.pretrained.reading.pickles import Made, TorchFileError

_DEPTH = 64
_VISITS = 200_000
_QUICK = 16  # entries of a list of numbers take the time of one other entry
_CHARACTERS = 20_000_000  # of all names together
_SHORT = 16
_LONGEST = 200  # characters of a name in a message
_PLAIN = bool | int | float | str


def leaves(root: Any) -> Iterator[tuple[str, Any]]:
    """(full name, value) of every tensor, array, number, text and short list of those two.

    The keys of nested dicts and the positions in lists that hold more than plain values are joined with dots.

    Raises:
      TorchFileError: the file is nested too deeply, or repeats itself without end.
    """
    visits, characters = 0, 0

    def walk(recorded: Any, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
        nonlocal visits, characters
        if id(recorded) in above:  # a container in itself
            return
        # A file can repeat a long list or name at no cost.
        visits += 1 + _length(recorded) // _QUICK
        characters += len(name)
        if visits > _VISITS or len(above) > _DEPTH:
            raise TorchFileError(f"it has more than {_VISITS:,} entries or is nested {_DEPTH} deep")
        if characters > _CHARACTERS:
            raise TorchFileError(f"the names of its entries have more than {_CHARACTERS:,} characters")
        thing = meaning(recorded)
        if isinstance(thing, list | tuple):
            if all(isinstance(part, _PLAIN) for part in thing):
                if 0 < len(thing) <= _SHORT:
                    yield name, tuple(thing)
                return
            thing = dict(enumerate(thing))
        if isinstance(thing, dict):
            for key, value in thing.items():
                if isinstance(key, _PLAIN):
                    yield from walk(value, f"{name}.{key}" if name else str(key), (*above, id(recorded)))
        elif thing is not None and not isinstance(thing, bytes | bytearray):
            yield name, thing

    return walk(root, "", ())


def _length(recorded: Any) -> int:
    """How many entries an object has, or is made of."""
    if isinstance(recorded, Made):
        parts = (recorded.args, *recorded.args[:_SHORT], recorded.state, recorded.items, recorded.pairs)
    else:
        parts = (recorded,)
    return sum(len(part) for part in parts if isinstance(part, list | tuple | dict))


def place_of(root: Any, is_it: Callable[[Any], bool]) -> str:
    """The full name of the first entry that contains an object, itself in other objects or not.

    "" stands for the root, and for an object that the file makes and drops. Long names are cut.
    """
    waiting: list[tuple[Any, _Place]] = [(root, None)]
    seen = {id(root)}
    while waiting:
        thing, place = waiting.pop()
        if is_it(thing):
            return _joined(place)
        parts: list[tuple[Any, _Place]] = []
        if isinstance(thing, Made):
            parts = [(part, place) for part in (thing.name, *thing.args, thing.state, *thing.items)]
            thing = thing.pairs
        if isinstance(thing, list | tuple):
            parts = [(part, place) for part in thing]
        elif isinstance(thing, dict):
            parts += [(value, (key, place)) for key, value in thing.items() if isinstance(key, _PLAIN)]
        for part in reversed(parts):
            if id(part[0]) not in seen:
                seen.add(id(part[0]))
                waiting.append(part)
    return ""


# The key of an entry, and the place of the entry that contains it.
_Place = tuple[bool | int | float | str, "_Place"] | None


def _joined(place: _Place) -> str:
    keys = []
    while place:
        key, place = place
        keys.append(str(key)[:_LONGEST])
    return ".".join(keys[: -_DEPTH - 1 : -1])[:_LONGEST]
