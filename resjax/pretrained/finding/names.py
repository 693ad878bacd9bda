"""Renaming foreign tensors with a table of regular expressions.

A table has a line for each change, ``PATTERN -> REPLACEMENT``::

    # the stem
    ^conv0\\. -> conv1.
    ^convs\\.([0-8])\\. -> layer1.\\1.
    ^convs\\.(9|1[0-7])\\. -> layer2.\\1.

Each line is ``re.sub(PATTERN, REPLACEMENT, name)`` of the full names in the file, with everything that
precedes them (``state_dict.module.``). It replaces what the pattern matches, anywhere in the name unless
``^`` or ``$`` says otherwise, and leaves the rest. The lines apply in order, each to what the one before has
made. The replacement ``DROP`` leaves the tensor out. Lines that begin with ``#`` are comments.

Afterwards the units of each stage (``layer2.9``, ``layer2.10``, …) are counted again from 0.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from resjax.data.files import read_bytes
from resjax.pretrained.reading.files import Tensors, under

DROP = "DROP"
_UNIT = re.compile(r"((?:.*\.)?layer\d+\.)(\d+)(?=\.)")


class Rule(NamedTuple):
    """A line of a table."""

    pattern: str
    replacement: str
    place: str  # where it stands, for messages

    def __str__(self) -> str:
        return f"{self.pattern} -> {self.replacement}"


def read_table(table: str | Path | Mapping[str, str]) -> tuple[Rule, ...]:
    """The lines of the file ``table``, or of a dictionary from patterns to replacements.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it has no line, or a line that is none of a table.
    """
    if isinstance(table, Mapping):
        return tuple(Rule(old, new, f"names[{old!r}]") for old, new in table.items())
    file = Path(table).expanduser()
    try:
        lines = read_bytes(file).decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--names={table}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--names={table} is no text in UTF-8; a line is PATTERN -> REPLACEMENT") from error
    rules = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = re.split(r"\s+->\s*", line.strip(), maxsplit=1)
        if len(parts) != 2:
            raise ValueError(
                f"{table}, line {number}: {line.strip()!r} has no arrow; a line is PATTERN -> REPLACEMENT, "
                r"such as ^conv0\. -> conv1."
            )
        rules.append(Rule(parts[0], parts[1], f"{table}, line {number}"))
    if not rules:
        raise ValueError(f"--names={table} has no line PATTERN -> REPLACEMENT")
    return tuple(rules)


def renamed(tensors: Tensors, rules: Iterable[Rule]) -> Tensors:
    """``tensors`` with the names that the table gives them.

    Raises:
      ValueError: a line is no regular expression or matches no name, nothing is renamed, or two tensors get
        one name.
    """
    return under(tensors, new_names(tensors, rules))


def new_names(names: Iterable[str], rules: Iterable[Rule]) -> dict[str, str]:
    """{new name: present name}; the errors are those of ``renamed``."""
    now = {name: name for name in names}  # {present name: new name}
    before = list(now)
    for rule in rules:
        now = _apply(rule, now)
    now = _counted(now)
    if list(now.items()) == [(name, name) for name in before]:
        raise ValueError("the table of names changes no name")
    new: dict[str, str] = {}
    for old, name in now.items():
        if name in new:
            raise ValueError(f"the table of names gives one name, {name}, to both {new[name]} and {old}")
        new[name] = old
    return new


def _apply(rule: Rule, names: dict[str, str]) -> dict[str, str]:
    try:
        pattern = re.compile(rule.pattern)
        matched = {old for old, name in names.items() if pattern.search(name)}
        if rule.replacement == DROP:
            changed = {old: name for old, name in names.items() if old not in matched}
        else:
            changed = {old: pattern.sub(rule.replacement, name) for old, name in names.items()}
    except re.error as error:
        raise ValueError(f"{rule.place}: {str(rule)!r} is no regular expression: {error}") from error
    if not matched:
        first = ", ".join(list(names.values())[:5])
        raise ValueError(f"{rule.place}: {rule.pattern!r} matches none of {len(names)} names, {first}, …")
    return changed


def _counted(names: dict[str, str]) -> dict[str, str]:
    """``names`` with the units of each stage counted from 0, in the order of their numbers."""
    numbers: dict[str, set[int]] = {}
    for name in names.values():
        if match := _UNIT.match(name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
    ranks = {stage: {n: i for i, n in enumerate(sorted(found))} for stage, found in numbers.items()}

    def counted(name: str) -> str:
        match = _UNIT.match(name)
        return f"{match[1]}{ranks[match[1]][int(match[2])]}{name[match.end() :]}" if match else name

    return {old: counted(name) for old, name in names.items()}
