"""Recognizing the network of a set of tensors by their names and shapes.

A file of tensors does not contain the connections of the layers. What it does not show is assumed to be as in
the collection with the same names, and can be changed like any field of the configuration: the strided
convolution of a bottleneck (its 3×3, as everywhere since torchvision), the side on which option A adds
channels (both), BatchNorm's ε of 1e-5, and poolings without blur.
"""

import itertools

from resjax.pretrained import naming
from resjax.pretrained.chain_layouts import chain
from resjax.pretrained.files import Tensors
from resjax.pretrained.layout import Layout
from resjax.pretrained.residual_layouts import residual, timm_v2

KNOWN = (
    "torchvision and timm (ResNet, VGG; AlexNet), timm ResNetV2, Hugging Face microsoft/resnet-*, and the "
    "CIFAR networks of akamaster/pytorch_resnet_cifar10 and chenyaofo/pytorch-cifar-models"
)
# Each known layout has one of these tensors, the first of its first unit or layer.
MARKERS = (
    "stages.0.blocks.0.conv1.weight",
    "resnet.embedder.embedder.convolution.weight",
    "layer1.0.conv1.weight",
    "features.0.weight",
)


def recognize(tensors: Tensors) -> Layout:
    """The layout of ``tensors``.

    Raises:
      ValueError: the layout is unknown, or its network can't be represented here; the message says why.
    """
    if "stages.0.blocks.0.conv1.weight" in tensors:
        return timm_v2(tensors)
    if "resnet.embedder.embedder.convolution.weight" in tensors:
        return residual("Hugging Face", tensors, naming.HUGGING_FACE)
    if "layer1.0.conv1.weight" in tensors:
        if "linear.weight" in tensors:
            return residual("akamaster", tensors, naming.CIFAR)
        return residual("torchvision", tensors, naming.TORCHVISION)
    if "features.0.weight" in tensors:
        return chain(tensors)
    first = ", ".join(itertools.islice(tensors, 5))
    raise ValueError(f"these tensors have no known layout: {len(tensors)} of them, {first}, … Known: {KNOWN}")
