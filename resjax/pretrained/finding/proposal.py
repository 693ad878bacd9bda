"""A table that renames a foreign network's tensors to those of a known layout, guessed from names and shapes.

Units are the innermost numbered modules with two convolutions or more (``convs.7``, ``block12``), and other
modules with the same convolutions (``stack2a`` before ``stack2b.0``). A new stage begins where the list of
units or the number of channels changes. The convolution that reads an image is the
stem, and the last fully connected layer is the classifier. Within a unit, layers are numbered in their order
in the file. A chain with the kernels of a VGG is taken for one. The user of the table has to check it.
"""

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

from resjax.models.vgg import CONFIGURATIONS
from resjax.pretrained.finding.names import Rule, new_names
from resjax.pretrained.reading.files import Tensors


class _Layer(NamedTuple):
    """A layer, by its name in the file or in a unit."""

    name: str
    kind: str  # 'conv', 'norm' or 'dense'
    shape: tuple[int, ...]  # of its weight


Pairs = list[tuple[str, str]]  # of a pattern and its replacement
_KINDS = {4: "conv", 1: "norm", 2: "dense"}  # by the number of dimensions of a weight
_ORDER = ("conv", "norm", "dense")
_MOST = 10_000  # tensors; a ResNet of 1,202 layers has 7,300
_DEEP = 20  # dots in a name
_RULES = 200


def propose(tensors: Tensors) -> tuple[Rule, ...]:
    """Lines of a table that change the names of ``tensors``; none where nothing can be guessed."""
    if len(tensors) > _MOST or any(name.count(".") > _DEEP for name in tensors):
        return ()
    layers = _layers(tensors)
    units = _units(layers)
    groups = _residual(layers, units) if units else (_vgg(layers),)
    if sum(map(len, groups)) > _RULES:
        return ()
    # A line changes what those before have made: layer1 -> layer2 must come before layer0 -> layer1.
    for orders in itertools.product((1, -1), repeat=len(groups)):
        pairs = [pair for group, order in zip(groups, orders, strict=True) for pair in group[::order]]
        rules = tuple(Rule(f"^{pattern}", new, "the proposed table") for pattern, new in pairs)
        try:
            new_names(tensors, rules)
        except ValueError:  # two tensors would get one name, or there is no line
            continue
        return rules
    return ()


def _layers(tensors: Tensors) -> list[_Layer]:
    names = list(tensors)
    if names == sorted(names):  # safetensors lose the order: 10 comes before 2
        names.sort(key=by_number)
    found = []
    for name in names:
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and (kind := _KINDS.get(tensors[name].ndim)):
            found.append(_Layer(layer, kind, tensors[name].shape))
    return found


def by_number(name: str) -> list[int | str]:
    """A key to sort names in, with the numbers in them in their order."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _units(layers: Iterable[_Layer]) -> dict[str, list[_Layer]]:
    """The layers of each unit, named within it; the units of a list in the order of their numbers."""
    inside: dict[str, list[_Layer]] = {}
    for layer in layers:
        parts = layer.name.split(".")
        for i in range(1, len(parts)):
            inside.setdefault(".".join(parts[:i]), []).append(layer._replace(name=".".join(parts[i:])))
    convs = {unit: [layer.name for layer in own if layer.kind == "conv"] for unit, own in inside.items()}
    large = [unit for unit in inside if _split(unit)[1] and len(convs[unit]) > 1]
    around = {".".join(parts[:i]) for parts in (unit.split(".") for unit in large) for i in range(len(parts))}
    units = [unit for unit in large if unit not in around]
    forms = {tuple(convs[unit]) for unit in units}
    lists: dict[str, list[str]] = {}
    for unit in inside:
        if tuple(convs[unit]) in forms:  # those of ``units``, too
            lists.setdefault(_split(unit)[0], []).append(unit)
    in_order = (sorted(own, key=lambda unit: int(_split(unit)[1] or 0)) for own in lists.values())
    return {unit: inside[unit] for own in in_order for unit in own}


def _split(unit: str) -> tuple[str, str]:
    """The name of the list that contains a unit, and its number: ``convs.`` and 7, ``block`` and 12; "" if it
    is in no list."""
    root = unit.rstrip("0123456789")
    return root, unit.removeprefix(root)


def _residual(layers: list[_Layer], units: dict[str, list[_Layer]]) -> tuple[Pairs, Pairs, Pairs]:
    """Lines for torchvision's names of the ends, of the units, and of the layers in a unit; with a classifier
    ``linear``, for those of the collections for CIFAR."""
    outside = [layer for layer in layers if not layer.name.startswith(tuple(f"{unit}." for unit in units))]
    convs, norms, dense = ([layer for layer in outside if layer.kind == kind] for kind in _ORDER)
    stem = [conv for conv in convs if conv.shape[1] <= 4]  # reads an image
    width = stem[-1].shape[:1] if stem else ()
    ends = {
        "conv1": stem,
        "bn1": [norm for norm in norms if norm.shape == width],
        "bn": [norm for norm in norms if norm.shape != width],
        "fc": dense,
    }
    if dense and dense[-1].name.split(".")[-1] == "linear":
        ends["linear"] = ends.pop("fc")
    shortcut = "shortcut" if "linear" in ends else "downsample"
    base = _common([*(unit.rpartition(".")[0] for unit in units), *(layer.name for layer in stem)])
    at_ends = [_line(found[-1].name, f"{base}{new}") for new, found in ends.items() if found]
    of_units = _stages(units, base)
    stage = rf"({re.escape(base)}layer\d+\.\d+)\."
    renamed = _inner(units, shortcut).items()
    inner = [(f"{stage}{re.escape(old)}\\.", rf"\1.{to}.") for old, to in renamed if old != to]
    return [pair for pair in at_ends if pair], of_units, inner


def _stages(units: dict[str, list[_Layer]], base: str) -> Pairs:
    def key(unit: str) -> tuple[str, int]:
        """The list that contains the unit, and the channels of its first convolution."""
        convs = (layer.shape[0] for layer in units[unit] if layer.kind == "conv")
        return _split(unit)[0], next(convs)

    stages: list[list[tuple[str, list[str]]]] = []  # of lists, or units in no list, that precede one
    before: tuple[str, int] = "", 0
    for (root, channels), alike in itertools.groupby(units, key):
        if before[0] not in units or before[1] != channels:
            stages.append([])
        stages[-1].append((root, list(alike)))
        before = root, channels
    roots = [root for stage in stages for root, _ in stage]
    pairs = []
    for stage, lists in enumerate(stages, 1):
        for place, (root, own) in enumerate(lists):
            to = f"{base}layer{stage}."
            if root in units:
                pairs.append((rf"{re.escape(root)}\.", f"{to}{place}."))
            elif root != to or place:
                which = r"\d+" if roots.count(root) == 1 else "|".join(_split(unit)[1] for unit in own)
                first = str(place or "")  # before a number, puts it behind those of the units in no list
                pairs.append((rf"{re.escape(root)}({which})\.", rf"{to}{first}\1."))
    return pairs


def _inner(units: dict[str, list[_Layer]], shortcut: str) -> dict[str, str]:
    """{name in a unit: that of a known layout}. What only some units have is the shortcut."""
    layers = {layer.name: layer for own in units.values() for layer in own}
    everywhere = set.intersection(*({layer.name for layer in own} for own in units.values()))
    kernel = next(layer.shape[-1] for layer in layers.values() if layer.kind == "conv")
    new: dict[str, str] = {}
    counts = {"conv": 0, "norm": 0}
    beside = ""  # the module that contains the shortcut
    for name, layer in layers.items():
        if layer.kind == "dense":
            continue
        module = name.rpartition(".")[0]
        projects = layer.kind == "conv" and layer.shape[-1] == 1 < kernel
        if name not in everywhere or projects or (beside and module == beside):
            beside = module
            new[name] = f"{shortcut}.{0 if layer.kind == 'conv' else 1}"
        else:
            counts[layer.kind] += 1
            new[name] = f"{'conv' if layer.kind == 'conv' else 'bn'}{counts[layer.kind]}"
    return new


def _vgg(layers: list[_Layer]) -> Pairs:
    """Lines for torchvision's names of a VGG, which number convolutions, BatchNorms, ReLUs and poolings."""
    names = {kind: [layer.name for layer in layers if layer.kind == kind] for kind in _ORDER}
    kernels = tuple(layer.shape[-1] for layer in layers if layer.kind == "conv")
    form = next((f for f in CONFIGURATIONS.values() if tuple(itertools.chain(*f)) == kernels), None)
    dense = {1: ["classifier"], 3: ["classifier.0", "classifier.3", "classifier.6"]}.get(len(names["dense"]))
    if form is None or dense is None or len(names["norm"]) not in (0, len(kernels)):
        return []
    step = 3 if names["norm"] else 2
    numbers, following = [], 0
    for stage in form:
        numbers += [following + step * i for i in range(len(stage))]
        following += step * len(stage) + 1
    new = [f"features.{n}" for n in numbers], [f"features.{n + 1}" for n in numbers], dense
    pairs = []
    for old, to in zip(names.values(), new, strict=True):
        pairs += list(zip(old, to, strict=False))  # without BatchNorm, none is renamed
    base = _common([*names["conv"], *names["dense"]])
    lines = {_shorter(old, f"{base}{to}"): None for old, to in pairs}
    return [line for old, to in lines if (line := _line(old, to))]


def _shorter(old: str, new: str) -> tuple[str, str]:
    """Two names of a layer, or of the lists that contain it if it has one number in both."""
    (root, number), (new_root, new_number) = _split(old), _split(new)
    same = number == new_number and root.endswith(".") and new_root.endswith(".")
    return (root[:-1], new_root[:-1]) if same else (old, new)


def _common(names: list[str]) -> str:
    """The modules that contain all of ``names``, with a dot at the end."""
    columns = itertools.takewhile(
        lambda parts: len(set(parts)) == 1, zip(*(name.split(".")[:-1] for name in names), strict=False)
    )
    return "".join(f"{parts[0]}." for parts in columns)


def _line(old: str, new: str) -> tuple[str, str] | None:
    return (re.escape(f"{old}."), f"{new}.") if old != new else None
