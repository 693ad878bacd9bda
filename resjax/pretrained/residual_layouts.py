"""Residual networks of torchvision, timm, Hugging Face and collections for CIFAR, by names and shapes."""

import functools
import itertools
from typing import Any

from resjax import models
from resjax.models.resnet import IMAGENET_SIZES
from resjax.pretrained import naming
from resjax.pretrained.files import Tensors
from resjax.pretrained.layout import Layout, need, refuse
from resjax.pretrained.naming import ResidualNames

_WIDTHS = (64, 128, 256, 512)


def residual(whose: str, tensors: Tensors, names: ResidualNames) -> Layout:
    refuse(
        tensors,
        {
            "conv1.0.weight": "a stem of three convolutions (ResNet-D)",
            "layer1.0.downsample.2.weight": "shortcuts with average pooling (ResNet-D)",
            "layer2.0.downsample.2.weight": "shortcuts with average pooling (ResNet-D)",
            "layer1.0.se.fc1.weight": "squeeze-and-excitation",
            "layer1.0.conv2.fc1.weight": "split attention",
        },
    )
    need(tensors, (f"{names.stem}.weight", f"{names.head}.weight"), whose)
    if f"{names.stem_bn}.weight" in tensors and f"{names.stem_bn}.running_mean" not in tensors:
        raise ValueError("this network's normalization is not BatchNorm, the only one that ours have")
    sizes, widths, block, projected = _stages(tensors, names)
    kernel = tensors[f"{names.stem}.weight"].shape[-1]
    if kernel not in (3, 7):
        raise ValueError(f"a stem with a {kernel}×{kernel} convolution; ours have 3×3 (small images) or 7×7")
    large = kernel == 7
    depth = next((d for d, s in IMAGENET_SIZES.items() if s == sizes and (d >= 50) == (block != "basic")), 0)
    if large and projected and depth and widths == _WIDTHS:
        model = models.defaults("imagenet_resnet", depth=depth)
    else:
        size: dict[str, Any] = {"stage_sizes": sizes}
        if len(set(sizes)) == 1:
            size = {"depth": sum(sizes) * (3 if block == "bottleneck" else 2) + 2}
        model = models.defaults(
            "resnet",
            placement="post",
            widths=widths,
            block=block,
            bottleneck_stride="3x3",
            transition="projection" if projected else "pad_subsample",
            pad_centre=not projected,
            stem="large" if large else "small",
            **size,
        )
    named = functools.partial(naming.residual, names=names)
    classes = tensors[f"{names.head}.weight"].shape[0]
    layout = Layout(whose, model, named, classes, 224 if large else 32)
    return layout.for_small_images() if whose == "torchvision" and not large else layout


def timm_v2(tensors: Tensors) -> Layout:
    refuse(
        tensors,
        {
            "stem.conv1.weight": "a stem of three convolutions (d and t forms)",
            "stem.norm.weight": "a normalized stem (not pre-activation)",
        },
    )
    names = naming.TIMM_V2
    need(tensors, (f"{names.stem}.weight", f"{names.head}.weight"), "timm ResNetV2")
    if "stages.0.blocks.0.norm1.running_mean" not in tensors:
        raise ValueError(
            "this ResNetV2 has GroupNorm or EvoNorm (and, in BiT, standardized weights); ours have BatchNorm "
            "and plain weights. Of timm's, resnetv2_18, _34, _50, _101 and _152 are supported"
        )
    sizes, widths, block, _ = _stages(tensors, names)
    if widths != _WIDTHS:
        raise ValueError(f"a ResNetV2 of widths {widths}; ours has {_WIDTHS}")
    builder = "resjax.pretrained.networks:timm_resnetv2"
    model = models.defaults(builder, stage_sizes=sizes, block=block)
    named = functools.partial(naming.residual, names=names)
    half = (0.5, 0.5, 0.5)
    classes = tensors[f"{names.head}.weight"].shape[0]
    return Layout("timm ResNetV2", model, named, classes, 224, half, half)


def _stages(tensors: Tensors, names: ResidualNames) -> tuple[tuple[int, ...], tuple[int, ...], str, bool]:
    """Units and channels of each stage, the kind of block, and whether a shortcut has weights."""

    def key(stage: int, i: int, within: str) -> str:
        unit = names.unit.format(stage=stage, stage1=stage + 1, i=i)
        return f"{unit}.{within}.weight"

    conv1, conv3 = (names.conv.format(j=j, j1=j + 1) for j in (0, 2))

    def units(stage: int) -> int:
        return next(i for i in itertools.count() if key(stage, i, conv1) not in tensors)

    sizes = tuple(itertools.takewhile(bool, map(units, itertools.count())))
    widths = tuple(tensors[key(stage, 0, conv1)].shape[0] for stage in range(len(sizes)))
    bottleneck = key(0, 0, conv3) in tensors
    if bottleneck:
        middle = tensors[key(0, 0, names.conv.format(j=1, j1=2))].shape
        out = tensors[key(0, 0, conv3)].shape[0]
        if middle[1] != middle[0]:
            raise ValueError("convolutions with several groups (ResNeXt); ours have one group")
        if out != 4 * widths[0]:
            raise ValueError(
                f"bottlenecks of {widths[0]} channels for {out} outputs (wide ResNet); ours have a quarter "
                "of the channels of their output"
            )
    projected = any(key(stage, 0, names.shortcut) in tensors for stage in range(len(sizes)))
    return sizes, widths, "bottleneck" if bottleneck else "basic", projected
