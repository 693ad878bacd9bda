"""Running a pickle without importing or calling anything.

A pickle is a program for a small machine with a stack. The machine of the standard library imports whatever
the program names and calls it, so a "checkpoint" can run code on the computer that opens it. The machine here
only records. A name becomes a ``Name``, a call becomes a ``Made`` with the name, its arguments and what was
then set on it, and only dicts, lists, tuples, numbers and texts are what they are. No attribute is looked up
or set. ``stand_ins`` says which names are accepted and what their records stand for.

The memory that is needed grows with the length of the file, whatever the file says about itself, and the
number of instructions is limited, since one byte can make an object of hundreds.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn


class TorchFileError(ValueError):
    """The file is damaged, of another format, or refers to something that is refused."""


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A class or function of Python that a pickle refers to."""

    module: str
    name: str

    def __str__(self) -> str:
        text = f"{self.module}.{self.name}"
        return text if text.isprintable() else ascii(text)


@dataclasses.dataclass(eq=False, slots=True)
class Made:
    """What calling ``name`` with ``args`` would have made, and what would have been put in it."""

    name: Name
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = dataclasses.field(default_factory=list)
    pairs: dict[Any, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Recorded:
    """The object of a pickle, and every name in it."""

    found: Any
    names: list[Name]


_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Made(Name("builtins", "set")),
}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"}
# Instructions that make no container.
_SMALL = _CONSTANTS | _MEMO | {"NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "FRAME", "PROTO"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Before protocol 4, getattr(CLASS, "member") is how a pickle writes the name CLASS.member.
_GETATTR = (Name("builtins", "getattr"), Name("__builtin__", "getattr"))
_LONGEST_NAME = 1000
# Saving a tensor takes some 30 instructions, of which some 12 make tuples, dicts and records.
_INSTRUCTIONS, _OBJECTS = 3_000_000, 1_000_000
_LAST_OF_MEMO = 1 << 32
_LONGEST_TOLD = 100
# What can be compared, hashed and printed in little time, unlike containers of containers.
PLAIN = str | int | float | bytes | None
# Below it, Python's hashes of whole numbers differ: a dict of numbers with one hash takes the square of its
# length.
_HASHED = (1 << 61) - 1


def record(stream: Any, persistent: Callable[[Any], Any]) -> Recorded:
    """Runs the pickle at the position of ``stream`` (with ``read``, ``readline`` and ``tell``).

    Args:
      stream: is left behind the pickle's end.
      persistent: from a persistent id to what it stands for.

    Raises:
      TorchFileError: a step of the program has no meaning here.
      ValueError, IndexError, KeyError, UnicodeError, struct.error: the pickle is damaged.
    """
    machine = _Machine(persistent)
    objects = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        objects += opcode.name not in _SMALL
        if number >= _INSTRUCTIONS or objects > _OBJECTS:
            _damaged(
                f"it has more than {_INSTRUCTIONS:,} instructions or makes more than {_OBJECTS:,} objects"
            )
        machine.step(opcode.name, argument)
    return Recorded(machine.pop(), machine.names)


class _Machine:
    """The stack, what lies below each mark on it, and the memo."""

    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: list[Name] = []
        self.persistent = persistent

    def pop(self) -> Any:
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """Pops everything above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def name(self, module: Any, name: Any) -> Name:
        if not (isinstance(module, str) and isinstance(name, str)) or len(module) + len(name) > _LONGEST_NAME:
            _damaged("a name that is no text or too long")
        found = Name(module, name)
        if found not in _GETATTR:  # refused where it is called with anything but a class
            self.names.append(found)
        return found

    def step(self, opcode: str, argument: Any) -> None:
        """One instruction; their meaning is that of ``pickletools.dis``."""
        push = self.stack.append
        if opcode in _CONSTANTS:
            return push(argument)
        if opcode in _NEW:
            return push(_NEW[opcode]())
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if not 0 <= argument < _LAST_OF_MEMO:
                    _damaged("a number of its memo is too large")
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "TUPLE":
                items = self.marked()
                self.stack.append(tuple(items))
            case "LIST":
                items = self.marked()
                self.stack.append(items)
            case "DICT":
                items = self.marked()
                self.stack.append(dict(_pairs(items)))
            case "FROZENSET":
                items = self.marked()
                self.stack.append(Made(Name("builtins", "frozenset"), (items,)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = _TUPLES[opcode]
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "POP":
                if self.stack:
                    self.pop()
                else:
                    self.marked()
            case "POP_MARK":
                self.marked()
            case "DUP":
                push(self.stack[-1])
            case "APPEND":
                item = self.pop()
                _append(self.stack[-1], [item])
            case "APPENDS" | "ADDITEMS":
                items = self.marked()
                _append(self.stack[-1], items)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                _set(self.stack[-1], [key, value])
            case "SETITEMS":
                items = self.marked()
                _set(self.stack[-1], items)
            case "PERSID":
                push(self.persistent(argument))
            case "BINPERSID":
                push(self.persistent(self.pop()))
            case _:
                self.make(opcode, argument)

    def make(self, opcode: str, argument: Any) -> None:
        """An instruction that names, calls or changes an object."""
        match opcode:
            case "GLOBAL":
                made: Any = self.name(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                name, module = self.pop(), self.pop()
                made = self.name(module, name)
            case "REDUCE" | "NEWOBJ":
                args, called = self.pop(), self.pop()
                made = self.call(called, args)
            case "NEWOBJ_EX":
                _, args, called = self.pop(), self.pop(), self.pop()
                made = self.call(called, args)
            case "INST":
                args = tuple(self.marked())
                made = self.call(self.name(*argument.split(" ", 1)), args)
            case "OBJ":
                called, *rest = self.marked()
                made = self.call(called, tuple(rest))
            case "BUILD":
                state = self.pop()
                made = self.pop()
                if not isinstance(made, Made):
                    _damaged(f"it sets attributes of {_kind(made)}")
                made.state = state
            case _:
                _damaged(f"its instruction {opcode} is not used in checkpoints")
        self.stack.append(made)

    def call(self, called: Any, args: Any) -> Made | Name:
        """What a call would have made."""
        if not isinstance(called, Name) or not isinstance(args, tuple):
            _damaged(f"it calls {_kind(called)}")
        if called in _GETATTR:
            match args:
                case (Name(module, name), str(member)):
                    return self.name(module, f"{name}.{member}")
            self.names.append(called)
        return Made(called, args)


def told(thing: Any) -> str:
    """A part of a pickle in a message. Never all that a container holds: one that holds another twice, which
    holds a third twice, and so on, would be endless."""
    return repr(thing)[:_LONGEST_TOLD] if isinstance(thing, PLAIN) else _kind(thing)


def _append(target: Any, items: list[Any]) -> None:
    if isinstance(target, Made):
        target.items.extend(items)
    elif isinstance(target, list):
        target.extend(items)
    else:
        _damaged(f"it appends to {_kind(target)}")


def _set(target: Any, items: list[Any]) -> None:
    if isinstance(target, Made):
        target.pairs.update(_pairs(items))
    elif isinstance(target, dict):
        target.update(_pairs(items))
    else:
        _damaged(f"it sets entries of {_kind(target)}")


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, Name | Made) or is_key(key):
            yield key, value
        elif isinstance(key, int | tuple) and all(isinstance(part, PLAIN) for part in _parts(key)):
            yield Made(Name("builtins", "tuple"), _parts(key)), value  # is no name of an entry
        else:
            _damaged(f"{_kind(key)} is the key of a dict")


def is_key(thing: Any) -> bool:
    """Whether a dict with such keys takes no more time than its length, whatever they are."""
    return isinstance(thing, PLAIN) and not (isinstance(thing, int) and abs(thing) >= _HASHED)


def _parts(key: int | tuple[Any, ...]) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _kind(thing: Any) -> str:
    if isinstance(thing, Name):
        return str(thing)
    return str(thing.name) if isinstance(thing, Made) else f"a {type(thing).__name__}"


def _damaged(why: str) -> NoReturn:
    raise TorchFileError(f"it is no plain pickle: {why}")
