"""Recognizing the network of a set of tensors by their names and shapes.

A file of tensors does not contain the connections of the layers. What it does not show is assumed to be as in
the collection with the same names, and can be changed like any field of the configuration: the strided
convolution of a bottleneck (its 3×3, as everywhere since torchvision), the side on which option A adds
channels (both), what a projection of a pre-activation unit reads, ReLU between the fully connected layers of
a head, BatchNorm's ε of 1e-5, and poolings without blur.
"""

import itertools
from collections.abc import Callable
from functools import partial

from resjax.pretrained.layouts.chain import MARKER, chain, is_chain
from resjax.pretrained.layouts.convnext import convnext
from resjax.pretrained.layouts.convnext_names import NAMES
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.layouts.mixers import CONVMIXER, MIXER, convmixer, mixer
from resjax.pretrained.layouts.residual import residual
from resjax.pretrained.layouts.residual_names import UNITS
from resjax.pretrained.reading.files import Tensors

KNOWN = (
    "ResNet, VGG, AlexNet and ConvNeXt of torchvision; ResNet, ResNetV2, VGG, ConvNeXt, MLP-Mixer and "
    "ConvMixer of timm; ResNet and ConvNeXt of Hugging Face; ConvNeXt of facebookresearch; for CIFAR, the "
    "networks of akamaster, bearpaw, chenyaofo, kuangliu, weiaicunzai and xternalz"
)
# Each known layout has one of these tensors, the first of its first unit or layer.
_RECOGNIZE: dict[str, Callable[[Tensors], Layout]] = {
    **{units.marker: partial(residual, units=units) for units in UNITS},
    **{names.marker: partial(convnext, names=names) for names in NAMES},
    MIXER: mixer,
    CONVMIXER: convmixer,
    MARKER: chain,
}
MARKERS = tuple(_RECOGNIZE)


def is_known(tensors: Tensors) -> bool:
    """Whether ``tensors`` have the names of a known layout."""
    there = {marker for marker in MARKERS if marker in tensors}
    return bool(there - {MARKER}) or (MARKER in there and is_chain(tensors))


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
    for marker, network in _RECOGNIZE.items():
        if marker in tensors:
            return network(tensors)
    first = ", ".join(itertools.islice(tensors, 5))
    raise ValueError(f"these tensors have no known layout: {len(tensors)} of them, {first}, … Known: {KNOWN}")
