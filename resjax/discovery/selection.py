"""Which residual sums are units: the outermost ones, those of a layer together, or those that are named."""

from __future__ import annotations

import fnmatch
import itertools
from collections import Counter
from collections.abc import Sequence

from resjax.discovery import names
from resjax.discovery.names import Path
from resjax.discovery.refusal import NotFound
from resjax.discovery.units import Sum, join

GRAINS = ("sum", "layer")


def outermost(sums: Sequence[Sum]) -> list[Sum]:
    """Those that are in no other one's region."""
    inside = Counter(k for one in sums for k in one.region)
    return [one for one in sums if inside[max(one.region)] == 1]


def selected(
    sums: list[Sum],
    paths: Sequence[Path],
    sizes: Sequence[int],
    grain: str,
    boundaries: Sequence[str],
) -> list[Sum]:
    """The units.

    Args:
      sums: all residual sums in order, nested ones included.
      paths: of the program's leaves; ``sizes`` their numbers of parameters.
      grain: 'sum' or 'layer'.
      boundaries: paths of parameters, with wildcards; each is one unit.

    Raises:
      NotFound: boundaries that fit no sum or have sums in common, or sums of a layer that do not follow each
        other directly.
    """
    if boundaries:
        return _within(sums, paths, boundaries, named(sums, paths, sizes))
    chosen = outermost(sums)
    if grain == "sum" or not chosen:
        return chosen
    groups = [[chosen[0]]]
    for one in chosen[1:]:
        if names.same_layer(root_of(groups[-1][-1], paths), root_of(one, paths)):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [_joined(group, paths) for group in groups]


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


def _within(
    sums: list[Sum], paths: Sequence[Path], boundaries: Sequence[str], names_of: Sequence[str]
) -> list[Sum]:
    """The units of ``boundaries`` in the order of their sums: paths of their parameters, or names."""
    roots = ["/".join(root_of(one, paths)) for one in sums]
    # A boundary with a wildcard stands for each path that it matches.
    groups: dict[str, list[Sum]] = {}
    for boundary in boundaries:
        parts = boundary.removeprefix("params/").strip("/").split("/")
        fits = False
        for one, *known in zip(sums, roots, names_of, strict=True):
            for own in (text.split("/") for text in known):
                if len(own) >= len(parts) and all(map(fnmatch.fnmatchcase, own, parts)):
                    group, fits = groups.setdefault("/".join(own[: len(parts)]), []), True
                    if one not in group:  # another boundary may name it, too
                        group.append(one)
                    break
        if not fits:
            raise NotFound(
                f"boundaries={boundary!r} fits no residual sum; the parameters of those that were found are "
                f"at {', '.join(dict.fromkeys(roots)) or 'no path'}"
            )
    for (name, group), (other_name, other) in itertools.combinations(groups.items(), 2):
        if set(group) & set(other):
            raise NotFound(
                f"boundaries= names {name!r} and {other_name!r}, which have residual sums in common: name "
                "one of the two, or parts that have none in common"
            )
    units = [_joined(outermost(own), paths) for own in groups.values()]
    return sorted(units, key=lambda unit: unit.out)


def _joined(group: list[Sum], paths: Sequence[Path]) -> Sum:
    unit = join(group)
    if unit is None:
        where = " and ".join("/".join(root_of(one, paths)) for one in group)
        raise NotFound(
            f"the residual sums of {where} can't be one unit, since something stands between them, such as "
            "a normalization behind the first sum: use grain='sum', or boundaries= that name each of them"
        )
    return unit
