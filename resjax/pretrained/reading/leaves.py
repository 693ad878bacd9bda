"""The tensors and plain values in a recorded checkpoint, by full name, and where an object stands in it."""

from collections.abc import Callable, Iterator
from typing import Any

from resjax.pretrained.reading.meanings import meaning
from resjax.pretrained.reading.pickles import Made, TorchFileError

_DEPTH = 64
_VISITS = 200_000
_SHORT = 16
_PLAIN = bool | int | float | str


def leaves(root: Any) -> Iterator[tuple[str, Any]]:
    """(full name, value) of every tensor, array, number, text and short list of those two.

    The keys of nested dicts and the positions in lists that hold more than plain values are joined with dots.

    Raises:
      TorchFileError: the file is nested too deeply, or repeats itself without end.
    """
    visits = iter(range(_VISITS))

    def walk(recorded: Any, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
        if next(visits, None) is None or len(above) > _DEPTH:
            raise TorchFileError(f"it has more than {_VISITS:,} entries or is nested {_DEPTH} deep")
        if id(recorded) in above:  # a container in itself
            return
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


def place_of(root: Any, is_it: Callable[[Any], bool]) -> str:
    """The full name of the first entry that contains an object, itself in other objects or not.

    "" stands for the root, and for an object that the file makes and drops.
    """
    waiting, seen = [(root, "")], {id(root)}
    while waiting:
        thing, name = waiting.pop()
        if is_it(thing):
            return name
        parts: list[tuple[Any, str]] = []
        if isinstance(thing, Made):
            parts = [(part, name) for part in (thing.name, *thing.args, thing.state, *thing.items)]
            thing = thing.pairs
        if isinstance(thing, list | tuple):
            parts = [(part, name) for part in thing]
        elif isinstance(thing, dict):
            parts += [(value, f"{name}.{key}" if name else str(key)) for key, value in thing.items()
                      if isinstance(key, _PLAIN)]  # fmt: skip
        for part in reversed(parts):
            if id(part[0]) not in seen:
                seen.add(id(part[0]))
                waiting.append(part)
    return ""
