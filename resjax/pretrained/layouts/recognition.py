"""Recognizing the network of a set of tensors by their names and shapes.

A file of tensors does not contain the connections of the layers. What it does not show is assumed to be as in
the collection with the same names, and can be changed like any field of the configuration: the strided
convolution of a bottleneck (its 3×3, as everywhere since torchvision), the side on which option A adds
channels (both), what a projection of a pre-activation unit reads, ReLU between the fully connected layers of
a head, BatchNorm's ε of 1e-5, poolings without blur, the number of heads of an attention.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

from resjax.pretrained.layouts import chain, mixers, vit
from resjax.pretrained.layouts.convnext import convnext
from resjax.pretrained.layouts.convnext_names import NAMES as CONVNEXT
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.layouts.residual import residual
from resjax.pretrained.layouts.residual_names import UNITS
from resjax.pretrained.reading.files import Tensors


class Family(NamedTuple):
    """Networks of one kind."""

    marker: str  # a tensor that each of them has, one of its first unit or layer
    has: Callable[[Tensors], bool]  # whether tensors with the marker have the names of this family
    layout: Callable[[Tensors], Layout]


def _any(tensors: Tensors) -> bool:
    return True


FAMILIES = (
    *(Family(units.marker, _any, functools.partial(residual, units=units)) for units in UNITS),
    *(Family(names.marker, _any, functools.partial(convnext, names=names)) for names in CONVNEXT),
    *(
        Family(names.marker, _any, functools.partial(mixers.mixer, names=names))
        for names in (mixers.TIMM, mixers.JAX)
    ),
    Family(mixers.CONVMIXER, _any, mixers.convmixer),
    Family(chain.MARKER, chain.is_chain, chain.chain),
    *(Family(marker, vit.is_vit, vit.vit) for marker in vit.MARKERS),
)
KNOWN = (
    "ResNet, VGG, AlexNet, ViT and ConvNeXt of torchvision; ResNet, ResNetV2, VGG, ViT, DeiT, ConvNeXt, "
    "MLP-Mixer and ConvMixer of timm; Hugging Face microsoft/resnet-*, ViTForImageClassification and "
    "ConvNextForImageClassification; ConvNeXt of facebookresearch; Google's ViT and MLP-Mixer (.npz); for "
    "CIFAR, those of akamaster, bearpaw, chenyaofo, kuangliu, weiaicunzai and xternalz"
)
MARKERS = tuple(family.marker for family in FAMILIES)


def is_known(tensors: Tensors) -> bool:
    """Whether ``tensors`` have the names of a known layout."""
    return _family(tensors) is not None


def _family(tensors: Tensors) -> Family | None:
    return next((one for one in FAMILIES if one.marker in tensors and one.has(tensors)), None)


def recognize(tensors: Tensors) -> Layout:
    """The layout of ``tensors``.

    Raises:
      ValueError: the layout is unknown, or its network can't be represented here; the message says why.
    """
    scalars = [name for name in tensors if name.endswith(".weight") and not tensors[name].shape]
    if scalars:
        raise ValueError(
            f"{scalars[0]} is a single number, and a layer has more: it is not the tensor of one"
        )
    if family := _family(tensors):
        return family.layout(tensors)
    first = ", ".join(itertools.islice(tensors, 5))
    raise ValueError(f"these tensors have no known layout: {len(tensors)} of them, {first}, … Known: {KNOWN}")
