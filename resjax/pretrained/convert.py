"""Tensors of another framework → the variables of a network, and back."""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from resjax.models.layers import BatchNorm
from resjax.network import Network, Variables
from resjax.pretrained import biases, positions
from resjax.pretrained.finding.names import DROP, Rule
from resjax.pretrained.places import Module, Naming, Place, Shape, places
from resjax.pretrained.reading.files import Tensors

# A counter of PyTorch that inference does not use.
_COUNTERS = "num_batches_tracked"
_RULES = 40  # in a message


def to_variables(
    tensors: Tensors, network: Network, image_shape: Shape, naming: Naming, *, head: bool = True
) -> dict[str, Any]:
    """The variables of ``network`` for images (H, W, C), float32, in the layout of ``Network.init``.

    ``naming`` gives the names of its layers. If not ``head``, the fully connected layers of the head are left
    out, whatever those of the file are, and so is a normalization in the head that the file lacks. Biases
    before BatchNorm are folded into it (``biases``); learned positions of another image size are resampled
    (``positions``).

    Raises:
      ValueError: tensors are missing, unexpected or of another shape; the message names them.
    """
    every = places(network, image_shape)
    kept = [place for place in every if head or not _is_new(place, tensors, naming)]
    wanted = {key: place for place in kept for key in place.keys(naming)}
    old = set() if head else set(replaced(tensors, network, image_shape, naming))
    tensors = biases.adapted(tensors, network, kept, naming)
    tensors = positions.adapted(tensors, network, kept, naming, image_shape)
    known = {*wanted, *old}
    unexpected = sorted(k for k in tensors if k not in known and not k.endswith(_COUNTERS))
    missing = [key for key in wanted if key not in tensors]
    arrays: dict[Place, np.ndarray] = {}
    misshaped, wrong, hints = [], [], []
    for place in kept:
        keys = place.keys(naming)
        if not all(key in tensors for key in keys):
            continue
        parts = [tensors[key] for key in keys]
        other = [i for i, part in enumerate(parts) if not place.fits(part.shape, len(parts))]
        if not other:
            arrays[place] = place.from_torch(parts)
            kinds = (_no_weights(arrays[place], part.dtype, place.leaf) for part in parts)
            wrong += [f"{key} ({why})" for key, why in zip(keys, kinds, strict=True) if why]
            continue
        wanted_shape = place.torch_shape(len(parts))
        misshaped += [f"{keys[i]} {parts[i].shape} instead of {wanted_shape}" for i in other]
        if place.channels or place.module.part == "tokens":  # of an MLP-Mixer
            hints.append(
                "The number of inputs of this fully connected layer depends on the image size: use that of "
                "its training (data.image_size)."
            )
        elif _in_classifier(place.module) and place.leaf == "kernel":
            hints.append(
                "Our heads read the mean over the image, so they have as many inputs as the last unit has "
                "channels. Another head is replaced by a new one with --new_head."
            )
    problems = {"Missing": missing, "Unexpected": unexpected, "Of another shape": misshaped}
    if any(problems.values()):
        listed = " ".join(f"{kind}: {some(names)}." for kind, names in problems.items() if names)
        if unexpected and not missing and not misshaped:
            hints.append(_leave_out(unexpected, wanted))
        raise ValueError(" ".join(["the tensors do not fit the network.", listed, *dict.fromkeys(hints)]))
    if wrong:
        raise ValueError(
            f"no network computes with these tensors: {some(wrong)}. The training diverged, or the file is "
            "damaged; weights that are quantized to whole numbers have to be saved as float32"
        )
    return _tree(arrays)


def _no_weights(array: np.ndarray, dtype: np.dtype, leaf: str) -> str:
    """What makes an array, which has ``dtype`` in the file, no weights or statistics; "" if nothing does."""
    if dtype.kind in "biu":
        return str(dtype)
    if not np.all(np.isfinite(array)):
        return "not finite"
    return "negative" if leaf == "var" and array.min() <= -BatchNorm.epsilon else ""


def replaced(tensors: Tensors, network: Network, image_shape: Shape, naming: Naming) -> list[str]:
    """The tensors that a new head replaces: those of the head's fully connected layers, and all others
    outside stem, units and the head's normalization."""
    head, layers, roots = set[str](), set[str](), set[str]()
    for place in places(network, image_shape):
        keys = place.keys(naming)
        if _in_classifier(place.module):
            head.update(keys)
        elif place.module.part == "head":
            layers.update(key.rpartition(".")[0] for key in keys)
        else:
            roots.update(key.partition(".")[0] for key in keys)

    def stays(name: str) -> bool:
        return name.partition(".")[0] in roots or name.rpartition(".")[0] in layers

    return [name for name in tensors if name in head or not stays(name)]


def _is_new(place: Place, tensors: Tensors, naming: Naming) -> bool:
    """Whether a new head has an array of its own for ``place``."""
    if _in_classifier(place.module):
        return True
    layers = {key.rpartition(".")[0] for key in place.keys(naming)} if place.module.part == "head" else set()
    return bool(layers) and not any(name.rpartition(".")[0] in layers for name in tensors)


def _in_classifier(module: Module) -> bool:
    return module.part == "head" and module.path not in (("bn",), ("norm",))


def to_tensors(
    variables: Variables, network: Network, image_shape: Shape, naming: Naming
) -> dict[str, np.ndarray]:
    """The inverse of ``to_variables``: tensors by name, float32, in PyTorch's order of dimensions."""
    tensors: dict[str, np.ndarray] = {}
    for place in places(network, image_shape):
        tree: Any = variables[place.collection][place.module.part]
        for name in (*place.module.path, place.leaf):
            tree = tree[name]
        array = np.asarray(tree[place.module.position] if place.units else tree)
        keys = place.keys(naming)
        tensors |= dict(zip(keys, place.to_torch(array, len(keys)), strict=True))
    return tensors


def with_new_head(variables: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """``variables``, which lack the fully connected layers of the head, with those of ``fresh``."""
    heads = {c: {**fresh[c].get("head", {}), **parts.get("head", {})} for c, parts in variables.items()}
    return {c: {**parts, "head": heads[c]} if heads[c] else parts for c, parts in variables.items()}


def _tree(arrays: dict[Place, np.ndarray]) -> dict[str, Any]:
    """The variables. Takes the arrays out of ``arrays``, so that those of one stack are in memory twice."""
    stacked: dict[tuple[str, ...], list[np.ndarray]] = {}
    units: dict[tuple[str, ...], int] = {}
    for place in list(arrays):  # positions come in order
        path = (place.collection, place.module.part, *place.module.path, place.leaf)
        stacked.setdefault(path, []).append(arrays.pop(place))
        units[path] = place.units
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path in list(stacked):
        found, node = stacked.pop(path), tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = np.stack(found) if units[path] else np.ascontiguousarray(found[0])
    return tree


def _leave_out(unexpected: list[str], wanted: Iterable[str]) -> str:
    """How to import a network without ``unexpected`` tensors: modules, or tensors in its own, by the shortest
    ends of their names that no tensor of the network has."""
    parts = [name.split(".") for name in wanted]
    own = {name[0] for name in parts}
    ends = {tuple(name[i:]) for name in parts for i in range(len(name))}

    def end(name: str) -> str:
        module, dot, _ = name.partition(".")
        if dot and module not in own:
            return rf"{re.escape(module)}\."
        tails = (name.split(".")[-i:] for i in itertools.count(1))
        tail = next(tail for tail in tails if tuple(tail) not in ends)
        return f"{re.escape('.'.join(tail))}$"

    rules = [str(Rule(rf"(^|\.){one}", DROP, "")) for one in dict.fromkeys(map(end, unexpected))]
    if len(rules) > _RULES:
        return "Save the tensors of the network alone"
    return (
        "If the network computes nothing with them, save these lines as names.txt and use --names=names.txt:"
        + "".join(f"\n  {rule}" for rule in rules)
    )


def some(names: list[str], most: int = 6) -> str:
    """The first ``most`` of some names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
