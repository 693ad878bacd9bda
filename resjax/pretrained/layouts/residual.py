"""Residual networks of torchvision, timm, Hugging Face and collections for CIFAR, by names and shapes."""

import functools
import itertools
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resjax import models
from resjax.models.resnet import IMAGENET_SIZES
from resjax.pretrained.constants import HALF
from resjax.pretrained.layouts import naming, residual_names
from resjax.pretrained.layouts.layout import Layout, refuse
from resjax.pretrained.layouts.residual_names import Found, UnitNames
from resjax.pretrained.reading.files import Tensors

_WIDTHS = (64, 128, 256, 512)
_LAYERS = 16  # of a unit


class _Blocks(NamedTuple):
    kind: str  # 'basic' or 'bottleneck'
    layers: int  # convolutions of a unit
    widths: tuple[int, ...]  # channels of each stage; a bottleneck's output has four times as many


def residual(tensors: Tensors, units: UnitNames) -> Layout:
    """The layout of a network whose units have the names ``units``.

    Raises:
      ValueError: it can't be represented here; the message says why.
    """
    _refuse(tensors, units)
    found = residual_names.find(tensors, units)
    blocks = _blocks(tensors, found)
    out, channels, _, kernel = tensors[f"{found.names.stem}.weight"].shape
    if kernel not in (3, 7):
        raise ValueError(f"a stem with a {kernel}×{kernel} convolution; ours have 3×3 (small images) or 7×7")
    large = kernel == 7
    projected = bool(found.names.shortcut)
    fields = {
        "stem": "large" if large else "small",
        "stage_sizes": found.sizes,
        **_widths(out, blocks.widths),
        "block": blocks.kind,
        "transition": "projection" if projected else "pad_subsample",
        "pad_centre": not projected,
        "head_widths": tuple(tensors[f"{name}.weight"].shape[0] for name in found.names.head[:-1]),
    }
    model = _pre(tensors, found, blocks, fields) if found.pre else _post(found, blocks, fields)
    layout = Layout(
        name=_collection(found, large),
        model=model,
        naming=functools.partial(naming.residual, names=found.names),
        num_classes=0 if found.headless else tensors[f"{found.names.head[-1]}.weight"].shape[0],
        image_size=224 if large else 32,
        channels=channels,
    )
    if units == residual_names.TIMM_V2:
        return layout._replace(**HALF._asdict(), constants_of="timm")
    return layout if large or layout.name == "akamaster" else layout.for_small_images()


def _post(found: Found, blocks: _Blocks, fields: dict[str, Any]) -> ConfigDict:
    """The configuration of a post-activation network."""
    names, sizes = found.names, found.sizes
    if not names.stem_bn:
        raise ValueError(
            f"no BatchNorm of known name follows the first convolution, {names.stem}. Its known names are "
            f"{', '.join(residual_names.NORMS)}. Rename yours: --names=FILE. (Networks without BatchNorm are "
            "not imported.)"
        )
    if names.shortcut and not names.shortcut_bn:
        raise ValueError(
            f"no BatchNorm of known name follows the projections, {names.shortcut}, as in our "
            f"post-activation networks. Its known names are {', '.join(residual_names.SHORTCUT_NORMS)}. "
            "Rename yours: --names=FILE"
        )
    bottleneck = blocks.kind == "bottleneck"
    depth = next((d for d, s in IMAGENET_SIZES.items() if s == sizes and (d >= 50) == bottleneck), 0)
    usual = {"stem": "large", "widths": _WIDTHS, "widen": 1, "transition": "projection", "head_widths": ()}
    if depth and (bottleneck or blocks.layers == 2) and usual.items() <= fields.items():
        return models.defaults("imagenet_resnet", depth=depth)
    if len(set(sizes)) == 1:
        fields = fields | {"stage_sizes": (), "depth": sum(sizes) * blocks.layers + 2}
    if not bottleneck:
        fields = fields | {"block_layers": blocks.layers}
    return models.defaults("resnet", placement="post", bottleneck_stride="3x3", **fields)


def _pre(tensors: Tensors, found: Found, blocks: _Blocks, fields: dict[str, Any]) -> ConfigDict:
    """The configuration of a pre-activation network."""
    names, units = found.names, found.units
    starts = f"{units.layer(0, 0, units.bn)}.running_mean" in tensors
    if bool(names.stem_bn) == starts:
        where = f"both after {names.stem} and" if starts else "neither after the first convolution nor"
        raise ValueError(
            f"a pre-activation network with BatchNorm {where} before the first convolution of its first "
            "unit; ours have it in one of the two places"
        )
    fields = fields | {"bottleneck_stride": "3x3"}
    if blocks.kind == "basic":
        fields = fields | {"block_layers": blocks.layers}
    if not starts:
        if not names.head_bn:
            raise ValueError(
                "a pre-activation network whose stem has BatchNorm, but not its head; ours have both"
            )
        return models.defaults("resnet", placement="pre", **fields)
    if units == residual_names.TIMM_V2:
        if (fields["widths"], fields["widen"], fields["stem"]) != (_WIDTHS, 1, "large"):
            raise ValueError(f"a ResNetV2 of widths {blocks.widths}; ours has {_WIDTHS}")
        return models.defaults(
            "resjax.pretrained.networks:timm_resnetv2", stage_sizes=found.sizes, block=blocks.kind
        )
    # Collections that call projections downsample give them the unit's input; the others, the convolution's.
    own = "input" if names.shortcut.startswith("downsample") else "activated"
    head_norm = bool(names.head_bn)
    builder = "resjax.pretrained.networks:preact_resnet"
    return models.defaults(builder, projection_of=own, head_norm=head_norm, **fields)


def _refuse(tensors: Tensors, units: UnitNames) -> None:
    """Refuses what other networks with such names have."""
    first = naming.unit_prefix(units.unit, 0, 0)
    second = naming.unit_prefix(units.unit, 1, 0)
    pooled = "shortcuts with average pooling (ResNet-D)"
    refuse(
        tensors,
        {
            "conv1.3.weight": "a stem of three convolutions (ResNet-D)",
            f"{first}.downsample.2.weight": pooled,
            f"{second}.downsample.2.weight": pooled,
            f"{first}.se.fc1.weight": "squeeze-and-excitation",
            f"{first}.fc1.weight": "squeeze-and-excitation",
            f"{first}.conv2.fc1.weight": "split attention",
        },
    )
    if units != residual_names.TIMM_V2:
        return
    refuse(
        tensors,
        {
            "stem.conv1.weight": "a stem of three convolutions (d and t forms)",
            "stem.norm.weight": "a normalized stem (not pre-activation)",
        },
    )
    if f"{first}.norm1.running_mean" not in tensors:
        raise ValueError(
            "this ResNetV2 has GroupNorm or EvoNorm (and, in BiT, standardized weights); ours have BatchNorm "
            "and plain weights. Of timm's, resnetv2_18, _34, _50, _101 and _152 are supported"
        )


def _blocks(tensors: Tensors, found: Found) -> _Blocks:
    """Kind and channels of the units.

    Raises:
      ValueError: the convolutions have groups, bottlenecks have another share of their output's channels, or
        units of a stage have several widths.
    """

    def shape(stage: int, j: int) -> tuple[int, ...]:
        name = f"{found.units.layer(stage, 0, found.units.conv, j)}.weight"
        return tensors[name].shape if name in tensors else ()

    layers = next(j for j in itertools.count() if not shape(0, j))
    if layers > _LAYERS:
        raise ValueError(f"units of {layers:,} convolutions; at most {_LAYERS} are imported")
    widths = tuple(shape(stage, 0)[0] for stage in range(len(found.sizes)))
    if shape(0, 0)[-1] != 1:
        outputs = tuple(shape(stage, layers - 1)[:1] for stage in range(len(found.sizes)))
        _check_widths(tensors, found, layers, outputs)
        return _Blocks("basic", layers, widths)
    if layers != 3:
        raise ValueError(f"units of {layers} convolutions, the first 1×1; ours have three of them")
    middle, out = shape(0, 1), shape(0, 2)[0]
    if middle[1] != middle[0]:
        raise ValueError("convolutions with several groups (ResNeXt); ours have one group")
    if out != 4 * widths[0]:
        raise ValueError(
            f"bottlenecks of {widths[0]} channels for {out} outputs (wide ResNet); ours have a quarter "
            "of the channels of their output"
        )
    _check_widths(tensors, found, layers - 1, tuple((width,) for width in widths))
    return _Blocks("bottleneck", layers, widths)


def _check_widths(tensors: Tensors, found: Found, layers: int, widths: tuple[tuple[int, ...], ...]) -> None:
    """Raises ValueError for one of the first ``layers`` convolutions of a unit with other output channels
    than its stage, whose ``widths`` are () where a layer is missing."""
    for stage, size in enumerate(found.sizes):
        for i, j in itertools.product(range(size), range(layers)):
            name = f"{found.units.layer(stage, i, found.units.conv, j)}.weight"
            out = tensors[name].shape[:1] if name in tensors else ()
            if out and widths[stage] and out != widths[stage]:
                raise ValueError(
                    f"{name} has {out[0]} output channels, in a stage of width {widths[stage][0]}; in ours, "
                    "all units of a stage have one width. If channels were pruned, import the network from "
                    "before that"
                )


def _widths(stem: int, widths: tuple[int, ...]) -> dict[str, Any]:
    """Fields of ``resnet`` for a stem of ``stem`` channels before stages of ``widths``."""
    widen = widths[0] // stem
    if stem * widen != widths[0] or any(width % widen for width in widths):
        raise ValueError(
            f"a first convolution of {stem} channels before stages of {widths}; in ours, the first stage has "
            "as many, or all stages have a multiple (wide ResNet)"
        )
    return {"widths": tuple(width // widen for width in widths), "widen": widen}


def _collection(found: Found, large: bool) -> str:
    """The collection that uses these names, or "mixed names"."""
    names, stages = found.names, len(found.sizes)
    own = {
        residual_names.HUGGING_FACE: "Hugging Face",
        residual_names.TIMM_V2: "timm ResNetV2",
        residual_names.RESIDUAL_FUNCTIONS: "weiaicunzai",
        residual_names.BLOCKS: "xternalz",
    }
    if found.units in own:
        return own[found.units]
    shortcut, head = (name.partition(".")[0] for name in (names.shortcut, names.head[0]))
    head = "" if found.headless else head
    if shortcut in ("", "downsample") and head in ("", "fc"):
        return "torchvision" if large else "bearpaw" if found.pre else "chenyaofo"
    if shortcut in ("", "shortcut") and head in ("", "linear"):
        return "kuangliu" if found.pre or stages == 4 else "akamaster"
    return "mixed names"
