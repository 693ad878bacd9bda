"""Names of units, from the paths of their parameters."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

Path = tuple[str, ...]


def common(paths: Iterable[Path]) -> Path:
    """What all paths begin with."""
    paths = list(paths)
    n = 0
    while paths and all(len(p) > n for p in paths) and len({p[n] for p in paths}) == 1:
        n += 1
    return paths[0][:n] if paths else ()


def beginning(paths: Sequence[Path], n: int) -> str:
    """What parts ``n`` of all paths begin with, if it is a numbered word: 'block0' of 'block0_conv1', …"""
    words = [path[n] for path in paths if len(path) > n]
    columns = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*words, strict=False))
    shared = "".join(letters[0] for letters in columns).rstrip("_.-") if len(words) == len(paths) else ""
    return shared if re.search(r"[a-zA-Z].*\d", shared) else ""


def layer_of(path: Path) -> Path:
    """The layer that a part belongs to: 'blocks/0' of 'blocks/0/attention', and of itself."""
    if path and not re.search(r"\d", path[-1]):
        indexed = [n for n in range(1, len(path)) if re.search(r"\d", path[n - 1])]
        return path[: indexed[-1]] if indexed else path
    return path


def same_layer(one: Path, other: Path) -> bool:
    """Whether two neighbouring units are parts of one layer, such as its attention and its MLP."""
    if one == other:
        return bool(one)
    if layer_of(one) == layer_of(other):
        return True
    siblings = len(one) == len(other) > 1 and one[:-1] == other[:-1]
    bases = [re.sub(r"[_\d]+$", "", path[-1]) for path in (one, other)]
    return siblings and all(bases) and bases[0] != bases[1] and bool(re.search(r"\d", "/".join(one[:-1])))


def unique(roots: Sequence[Path], parts: Sequence[Counter[str]]) -> list[str]:
    """Different names for units.

    Args:
      roots: what the paths of each unit's parameters begin with.
      parts: for each unit, the sizes of the modules below its root. Units of one root, attention and MLP, are
        called by their largest one.
    """
    # What all units have in front says nothing, but each name begins with a word.
    cut = min([len(common(roots)), *(len(root) - 1 for root in roots)])
    while cut > 0 and any(not re.search("[a-zA-Z]", root[cut]) for root in roots):
        cut -= 1
    often, names = Counter(roots), []
    for root, below in zip(roots, parts, strict=True):
        name = "/".join(root[max(cut, 0) :])
        if often[root] > 1 and below:
            name = "/".join(filter(None, (name, below.most_common(1)[0][0])))
        names.append(name or "unit")
    often_names, seen = Counter(names), Counter[str]()
    for i, name in enumerate(names):
        if often_names[name] > 1:  # they share their weights
            seen[name] += 1
            names[i] = f"{name}#{seen[name]}"
    return names
