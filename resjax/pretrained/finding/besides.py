"""What a file holds besides the network that is taken from it, in a few phrases."""

import re

from resjax.pretrained.finding import normalizers
from resjax.pretrained.finding.names import Rule
from resjax.pretrained.finding.prefixes import COUNTS, Selection, equal, prefixes, under_prefix
from resjax.pretrained.layouts.residual_names import LAYERS
from resjax.pretrained.reading.files import Tensors, shape_of

_OPTIMIZER = {"optimizer", "optimizers", "optim", "optimizer_states", "exp_avg", "momentum_buffer"}
_ALONE = 4  # single tensors that are named
_MOST = 8  # groups that are told


def besides(tensors: Tensors, chosen: Selection) -> tuple[str, ...]:
    """A phrase for each group of the tensors of a file that are no part of the ``chosen`` network."""
    phrases: dict[str, str] = {}  # by the group's name
    networks: dict[str, str] = {}  # {name of a tensor: the group of its network}
    for prefix in (found := prefixes(tensors)):
        other = under_prefix(tensors, prefix, found)
        if prefix != chosen.prefix:
            which = "the same network again" if equal(other.tensors, chosen.tensors) else "another network"
            group = f"{prefix}*" if prefix else "a network without a prefix"
            phrases[group] = f"{which}, {_tensors(len(other.tensors))}"
            networks |= dict.fromkeys(set(tensors) - set(other.ignored), group)
    groups: dict[str, list[str]] = {}
    for name in chosen.ignored:
        groups.setdefault(networks.get(name) or _group(name, chosen.prefix), []).append(name)
    pairs = {name for pair in normalizers.names(tensors) for name in pair}
    alone = {name: None for name in groups if name in tensors and name not in pairs}
    if len(alone) > _ALONE:
        groups = {group: names for group, names in groups.items() if group not in alone}
        phrases[group := f"{', '.join([*alone][:_ALONE])}, …"] = _tensors(len(alone))
        groups[group] = [*alone]
    told = [f"{g} ({phrases.get(g) or _kind(tensors, names, pairs)})" for g, names in groups.items()]
    more = [f"{len(told) - _MOST} modules more"] if len(told) > _MOST else []
    return (*told[:_MOST], *more)


def classifier(tensors: Tensors, chosen: Selection) -> str:
    """How to use a fully connected layer outside the ``chosen`` network as its classifier.

    "" if the network has one, or if not exactly one layer outside reads as many numbers as its convolutions
    make.
    """
    shapes = {name: tensor.shape for name, tensor in chosen.tensors.items() if name.endswith("weight")}
    outside = {name: shape_of(tensors, name) for name in chosen.ignored if name.endswith(".weight")}
    dense = [(name, shape) for name, shape in outside.items() if shape and len(shape) == 2]
    made = max((shape[0] for shape in shapes.values() if len(shape) == 4), default=0)
    has = any(len(shape) == 2 for shape in shapes.values())
    # The rule's name, fc, is one for the head of a residual network.
    if has or LAYERS.marker not in shapes or len(dense) != 1 or dense[0][1][1] != made:
        return ""
    layer = dense[0][0].removesuffix("weight")
    rule = Rule(f"^{re.escape(layer)}", f"{chosen.prefix}fc.", "")
    return f"If {layer[:-1]} is its classifier, save the line {rule} as names.txt and use --names=names.txt"


def _group(name: str, prefix: str) -> str:
    """The shortest module that contains ``name`` and not the network; ``name`` itself if there is none."""
    parts, same = name.split("."), normalizers.same_parts(name, prefix)
    if parts[-1] in COUNTS:
        return f"*.{parts[-1]}"
    return name if same >= len(parts) - 1 else ".".join((*parts[: same + 1], "*"))


def _kind(tensors: Tensors, names: list[str], pairs: set[str]) -> str:
    if any(_OPTIMIZER & set(name.split(".")) for name in names):
        return f"an optimizer's state, {_tensors(len(names))}"
    if set(names) <= pairs:
        return "constants of standardization"
    shapes = {name: shape_of(tensors, name) for name in names}
    matrices = [shape for name, shape in shapes.items() if name.endswith("weight") and len(shape or ()) == 2]
    if matrices:
        out, in_ = matrices[-1] or ()
        return f"layers, the last with {in_} inputs and {out} outputs"
    shape = shapes[names[0]]
    if len(names) > 1 or shape is None:
        return _tensors(len(names))
    return f"of shape {shape}" if shape else f"{tensors[names[0]].item():g}"


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"
