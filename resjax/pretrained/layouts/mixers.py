"""MLP-Mixer of timm and of its authors' JAX code, and ConvMixer of timm, by names and shapes."""

import functools
import itertools
import math
from typing import NamedTuple

from resjax import models
from resjax.models.mixer import SIZES, Size
from resjax.network import Network
from resjax.pretrained.constants import HALF
from resjax.pretrained.layouts.layout import Layout, refuse
from resjax.pretrained.layouts.vit_names import layers_of
from resjax.pretrained.places import Module, Naming, of_layers
from resjax.pretrained.reading.files import Tensors


class MixerNames(NamedTuple):
    """Names of layers; {i} is the number of a layer of the network, which has an MLP along the tokens and one
    along the channels."""

    stem: str
    layer: str  # the prefix of a layer, of which the following are parts; each has a name for both MLPs
    norms: tuple[str, str]
    mlps: tuple[str, str]
    inner: str  # in an MLP
    outer: str
    norm: str  # behind the last layer
    leaves: tuple[str, str] = ("weight", "weight")  # the weights of a layer, and of a LayerNorm

    def tensor(self, layer: str, leaf: str) -> str:
        """The name of an array of ours, 'kernel', 'scale' or 'bias', of a layer."""
        return f"{layer}.{dict(zip(('kernel', 'scale'), self.leaves, strict=True)).get(leaf, leaf)}"

    def of_mlp(self, i: int, along: int, layer: str) -> str:
        """Layer ``inner`` or ``outer`` of an MLP in layer ``i``, ``along`` the tokens, 0, or channels, 1."""
        return f"{self.layer.format(i=i)}.{self.mlps[along]}.{layer}"

    def of_norm(self, i: int, along: int) -> str:
        """The LayerNorm in front of that MLP."""
        return f"{self.layer.format(i=i)}.{self.norms[along]}"

    @property
    def marker(self) -> str:
        """A tensor that every network with these names has: the weights of its first unit's first layer."""
        return self.tensor(self.of_mlp(0, 0, self.inner), "kernel")


TIMM = MixerNames(
    stem="stem.proj", layer="blocks.{i}", norms=("norm1", "norm2"), mlps=("mlp_tokens", "mlp_channels"),
    inner="fc1", outer="fc2", norm="norm",
)  # fmt: skip
# Of google-research/vision_transformer.
JAX = MixerNames(
    stem="stem", layer="MixerBlock_{i}", norms=("LayerNorm_0", "LayerNorm_1"),
    mlps=("token_mixing", "channel_mixing"), inner="Dense_0", outer="Dense_1", norm="pre_head_layer_norm",
    leaves=("kernel", "scale"),
)  # fmt: skip
PARTS = ("tokens", "channels")
# A tensor that every ConvMixer of timm has.
CONVMIXER = "blocks.0.0.fn.0.weight"
# The authors' ConvMixer-768/32 has ReLU, the others GELU (README of locuslab/convmixer; timm).
_WITH_RELU = (768, 32)


def mixer(tensors: Tensors, names: MixerNames) -> Layout:
    """The layout of an MLP-Mixer whose layers have the names ``names``.

    Raises:
      ValueError: it can't be represented here; the message says why.
    """
    refuse(tensors, {"stem.norm.weight": "a normalization of its patches"})

    def weights(along: int, layer: str, i: int = 0) -> str:
        return names.tensor(names.of_mlp(i, along, layer), "kernel")

    depth = next(i for i in itertools.count() if weights(0, names.inner, i) not in tensors)
    token_width, tokens = _shape(tensors, names.marker, 2)
    mlp_width, width = _shape(tensors, weights(1, names.inner), 2)
    _, channels, _, patch = _shape(tensors, names.tensor(names.stem, "kernel"), 4)
    for along, outputs in enumerate((token_width, mlp_width)):
        name = weights(along, names.outer)
        if (inputs := _shape(tensors, name, 2)[1]) != outputs:
            raise ValueError(
                f"{name} reads {inputs} of the {outputs} outputs of the layer in front of it, so a gate is "
                "between them (gMixer); ours have GELU"
            )
    own = Size(width, depth, token_width, mlp_width, patch)
    size = next((size for size, known in SIZES.items() if known == own), "")
    head = names.tensor("head", "kernel")
    return Layout(
        name="timm Mixer" if names == TIMM else "vision_transformer Mixer",
        model=models.defaults(
            "mixer",
            activation="gelu" if names == TIMM else "gelu_tanh",
            **({"size": size} if size else own._asdict()),
        ),
        naming=functools.partial(mixer_names, names=names),
        num_classes=tensors[head].shape[0] if head in tensors else 0,
        image_size=patch * math.isqrt(tokens),
        mean=HALF.mean,
        std=HALF.std,
        channels=channels,
        constants_of="timm's Mixer" if names == TIMM else "Google's Mixer",
    )


def mixer_names(network: Network, names: MixerNames) -> Naming:
    """The names of all arrays of an MLP-Mixer. Its layers are counted as they are now, without gaps.

    A layer counts if one of its MLPs is left.
    """
    layers = layers_of(network)

    def tensors(module: Module, leaf: str) -> tuple[str, ...]:
        part, row, path = module
        if part == "stem":
            layer = names.stem
        elif part == "head":
            layer = {"norm": names.norm, "classifier": "head"}[path[0]]
        else:
            place = layers[part, row], PARTS.index(part)
            own = {"inner": names.inner, "outer": names.outer}.get(path[-1])
            layer = names.of_mlp(*place, own) if own else names.of_norm(*place)
        return (names.tensor(layer, leaf),)

    return tensors


def convmixer(tensors: Tensors) -> Layout:
    """The layout of a ConvMixer.

    Raises:
      ValueError: it can't be represented here; the message says why.
    """
    width, of_each, kernel, _ = _shape(tensors, CONVMIXER, 4)
    depth = next(i for i in itertools.count() if f"blocks.{i}.0.fn.0.weight" not in tensors)
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
    layers: dict[tuple[str, ...], str] = {
        ("depthwise", "conv"): "0.fn.0", ("depthwise", "bn"): "0.fn.2",
        ("pointwise", "conv"): "1", ("pointwise", "bn"): "3",
    }  # fmt: skip

    def name(module: Module) -> str:
        part, row, path = module
        if part == "stem":
            return {"conv": "stem.0", "bn": "stem.2"}[path[0]]
        return "head" if part == "head" else f"blocks.{row}.{layers[path]}"

    return of_layers(name)


def _shape(tensors: Tensors, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor.

    Raises:
      ValueError: it is missing, or has another number of dimensions.
    """
    if name not in tensors:
        raise ValueError(f"{name} is missing, which every network with the names of this one has")
    shape = tensors[name].shape
    if len(shape) != rank:
        raise ValueError(f"{name} has shape {shape}; it has {rank} dimensions in ours")
    return shape
