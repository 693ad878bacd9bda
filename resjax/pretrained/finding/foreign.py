"""Names of no known layout: what a file holds, briefly, and what to do about it."""

from collections.abc import Iterable, Sequence

from resjax.pretrained.finding.proposal import by_number, propose
from resjax.pretrained.layouts.recognition import KNOWN, MARKERS
from resjax.pretrained.reading.files import Tensors

_LINES = 24  # of a listing
_PARTS = 40  # in a line of it


def refusal(tensors: Tensors, renamed: bool) -> str:
    """Why none of ``tensors`` is used, what their names are, and a table that may rename them.

    ``renamed`` says that they had other names in the file.
    """
    also = ", even after renaming" if renamed else ""
    lines = [
        f"its {len(tensors)} tensors have names of no known layout{also}:",
        *(f"  {line}" for line in outline(tensors)),
        f"Known are {KNOWN}.",
    ]
    rules = propose(tensors)
    if rules:
        chain = any("features" in rule.replacement for rule in rules)  # of a VGG
        plain = "  # A network without shortcuts needs --config.model.shortcut=none, too."
        new = "save this table as names.txt, correct it, and use --names=names.txt"
        todo = "add these lines to the table of --names, and correct them" if renamed else new
        lines += [
            f"If it is one of these networks with names of its own, {todo}:",
            "  # PATTERN -> REPLACEMENT, regular expressions for the full name",
            *(f"  {rule}" for rule in rules),
            *([] if chain else [plain]),
        ]
    else:
        others = [marker for marker in MARKERS if not any(name.endswith(marker) for name in tensors)]
        lines.append(
            "If it is one of these networks with names of its own, write a table of lines PATTERN -> "
            r"REPLACEMENT (regular expressions, such as ^block1\.(\d+)\. -> layer1.\1.) and use --names=FILE."
            f" Every known layout has one of {', '.join(others)}."
        )
    return "\n".join(lines)


def outline(tensors: Tensors) -> list[str]:
    """The names in a few lines, such as ``convs.{0…26}.conv1.{weight, bias}``, with the shapes of the first
    and the last weight. Modules whose names differ by numbers only share a line."""
    leaves: dict[str, list[str]] = {}
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        leaves.setdefault(module, []).append(leaf)
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for module, own in leaves.items():
        form = tuple("#" if part.isdecimal() else part for part in module.split("."))
        groups.setdefault((form, tuple(own)), []).append(module)
    lines = []
    for (_, of_each), modules in groups.items():
        own = list(of_each)
        columns = zip(*(module.split(".") for module in modules), strict=True)
        path = ".".join(map(_merged, columns))
        leaf = own[0] if len(own) == 1 else f"{{{_list(own)}}}"
        first = "weight" if "weight" in own else own[0]
        in_order = sorted(modules, key=by_number)
        shapes = [tensors[".".join(filter(None, (module, first)))].shape for module in in_order]
        shown = " to ".join(map(str, dict.fromkeys((shapes[0], shapes[-1]))))
        lines.append(f"{'.'.join(filter(None, (path, leaf)))}  {shown}")
    if len(lines) > _LINES:
        half = _LINES // 2
        lines[half:-half] = [f"… {len(lines) - 2 * half} more …"]
    return lines


def _merged(column: Iterable[str]) -> str:
    """One part of several names: the same in all, or numbers."""
    parts = list(dict.fromkeys(column))
    if len(parts) == 1:
        return parts[0]
    numbers = sorted(map(int, parts))
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}…{numbers[-1]}}}"
    return f"{{{_list(numbers)}}}"


def _list(parts: Sequence[object]) -> str:
    """Some parts of names, with the number of others."""
    more = [f"{len(parts) - _PARTS:,} more"] if len(parts) > _PARTS else []
    return ", ".join([*map(str, parts[:_PARTS]), *more])
