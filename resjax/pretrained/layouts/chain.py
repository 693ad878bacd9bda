"""VGG and AlexNet of torchvision, timm and collections for CIFAR, by names and shapes."""

import functools
import math
import re

from resjax import models
from resjax.models.vgg import CONFIGURATIONS
from resjax.pretrained.layouts import heads, naming
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.reading.files import Tensors

MARKER = "features.0.weight"


def is_chain(tensors: Tensors) -> bool:
    """Whether no convolution stands in a module of ``features``, as those of a residual unit do."""
    nested = (key for key in tensors if re.fullmatch(r"features\.\d+\..+\.weight", key))
    return all(tensors[key].ndim != 4 for key in nested)


def chain(tensors: Tensors) -> Layout:
    """VGG and AlexNet: convolutions ``features.N``; N also counts ReLUs, BatchNorms and poolings.

    Raises:
      ValueError: it is another chain, or one that ours can't represent; the message says why.
    """
    if tensors[MARKER].ndim != 4:
        raise ValueError(f"{MARKER} has {tensors[MARKER].ndim} dimensions; that of a VGG or AlexNet has 4")
    channels = tensors[MARKER].shape[1]
    numbers = sorted(
        int(match[1])
        for key, tensor in tensors.items()
        if (match := re.fullmatch(r"features\.(\d+)\.weight", key)) and tensor.ndim == 4
    )
    kernels = [tensors[f"features.{n}.weight"].shape[-1] for n in numbers]
    if kernels[0] == 11:
        return _alexnet(tensors, channels)
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
    timm = "pre_logits.fc1.weight" in tensors
    dense = _there(tensors, naming.TIMM_DENSE) if timm else heads.dense(tensors)
    headless = not dense or (len(dense) > 1 and _is_hidden(tensors, dense[-1]))
    hidden = dense if headless else dense[:-1]
    if len(hidden) > 2:
        raise ValueError(
            f"a VGG with {len(hidden)} hidden fully connected layers, {', '.join(hidden)}; ours have 0 to 2"
        )
    fields = {"fc_width": tensors[f"{hidden[0]}.weight"].shape[0]} if hidden else {}
    model = models.defaults("vgg", configuration=found[0], norm=norm, fc_layers=len(hidden), **fields)
    # The first fully connected layer reads the maps of 512 channels that five poolings leave.
    pixels = math.prod(tensors[f"{dense[0]}.weight"].shape[1:]) // 512 if dense else 49
    layout = Layout(
        name="timm" if timm else _collection(dense, pixels),
        model=model,
        naming=functools.partial(naming.chain, dense=dense),
        num_classes=0 if headless else tensors[f"{dense[-1]}.weight"].shape[0],
        image_size=32 * math.isqrt(pixels),
        channels=channels,
    )
    return layout.for_small_images() if pixels == 1 else layout


def _alexnet(tensors: Tensors, channels: int) -> Layout:
    dense = _there(tensors, naming.ALEXNET_DENSE)
    if dense[:2] != naming.ALEXNET_DENSE[:2]:
        found = ", ".join(heads.dense(tensors)) or "none"
        raise ValueError(
            "a chain that begins with an 11×11 convolution, as AlexNet's, without the fully connected layers "
            f"{' and '.join(naming.ALEXNET_DENSE[:2])} of torchvision's, two units of ours; it has {found}. "
            "Only torchvision's AlexNet is imported, with or without its classifier"
        )
    model = models.defaults("alexnet", form="one_column")
    named = functools.partial(naming.chain, dense=dense)
    classes = tensors[f"{dense[2]}.weight"].shape[0] if len(dense) == 3 else 0
    return Layout("torchvision", model, named, classes, 224, channels=channels)


def _there(tensors: Tensors, layers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in layers if f"{name}.weight" in tensors)


def _is_hidden(tensors: Tensors, layer: str) -> bool:
    """Whether the last fully connected layer is no classifier: it has as many outputs as inputs."""
    out, *into = tensors[f"{layer}.weight"].shape
    return out == math.prod(into)


def _collection(dense: tuple[str, ...], pixels: int) -> str:
    """The collection that uses these names, or "mixed names"."""
    if dense == ("classifier",):
        return "kuangliu"
    if dense[:2] == naming.VGG_DENSE[: len(dense)][:2]:
        return "chenyaofo" if pixels == 1 else "torchvision"
    return "mixed names"
