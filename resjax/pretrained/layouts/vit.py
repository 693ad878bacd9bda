"""Vision transformers of timm, torchvision, Hugging Face and Google's JAX code, by names and shapes.

A file does not show the number of heads, unless it is Google's, whose attention has an axis for them. Heads
of 64 numbers are assumed, as in ViT and DeiT up to L, and the known numbers of the larger sizes.
"""

import functools
import itertools
import math
import re
from typing import Any, NamedTuple

from resjax import models
from resjax.pretrained.constants import CLIP, HALF, IMAGENET, Constants
from resjax.pretrained.layouts import heads, vit_names
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.layouts.vit_names import VitNames
from resjax.pretrained.reading.files import Tensors


class Collection(NamedTuple):
    """A collection of vision transformers, and what is the same in all of its networks."""

    name: str
    names: VitNames
    constants: Constants
    whose: str  # the constants
    fields: tuple[tuple[str, Any], ...] = ()  # of the model


COLLECTIONS = (
    Collection("timm", vit_names.TIMM, HALF, "timm's ViT"),
    Collection("torchvision", vit_names.TORCHVISION, IMAGENET, "ImageNet"),
    Collection("torchvision", vit_names.TORCHVISION_FIRST, IMAGENET, "ImageNet"),
    Collection("Hugging Face", vit_names.HUGGING_FACE, HALF, "Google's ViT", (("norm_epsilon", 1e-12),)),
    Collection("Hugging Face", vit_names.HUGGING_FACE_5, HALF, "Google's ViT", (("norm_epsilon", 1e-12),)),
    Collection("vision_transformer", vit_names.JAX, HALF, "Google's ViT", (("activation", "gelu_tanh"),)),
    Collection("big_vision", vit_names.BIG_VISION, HALF, "Google's ViT", (("activation", "gelu_tanh"),)),
)
MARKERS = tuple(dict.fromkeys(one.names.marker for one in COLLECTIONS))
# Heads of the sizes of timm and Google whose heads do not have 64 numbers, by width: So400m, H, g and G.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
_HEAD = 64
_SCALE = 1e-5  # an initial layer scale, which the file's replaces
_GATES = "an MLP with gates (SwiGLU)"
# (pattern of names, what it is) of forms that ours do not have.
_REFUSED = {
    r"dist_token|distillation_token|head_dist\.|distillation_classifier\.": (
        "a distillation token with a classifier of its own (distilled DeiT). The DeiT without it, "
        "deit_*_patch16_224, is imported"
    ),
    r"reg_token|register_tokens": "register tokens",
    r"attn_pool\.|(.*\.)?MAPHead_0\.": "attention in place of pooling (SigLIP)",
    r"patch_embed\.backbone\.|conv_root\.": "convolutions in front of its patches (hybrid)",
    r"blocks\.0\.attn\.(q_bias|relative_position|rel_pos)|rel_pos": "relative positions (BEiT)",
    r"blocks\.0\.attn\.[qk]_norm\.": "normalized queries and keys",
    r"blocks\.0\.(attn|mlp)\.norm\.": "LayerNorm within its branches",
    r"blocks\.0\.mlp\.(fc1_g|fc1_x|w12|w1|w3)\.": _GATES,
    r"blocks\.0\.gamma_1": "layer scales of BEiT and CaiT",
}


def _collections(tensors: Tensors) -> list[Collection]:
    """Those that have the names of the patches and the first attention of ``tensors``."""
    return [one for one in COLLECTIONS if one.names.marker in tensors and one.names.first in tensors]


def is_vit(tensors: Tensors) -> bool:
    """Whether ``tensors`` have the names of a vision transformer."""
    return bool(_collections(tensors))


def vit(tensors: Tensors) -> Layout:
    """The layout of a vision transformer.

    Raises:
      ValueError: it can't be represented here; the message says why.
    """
    for pattern, what in _REFUSED.items():
        if found := next((name for name in tensors if re.match(pattern, name)), None):
            raise ValueError(f"{found}: this vision transformer has {what}, which ours do not have")
    candidates = _collections(tensors)
    collection = next(
        (one for one in candidates if _has(tensors, one.names, *_inner(one.names))), candidates[0]
    )
    names = collection.names
    mlp_width = _mlp_width(tensors, names)
    patches = tensors[names.marker]
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3]:
        raise ValueError(
            f"{names.marker} has shape {patches.shape}; ours have square patches in two dimensions"
        )
    width, channels, patch, _ = patches.shape
    fields = {
        "width": width,
        "depth": _depth(tensors, names),
        "patch": patch,
        "mlp_width": mlp_width,
        "heads": _heads(tensors, names, width),
        "pool": _pool(tensors, names),
        "layer_scale": _SCALE if names.of_layer(0, names.scales[0]) in tensors else 0.0,
        "input_norm": _has(tensors, names, names.input_norm, "scale"),
        **dict(collection.fields),
    }
    classifier, hidden = _classifier(tensors, names)
    fields["representation"] = hidden
    side = 0
    if names.positions in tensors:
        side = _side(tensors[names.positions].shape, names.positions)
    else:
        fields["positions"] = "sincos"
    fields |= {"norm_epsilon": 1e-5} if fields["input_norm"] else {}  # CLIP's
    constants, whose = _constants(tensors, collection, fields)
    return Layout(
        name=collection.name,
        model=models.defaults("vit", **fields),
        naming=functools.partial(vit_names.vit, names=names._replace(head=classifier or names.head)),
        num_classes=tensors[names.tensor(classifier, "kernel")].shape[0] if classifier else 0,
        image_size=side * patch or 224,
        channels=channels,
        mean=constants.mean,
        std=constants.std,
        constants_of=whose,
    )


def _has(tensors: Tensors, names: VitNames, layer: str, leaf: str) -> bool:
    return bool(layer) and names.tensor(layer, leaf) in tensors


def _inner(names: VitNames) -> tuple[str, str]:
    return names.of_layer(0, names.inner), "kernel"


def _mlp_width(tensors: Tensors, names: VitNames) -> int:
    """The outputs of the first layer of an MLP."""
    inner, outer = (names.tensor(names.of_layer(0, name), "kernel") for name in (names.inner, names.outer))
    for name in (inner, outer):
        if name not in tensors:
            raise ValueError(f"{name} is missing: this vision transformer has another MLP than ours")
    if tensors[inner].shape[0] == 2 * tensors[outer].shape[-1]:
        raise ValueError(f"{inner}: this vision transformer has {_GATES}, which ours do not have")
    return tensors[inner].shape[0]


def _depth(tensors: Tensors, names: VitNames) -> int:
    weights = (names.tensor(names.of_layer(i, names.qkv[0]), "kernel") for i in itertools.count())
    return sum(1 for _ in itertools.takewhile(tensors.__contains__, weights))


def _heads(tensors: Tensors, names: VitNames, width: int) -> int:
    """The number of heads, from an axis for them, else assumed: those of nearly 64 numbers."""
    queries = tensors[names.first]
    if queries.ndim == 3:  # heads, numbers of each, inputs
        return queries.shape[0]
    if width in _HEADS:
        return _HEADS[width]
    divisors = (n for n in range(1, width + 1) if width % n == 0)
    return min(divisors, key=lambda n: abs(math.log(width / n / _HEAD)))


def _pool(tensors: Tensors, names: VitNames) -> str:
    token = names.class_token in tensors
    if not _has(tensors, names, names.pooled_norm, "scale"):
        return "cls" if token else "mean"
    if not token:
        raise ValueError(
            f"{names.tensor(names.pooled_norm, 'scale')}: this vision transformer has LayerNorm behind the "
            f"mean of its tokens and no class token, {names.class_token}; ours have both, or LayerNorm in "
            "front"
        )
    return "patches"


def _classifier(tensors: Tensors, names: VitNames) -> tuple[str, int]:
    """The classifier's name, "" if there is none of one layer, and the width of the layer in front of it."""
    if names.tensor(names.head, "kernel") in tensors:
        found = names.head
    else:
        dense = heads.dense(tensors)
        found = dense[0] if len(dense) == 1 else ""
    hidden = names.tensor(names.representation, "kernel")
    return found, tensors[hidden].shape[0] if found and hidden in tensors else 0


def _side(shape: tuple[int, ...], name: str) -> int:
    """Patches of a side of the image, from the shape of the positions, with a class token's or without."""
    tokens = shape[-2] if len(shape) > 1 else 0
    for grid in (tokens - 1, tokens):
        if grid > 0 and math.isqrt(grid) ** 2 == grid:
            return math.isqrt(grid)
    raise ValueError(
        f"{name} has shape {shape}; its {tokens} positions are no square grid of patches, with a class token "
        "or without, as ours are"
    )


def _constants(tensors: Tensors, found: Collection, fields: dict[str, Any]) -> tuple[Constants, str]:
    """The constants of the images' standardization, and whose they are."""
    if fields["input_norm"]:
        return CLIP, "CLIP"
    # DeiT III has layer scales and MAE means of the patches; both have ImageNet's constants.
    if fields["layer_scale"] or fields["pool"] == "patches":
        return IMAGENET, "ImageNet"
    return found.constants, found.whose
