"""Recognizing the network of a set of tensors by their names and shapes.

A file of tensors does not contain the connections of the layers. What it does not show is assumed to be as in
the collection with the same names, and can be changed like any field of the configuration: the strided
convolution of a bottleneck (its 3×3, as everywhere since torchvision), the side on which option A adds
channels (both), BatchNorm's ε of 1e-5, and poolings without blur.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resjax import models
from resjax.data.info import IMAGENET_MEAN, IMAGENET_STD, Channels
from resjax.models.resnet import IMAGENET_SIZES
from resjax.models.vgg import CONFIGURATIONS
from resjax.network import Network
from resjax.pretrained import naming
from resjax.pretrained.files import Tensors
from resjax.pretrained.naming import ResidualNames
from resjax.pretrained.places import Naming

_WIDTHS = (64, 128, 256, 512)
KNOWN = (
    "torchvision and timm (ResNet, VGG; AlexNet), timm ResNetV2, Hugging Face microsoft/resnet-*, and the "
    "CIFAR networks of akamaster/pytorch_resnet_cifar10 and chenyaofo/pytorch-cifar-models"
)


class Layout(NamedTuple):
    """The recognized network of a set of tensors."""

    name: str  # of the naming scheme
    model: ConfigDict  # the configuration of the network
    naming: Callable[[Network], Naming]  # from a network to the names of its layers
    num_classes: int  # of its training data; inferred from shapes, like image_size
    image_size: int
    mean: Channels = IMAGENET_MEAN  # the authors' constants for standardizing pixels in 0 … 1
    std: Channels = IMAGENET_STD

    @property
    def augmentation(self) -> dict[str, Any]:
        """Fields of ``config.data`` for the crops and flips of the authors' training, from which the running
        statistics come. A file does not show them; these are the recipes of torchvision, timm and both
        collections for CIFAR."""
        if self.image_size == 32:
            return {"pad": 4, "pad_with": "black", "flip": True}
        return {"crop": "inception", "flip": True}

    def for_small_images(self) -> "Layout":
        """This layout in chenyaofo's collection of networks for CIFAR-10 and CIFAR-100."""
        mean, std = _CHENYAOFO.get(self.num_classes, (self.mean, self.std))
        return self._replace(name="chenyaofo", image_size=32, mean=mean, std=std)


# By the number of classes.
_CHENYAOFO: dict[int, tuple[Channels, Channels]] = {
    10: ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    100: ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


def recognize(tensors: Tensors) -> Layout:
    """The layout of ``tensors``.

    Raises:
      ValueError: the layout is unknown, or its network can't be represented here; the message says why.
    """
    if "stages.0.blocks.0.conv1.weight" in tensors:
        return _timm_v2(tensors)
    if "resnet.embedder.embedder.convolution.weight" in tensors:
        return _residual("Hugging Face", tensors, naming.HUGGING_FACE)
    if "layer1.0.conv1.weight" in tensors:
        if "linear.weight" in tensors:
            return _residual("akamaster", tensors, naming.CIFAR)
        return _residual("torchvision", tensors, naming.TORCHVISION)
    if "features.0.weight" in tensors:
        return _chain(tensors)
    first = ", ".join(itertools.islice(tensors, 5))
    raise ValueError(f"these tensors have no known layout: {len(tensors)} of them, {first}, … Known: {KNOWN}")


def _residual(whose: str, tensors: Tensors, names: ResidualNames) -> Layout:
    _refuse(
        tensors,
        {
            "conv1.0.weight": "a stem of three convolutions (ResNet-D)",
            "layer1.0.downsample.2.weight": "shortcuts with average pooling (ResNet-D)",
            "layer2.0.downsample.2.weight": "shortcuts with average pooling (ResNet-D)",
            "layer1.0.se.fc1.weight": "squeeze-and-excitation",
            "layer1.0.conv2.fc1.weight": "split attention",
        },
    )
    _need(tensors, (f"{names.stem}.weight", f"{names.head}.weight"), whose)
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


def _timm_v2(tensors: Tensors) -> Layout:
    _refuse(
        tensors,
        {
            "stem.conv1.weight": "a stem of three convolutions (d and t forms)",
            "stem.norm.weight": "a normalized stem (not pre-activation)",
        },
    )
    names = naming.TIMM_V2
    _need(tensors, (f"{names.stem}.weight", f"{names.head}.weight"), "timm ResNetV2")
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


def _chain(tensors: Tensors) -> Layout:
    """VGG and AlexNet: convolutions ``features.N``; N also counts ReLUs, BatchNorms and poolings."""
    numbers = sorted(
        int(key.split(".")[1])
        for key, tensor in tensors.items()
        if key.startswith("features.") and key.endswith(".weight") and tensor.ndim == 4
    )
    kernels = [tensors[f"features.{n}.weight"].shape[-1] for n in numbers]
    if kernels[0] == 11:
        _need(tensors, ("classifier.1.weight", "classifier.6.weight"), "torchvision")
        model = models.defaults("alexnet", form="one_column")
        named = functools.partial(naming.chain, dense=naming.ALEXNET_DENSE)
        return Layout("torchvision", model, named, tensors["classifier.6.weight"].shape[0], 224)
    timm = "pre_logits.fc1.weight" in tensors
    whose, dense = ("timm", naming.TIMM_DENSE) if timm else ("torchvision", naming.VGG_DENSE)
    _need(tensors, [f"{name}.weight" for name in dense], whose)
    norm = "features.1.running_mean" in tensors
    stages: list[list[int]] = []
    for n, kernel, before in zip(numbers, kernels, [None, *numbers], strict=False):
        if before is None or n - before > (3 if norm else 2):
            stages.append([])
        stages[-1].append(kernel)
    form = tuple(map(tuple, stages))
    found = [name for name, wanted in CONFIGURATIONS.items() if wanted == form]
    if not found:
        raise ValueError(
            f"a chain of convolutions that is not a VGG: kernels {form} between poolings; known: "
            f"{', '.join(f'{k}: {v}' for k, v in CONFIGURATIONS.items())}"
        )
    fc6 = tensors[f"{dense[0]}.weight"]
    model = models.defaults("vgg", configuration=found[0], norm=norm, fc_width=fc6.shape[0])
    named = functools.partial(naming.chain, dense=dense)
    layout = Layout(whose, model, named, tensors[f"{dense[2]}.weight"].shape[0], 224)
    # fc6 reads maps of one pixel, so the images are 32×32.
    return layout.for_small_images() if fc6.size == 512 * fc6.shape[0] else layout


def _refuse(tensors: Tensors, reasons: dict[str, str]) -> None:
    for key, reason in reasons.items():
        if key in tensors:
            raise ValueError(f"{key}: this network has {reason}, which ours do not have")


def _need(tensors: Tensors, keys: Any, whose: str) -> None:
    missing = [key for key in keys if key not in tensors]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing, which every network with {whose}'s names has: is this only "
            "a part of one?"
        )
