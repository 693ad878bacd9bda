"""What an import assumes because a file of tensors does not show it, and the flag that changes each.

A file shows the names and shapes of the weights. It shows neither what lies between the layers nor how the
images were prepared.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resjax.data import Info
from resjax.models.layers import BatchNorm
from resjax.pretrained.constants import IMAGENET
from resjax.pretrained.layouts.layout import Layout

Choices = dict[Any, tuple[str, str]]  # {a value of a field: (in words, another value)}


class Assumption(NamedTuple):
    """One fact that is assumed."""

    what: str
    value: str
    flag: str  # with another value, to paste; "" where it can't be changed


def assumptions(config: ConfigDict, layout: Layout, info: Info) -> list[Assumption]:
    """The assumptions that matter to this network, in rows for a table.

    What was given on the command line, and so differs from the layout, is no assumption.

    Args:
      config: of the run.
      layout: of the file.
      info: of the data set that is loaded.
    """
    kinds = {"vit": _of_transformer, "convnext": _of_convnext, "mixer": _of_mixer, "convmixer": _of_convmixer}
    of_network = kinds.get(layout.model.name, _of_network)
    return [*_of_images(config, layout, info), *of_network(config.model, layout)]


def as_text(rows: list[Assumption]) -> str:
    """An aligned table. Its lines are not wrapped, so that a flag can be pasted."""
    what, value = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"  {row.what:<{what}}  {row.value:<{value}}  {row.flag or '(fixed)'}" for row in rows]
    change = "(to change one, add its flag and use another workdir)"
    return "\n".join([f"Assumed, since a file of tensors does not show it {change}:", *lines])


def _of_images(config: ConfigDict, layout: Layout, info: Info) -> Iterator[Assumption]:
    whose = layout.constants_of
    shown_by_file = whose == "the file" or config.data.standardize != "channel"
    for name, usual, values in (("mean", layout.mean, info.mean), ("std", layout.std, info.std)):
        if not shown_by_file and tuple(config.data[name]) == tuple(usual):
            other = ",".join(map(str, _OTHERS[name] if values == (0.5,) * 3 else [0.5] * len(values)))
            other += "," if len(values) == 1 else ""
            shown = ", ".join(f"{value:.4g}" for value in values)
            yield Assumption(f"{name} (of {whose})", shown, f"--config.data.{name}={other}")
    height, width, _ = info.image_shape
    side = layout.image_size
    usual_size = side if layout.has_positions else 0
    # fc6 shows the size of its images, and so does an MLP along the tokens.
    by_file = "fc_width" in layout.model or layout.model.name == "mixer"
    if config.data.image_size == usual_size and not by_file:
        same = (height, width) == (side, side)
        note = "" if same else f" (usual: {side}×{side})"
        other_size = 2 * side if same else side
        yield Assumption("pixels", f"{height}×{width}{note}", f"--config.data.image_size={other_size}")
    if layout.has_positions and (height, width) != (side, side):
        patch = layout.model.patch
        grids = f"{side // patch}×{side // patch} to {height // patch}×{width // patch}"
        yield Assumption("positions", f"resampled, {grids}", f"--config.data.image_size={side}")
    if layout.num_classes == info.num_classes:  # else, the classifier is new
        yield Assumption("order of classes", f"that of {Path(info.name).name}", "--config.data.name=DATA")
    if all(config.data[name] == value for name, value in layout.augmentation.items()):
        small = "pad" in layout.augmentation
        how = f"pad {layout.augmentation['pad']}, crop, flip" if small else "random resized crop, flip"
        other_crop = "--config.data.pad=0" if small else "--config.data.crop=resize"
        yield Assumption("training images", how, other_crop)


def _of_network(model: ConfigDict, layout: Layout) -> Iterator[Assumption]:
    """Of ``model``, in those fields that are as in the file's layout."""
    changed_by = _rows(model, layout)
    widths = model.get("widths", ())
    yield from changed_by("max pooling in the stem", "stem", _STEMS)
    # Networks for re-identification and segmentation often have a stride of 1 in the last stage.
    if ("block" in model or "transition" in model) and len(widths) != 1:
        yield Assumption("stride of later stages", "2", "")
    if model.get("block") == "bottleneck":
        yield from changed_by("a bottleneck's stride", "bottleneck_stride", {"3x3": ("in its 3×3", "1x1")})
    if model.get("depth", 0) >= 50 and model.name == "imagenet_resnet":
        yield from changed_by("a bottleneck's stride", "version", {"v1.5": ("in its 3×3", "v1")})
    if model.get("transition", "projection") != "projection":
        yield from changed_by("shortcuts", "shortcut", {"identity": ("yes", "none")})
        if model.shortcut != "none" and len(widths) > 1:
            yield from changed_by("where shapes change", "transition", _TRANSITIONS)
            yield from changed_by("zero channels added", "pad_centre", _SIDES)
    if len(set(widths)) == 1 and model.get("widen", 1) == 1:  # else, some BatchNorm's shape tells it
        yield from changed_by("BatchNorm, ReLU", "placement", {"post": ("after weights", "pre")})
    if model.get("transition") == "projection":
        yield from changed_by("input of projections", "projection_of", _PROJECTIONS)
        if model.get("placement") == "pre":
            yield Assumption("input of projections", _PROJECTIONS["activated"][0], "")
    if model.get("head_widths"):
        yield Assumption("between the head's layers", "ReLU", "")
    if model.get("norm", True) and model.name != "alexnet":
        yield Assumption("BatchNorm's ε", f"{BatchNorm.epsilon:g}", "")
    if "activation" in model:
        yield from changed_by("activation", "activation", {"relu": ("ReLU", "tanh")})
    else:
        yield Assumption("activation", "ReLU", "")


def _of_transformer(model: ConfigDict, layout: Layout) -> Iterator[Assumption]:
    """The same of a vision transformer."""
    changed_by = _rows(model, layout)
    width, heads = model.width, model.heads
    if layout.name not in _SHOW_HEADS:
        value = f"{heads} of {width // heads} numbers"
        other_heads = 1 if width // heads % 2 else 2 * heads
        yield from changed_by("heads", "heads", {heads: (value, str(other_heads))})
    if model.pool == "cls":
        yield Assumption("the classifier reads", "the class token", "")
    if model.positions == "sincos":
        yield Assumption("positions", "fixed sines and cosines", "")
    if model.representation:
        yield Assumption("in front of the classifier", "tanh", "")
    yield from _of_layer_norm(model, layout)
    yield from changed_by("activation", "activation", _GELUS)


def _of_convnext(model: ConfigDict, layout: Layout) -> Iterator[Assumption]:
    """The same of a ConvNeXt."""
    yield Assumption("stride of later stages", "2", "")
    yield from _of_layer_norm(model, layout)
    changed_by = _rows(model, layout)
    other = (f"{model.head_norm_epsilon:g}", "1e-06")
    if model.head_norm_epsilon:
        yield from changed_by("ε of the head's", "head_norm_epsilon", {model.head_norm_epsilon: other})
    yield Assumption("activation", "GELU", "")


def _of_mixer(model: ConfigDict, layout: Layout) -> Iterator[Assumption]:
    """The same of an MLP-Mixer."""
    yield Assumption("LayerNorm's ε", "1e-06", "")
    yield from _rows(model, layout)("activation", "activation", _GELUS)


def _of_convmixer(model: ConfigDict, layout: Layout) -> Iterator[Assumption]:
    """The same of a ConvMixer."""
    yield Assumption("BatchNorm's ε", f"{BatchNorm.epsilon:g}", "")
    choices = {"gelu": ("GELU", "relu"), "relu": ("ReLU", "gelu")}
    yield from _rows(model, layout)("activation", "activation", choices)


def _of_layer_norm(model: ConfigDict, layout: Layout) -> Iterator[Assumption]:
    epsilon = model.norm_epsilon
    other = "1e-05" if epsilon == 1e-6 else "1e-06"
    yield from _rows(model, layout)("LayerNorm's ε", "norm_epsilon", {epsilon: (f"{epsilon:g}", other)})


def _rows(model: ConfigDict, layout: Layout) -> Callable[[str, str, Choices], Iterator[Assumption]]:
    """A function for rows on fields of ``model`` that are as in the file's layout."""
    fields = {name: value for name, value in model.items() if layout.model.get(name) == value}

    def changed_by(what: str, field: str, choices: Choices) -> Iterator[Assumption]:
        """A row if ``field`` has one of ``choices``."""
        if fields.get(field) in choices:
            value, other = choices[fields[field]]
            yield Assumption(what, value, f"--config.model.{field}={other}")

    return changed_by


_OTHERS = {"mean": IMAGENET.mean, "std": IMAGENET.std}  # where a half is assumed
_SHOW_HEADS = {"vision_transformer", "big_vision"}  # collections whose files do
_GELUS = {
    "gelu": ("GELU", "quick_gelu"), "gelu_tanh": ("GELU, by tanh", "gelu"),
    "quick_gelu": ("x σ(1.702 x)", "gelu"),
}  # fmt: skip
_STEMS = {
    "small": ("no", "small_pool"), "small_pool": ("yes", "small"),
    "large": ("yes", "large_no_pool"), "large_no_pool": ("no", "large"),
}  # fmt: skip
_TRANSITIONS = {
    "pad_subsample": ("every other pixel", "pad_pool"), "pad_pool": ("means of 2×2 pixels", "pad_subsample")
}  # fmt: skip
_PROJECTIONS = {
    "activated": ("that of the convolution", "input"), "input": ("that of the unit", "activated")
}  # fmt: skip
_SIDES = {True: ("on both sides", "false"), False: ("behind", "true")}
