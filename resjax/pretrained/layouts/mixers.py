"""MLP-Mixer and ConvMixer of timm, by names and shapes."""

import itertools
import math

from resjax import models
from resjax.models.mixer import SIZES, Size
from resjax.network import Network
from resjax.pretrained.constants import HALF
from resjax.pretrained.layouts.layout import Layout, refuse
from resjax.pretrained.places import Module, Naming, of_layers
from resjax.pretrained.reading.files import Tensors

# A tensor that every network of the kind has: the weights of its first unit's first layer.
MIXER, CONVMIXER = "blocks.0.mlp_tokens.fc1.weight", "blocks.0.0.fn.0.weight"
_MLP = {"inner": "fc1", "outer": "fc2"}
# The authors' ConvMixer-768/32 has ReLU, the others GELU (README of locuslab/convmixer; timm).
_WITH_RELU = (768, 32)


def mixer(tensors: Tensors) -> Layout:
    """The layout of an MLP-Mixer.

    Raises:
      ValueError: it can't be represented here; the message says why.
    """
    refuse(tensors, {"stem.norm.weight": "a normalization of its patches"})
    depth = _count(tensors, "blocks.{}.mlp_tokens.fc1.weight")
    token_width, tokens = _shape(tensors, MIXER, 2)
    mlp_width, width = _shape(tensors, "blocks.0.mlp_channels.fc1.weight", 2)
    _, channels, _, patch = _shape(tensors, "stem.proj.weight", 4)
    for part, outputs in (("tokens", token_width), ("channels", mlp_width)):
        name = f"blocks.0.mlp_{part}.fc2.weight"
        if (inputs := _shape(tensors, name, 2)[1]) != outputs:
            raise ValueError(
                f"{name} reads {inputs} of the {outputs} outputs of the layer in front of it, so a gate is "
                "between them (gMixer); ours have GELU"
            )
    own = Size(width, depth, token_width, mlp_width, patch)
    size = next((size for size, known in SIZES.items() if known == own), "")
    classes = tensors["head.weight"].shape[0] if "head.weight" in tensors else 0
    return Layout(
        name="timm Mixer",
        model=models.defaults("mixer", **({"size": size} if size else own._asdict())),
        naming=mixer_names,
        num_classes=classes,
        image_size=patch * math.isqrt(tokens),
        mean=HALF.mean,
        std=HALF.std,
        channels=channels,
        constants_of="timm",
    )


def mixer_names(network: Network) -> Naming:
    """timm's names of the layers of an MLP-Mixer whose layers are whole."""

    def name(module: Module) -> str:
        part, row, path = module
        if part == "stem":
            return "stem.proj"
        if part == "head":
            return {"norm": "norm", "classifier": "head"}[path[0]]
        if path == ("norm",):
            return f"blocks.{row}.norm{('tokens', 'channels').index(part) + 1}"
        return f"blocks.{row}.mlp_{part}.{_MLP[path[-1]]}"

    return of_layers(name)


def convmixer(tensors: Tensors) -> Layout:
    """The layout of a ConvMixer.

    Raises:
      ValueError: it can't be represented here; the message says why.
    """
    width, of_each, kernel, _ = _shape(tensors, CONVMIXER, 4)
    depth = _count(tensors, "blocks.{}.0.fn.0.weight")
    _, channels, _, patch = _shape(tensors, "stem.0.weight", 4)
    if of_each != 1 or kernel % 2 == 0:
        raise ValueError(
            f"{CONVMIXER} has shape {tensors[CONVMIXER].shape}; in ours, this convolution is depthwise, of "
            "an odd number of pixels, (channels, 1, side, side)"
        )
    small = patch <= 4
    layout = Layout(
        name="timm ConvMixer",
        model=models.defaults(
            "convmixer",
            width=width,
            depth=depth,
            kernel=kernel,
            patch=patch,
            activation="relu" if (width, depth) == _WITH_RELU else "gelu",
        ),
        naming=convmixer_names,
        num_classes=tensors["head.weight"].shape[0] if "head.weight" in tensors else 0,
        image_size=32 if small else 224,
        channels=channels,
    )
    return layout.for_small_images() if small else layout


def convmixer_names(network: Network) -> Naming:
    """timm's names of the layers of a whole ConvMixer."""
    layers = {
        ("depthwise", "conv"): "0.fn.0", ("depthwise", "bn"): "0.fn.2",
        ("pointwise", "conv"): "1", ("pointwise", "bn"): "3",
    }  # fmt: skip

    def name(module: Module) -> str:
        part, row, path = module
        if part == "stem":
            return {"conv": "stem.0", "bn": "stem.2"}[path[0]]
        return "head" if part == "head" else f"blocks.{row}.{layers[path]}"

    return of_layers(name)


def _count(tensors: Tensors, template: str) -> int:
    return next(i for i in itertools.count() if template.format(i) not in tensors)


def _shape(tensors: Tensors, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor.

    Raises:
      ValueError: it is missing, or has another number of dimensions.
    """
    if name not in tensors:
        raise ValueError(f"{name} is missing, which a network with {MIXER} or {CONVMIXER} has")
    shape = tensors[name].shape
    if len(shape) != rank:
        raise ValueError(f"{name} has shape {shape}; its number of dimensions is {rank} in ours")
    return shape
