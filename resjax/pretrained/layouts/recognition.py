"""Recognizing the network of a set of tensors by their names and shapes.

A file of tensors does not contain the connections of the layers. What it does not show is assumed to be as in
the collection with the same names, and can be changed like any field of the configuration: the strided
convolution of a bottleneck (its 3×3, as everywhere since torchvision), the side on which option A adds
channels (both), what a projection of a pre-activation unit reads, ReLU between the fully connected layers of
a head, BatchNorm's ε of 1e-5, and poolings without blur.
"""

import itertools

from resjax.pretrained.layouts.chain import MARKER, chain, is_chain
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.layouts.residual import residual
from resjax.pretrained.layouts.residual_names import UNITS
from resjax.pretrained.reading.files import Tensors

KNOWN = (
    "ResNet, VGG and AlexNet of torchvision; ResNet, ResNetV2 and VGG of timm; Hugging Face "
    "microsoft/resnet-*; for CIFAR, those of akamaster, bearpaw, chenyaofo, kuangliu, weiaicunzai and "
    "xternalz"
)
# Each known layout has one of these tensors, the first of its first unit or layer.
MARKERS = (*(units.marker for units in UNITS), MARKER)


def is_known(tensors: Tensors) -> bool:
    """Whether ``tensors`` have the names of a known layout."""
    return any(units.marker in tensors for units in UNITS) or (MARKER in tensors and is_chain(tensors))


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
    for units in UNITS:
        if units.marker in tensors:
            return residual(tensors, units)
    if MARKER in tensors:
        return chain(tensors)
    first = ", ".join(itertools.islice(tensors, 5))
    raise ValueError(f"these tensors have no known layout: {len(tensors)} of them, {first}, … Known: {KNOWN}")
