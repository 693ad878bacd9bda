"""A network in PyTorch: its names in an exported file, and the lines of Python that build it from the file.

torchvision's class ``ResNet`` takes any number of units in each of its four stages, so a cut ResNet is built
from the number of units that are left: ``ResNet(BasicBlock, layers=[2, 1, 2, 2])``. Smaller networks, with
three stages, are ``CifarResNet`` of chenyaofo/pytorch-cifar-models. For others there is a sentence that says
what such a class has. Vision transformers (``vit_export``), MLP-Mixer (``mixer_export``), ConvNeXt and
ConvMixer (``conv_export``) are classes of timm.
"""

from __future__ import annotations

import collections
from typing import NamedTuple

import numpy as np

from resjax.models.residual import ResidualUnit
from resjax.models.stem_head import STEMS, Head, Stem, StemForm
from resjax.network import Network
from resjax.pretrained.layouts import conv_export, mixer_export, mixers, naming, vit_export, vit_names
from resjax.pretrained.layouts.python_lines import loaded
from resjax.pretrained.places import Naming


class _Class(NamedTuple):
    """A class of residual networks, and what its networks have in common."""

    module: str
    name: str
    stem: StemForm
    widths: tuple[int, ...]  # of the stages
    blocks: tuple[str, ...]
    note: str = ""  # behind the line that imports it


_BLOCKS = {"BasicBlock": ((3, 1), (3, 1)), "Bottleneck": ((1, 1), (3, 1), (1, 4))}  # kernel, factor of width
_STRIDED = {"BasicBlock": 0, "Bottleneck": 1}  # the convolution with the stride
_CLASSES = (
    _Class("torchvision.models.resnet", "ResNet", STEMS["large"], (64, 128, 256, 512), tuple(_BLOCKS)),
    _Class(
        "pytorch_cifar_models.resnet", "CifarResNet", STEMS["small"], (16, 32, 64), ("BasicBlock",),
        note="  # github.com/chenyaofo/pytorch-cifar-models",
    ),
)  # fmt: skip


def names_of(network: Network) -> Naming:
    """The names under which ``network`` is exported.

    The units of a cut network are counted as they are now, so names have no gaps.

    Raises:
      ValueError: neither torchvision nor timm has such a network; or a cut has left what they lack.
    """
    if vit_names.is_vit(network):
        vit_export.check(network)
        return vit_names.vit(network, vit_names.TIMM)
    if mixer_export.is_mixer(network):
        naming.check_cut(network, "timm")
        return mixers.mixer_names(network, mixers.TIMM)
    return conv_export.names(network) or naming.torchvision(network)


def completed(
    tensors: dict[str, np.ndarray], network: Network, image_shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """``tensors`` of ``network`` with the names of ``names_of``, and what PyTorch's class needs besides."""
    if vit_names.is_vit(network):
        return vit_export.completed(tensors, network, image_shape)
    if mixer_export.is_mixer(network):
        return mixer_export.completed(tensors, network, image_shape)
    return tensors


def building(network: Network, image_shape: tuple[int, int, int], file: str) -> str:
    """How to build ``network``, which was exported to ``file``, in PyTorch: lines of Python, or a sentence on
    the class that they need; "" for a VGG and an AlexNet."""
    if vit_names.is_vit(network):
        return vit_export.building(network, image_shape, file)
    if mixer_export.is_mixer(network):
        return mixer_export.building(network, image_shape, file)
    if lines := conv_export.building(network, image_shape, file):
        return lines
    if not all(isinstance(stack.unit, ResidualUnit) for stack in network.stacks):
        return ""
    sizes = collections.Counter(unit.stack.stage for unit in network.units)
    layers = [sizes[stage] for stage in sorted(sizes)]
    for known in _CLASSES:
        for block in known.blocks:
            if image_shape[-1] == 3 and _is(network, known, block):
                return "\n".join(
                    (
                        f"import safetensors.torch, {known.module} as resnet{known.note}",
                        f"model = resnet.{known.name}(resnet.{block}, layers={layers}, "
                        f"num_classes={network.head.classes})",
                        loaded(file),
                    )
                )
    stages = ", ".join(f"layer{stage} ({n})" for stage, n in enumerate(layers, 1))
    return (
        "The names are those of torchvision's ResNet, which has no network of this form. They fit a class "
        f"with the layers conv1, bn1, {stages} and fc; in brackets are the numbers of units"
    )


def _is(network: Network, known: _Class, block: str) -> bool:
    """Whether a network with torchvision's names is of the class ``known``, with units ``block``."""
    stem, head = network.stem, network.head
    assert isinstance(stem, Stem) and isinstance(head, Head)
    if (stem.form, stem.features, head.widths) != (known.stem, known.widths[0], ()):
        return False
    if max(stack.stage for stack in network.stacks) != len(known.widths):
        return False
    opened = set[int]()
    for stack in network.stacks:
        stride = 2 if stack.stage > 1 and stack.stage not in opened else 1
        opened.add(stack.stage)
        width, unit = known.widths[stack.stage - 1], stack.unit
        assert isinstance(unit, ResidualUnit) and unit.shortcut is not None
        wanted = tuple(
            (kernel, factor * width, stride if j == _STRIDED[block] else 1)
            for j, (kernel, factor) in enumerate(_BLOCKS[block])
        )
        if unit.layers != wanted or unit.shortcut.changes_shape != unit.shortcut.projects:
            return False
    return True
