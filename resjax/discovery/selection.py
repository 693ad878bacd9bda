"""Which residual sums are units: the outermost ones, those of a layer together, or those that are named."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence

from resjax.discovery import names
from resjax.discovery.graph import Graph
from resjax.discovery.names import Path
from resjax.discovery.refusal import NotFound
from resjax.discovery.units import Sum, join

GRAINS = ("sum", "layer")


def outermost(sums: Sequence[Sum]) -> list[Sum]:
    """Those that are in no other one's region."""
    inside = Counter(k for one in sums for k in one.region)
    by_maker = {one.out: one for one in sums}
    return [one for one in by_maker.values() if inside[_last(one)] == 1]


def selected(
    graph: Graph,
    sums: list[Sum],
    paths: Sequence[Path],
    sizes: Sequence[int],
    grain: str,
    boundaries: Sequence[str],
) -> list[Sum]:
    """The units.

    Args:
      graph: of the program.
      sums: all residual sums in order, nested ones included.
      paths: of the program's leaves; ``sizes`` their numbers of parameters.
      grain: 'sum' or 'layer'.
      boundaries: paths of parameters, with wildcards; each is one unit.

    Raises:
      NotFound: boundaries that fit no sum, or sums of a layer that do not follow each other directly.
    """
    if boundaries:
        return _within(graph, sums, paths, boundaries, named(sums, paths, sizes))
    chosen = outermost(sums)
    if grain == "sum" or not chosen:
        return chosen
    groups = [[chosen[0]]]
    for one in chosen[1:]:
        if names.same_layer(root_of(groups[-1][-1], paths), root_of(one, paths)):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [_joined(graph, group, paths) for group in groups]


def root_of(one: Sum, paths: Sequence[Path]) -> Path:
    """What the paths of a unit's leaves begin with, without the array's own name."""
    own = [paths[i] for i in sorted(one.leaves)]
    root = names.common(own)
    if len(own) == 1 and len(root) > 1 and not root[-1].isdigit():
        return root[:-1]
    word = names.beginning(own, len(root))
    return (*root, word) if word else root


def named(units: Sequence[Sum], paths: Sequence[Path], sizes: Sequence[int]) -> list[str]:
    """Names of units; ``sizes`` are numbers of parameters of the leaves."""
    roots = [root_of(one, paths) for one in units]
    below = []
    for one, root in zip(units, roots, strict=True):
        inside: Counter[str] = Counter()
        for i in one.leaves:
            if len(paths[i]) > len(root) + 1:
                inside[paths[i][len(root)]] += sizes[i]
        below.append(inside)
    return names.unique(roots, below)


def _last(one: Sum) -> int:
    return max(one.region)


def _within(
    graph: Graph, sums: list[Sum], paths: Sequence[Path], boundaries: Sequence[str], names_of: Sequence[str]
) -> list[Sum]:
    """The units of ``boundaries`` in the order of their sums: paths of their parameters, or names."""
    found: list[tuple[int, Sum]] = []
    roots = ["/".join(root_of(one, paths)) for one in sums]
    # A boundary with a wildcard stands for each path that it matches.
    groups: dict[str, list[Sum]] = {}
    for boundary in boundaries:
        parts = boundary.removeprefix("params/").strip("/").split("/")
        before = len(groups)
        for one, *known in zip(sums, roots, names_of, strict=True):
            for own in (text.split("/") for text in known):
                if len(own) >= len(parts) and all(map(fnmatch.fnmatchcase, own, parts)):
                    groups.setdefault("/".join(own[: len(parts)]), []).append(one)
                    break
        if len(groups) == before:
            raise NotFound(
                f"boundaries={boundary!r} fits no residual sum; the parameters of those that were found are "
                f"at {', '.join(dict.fromkeys(roots)) or 'no path'}"
            )
    for own_sums in groups.values():
        unit = _joined(graph, outermost(own_sums), paths)
        found.append((unit.out, unit))
    return [unit for _, unit in sorted(found, key=lambda item: item[0])]


def _joined(graph: Graph, group: list[Sum], paths: Sequence[Path]) -> Sum:
    unit = join(graph, group)
    if unit is None:
        where = " and ".join("/".join(root_of(one, paths)) for one in group)
        raise NotFound(
            f"the residual sums of {where} can't be one unit, since something stands between them, such as "
            "a normalization behind the first sum: use grain='sum', or boundaries= that name each of them"
        )
    return unit
