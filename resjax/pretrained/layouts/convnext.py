"""ConvNeXt and ConvNeXt V2 of their authors, timm, torchvision and Hugging Face, by names and shapes."""

import functools
import itertools

from resjax import models
from resjax.models.convnext import SIZES
from resjax.pretrained.layouts import convnext_names
from resjax.pretrained.layouts.convnext_names import HUGGING_FACE, HUGGING_FACE_V2, TIMM, ConvNextNames
from resjax.pretrained.layouts.layout import Layout, refuse
from resjax.pretrained.reading.files import Tensors

_STAGES = 16
# timm's convnext_xxlarge, whose LayerNorm has another ε.
_XXLARGE = (384, 768, 1536, 3072)


def convnext(tensors: Tensors, names: ConvNextNames) -> Layout:
    """The layout of a network whose layers have the names ``names``.

    Raises:
      ValueError: it can't be represented here; the message says why.
    """
    _refuse(tensors, names)
    counts = (_count(tensors, names, stage) for stage in itertools.count())
    sizes = tuple(itertools.takewhile(bool, counts))
    if len(sizes) > _STAGES:
        raise ValueError(f"a network of {len(sizes):,} stages; at most {_STAGES} are imported")
    widths = tuple(_width(tensors, names, stage) for stage in range(len(sizes)))
    patch, channels = _stem(tensors, names)
    first = names.of_unit(0, 0)
    timm = names == TIMM
    norm_first = timm and "norm_pre.weight" in tensors
    if norm_first:
        names = names._replace(head_norm="norm_pre")
    second = bool(names.grn[0]) and f"{first}.{names.grn[0]}" in tensors
    hugging_face = names in (HUGGING_FACE, HUGGING_FACE_V2)
    size = next((size for size, own in SIZES.items() if own == (sizes, widths, patch)), "")
    fields = {"size": size} if size else {"stage_sizes": sizes, "widths": widths, "patch": patch}
    scaled = second or f"{first}.{names.scale}" in tensors
    model = models.defaults(
        "convnext",
        version="v2" if second else "v1",
        layer_scale=1e-6 if scaled else 0.0,
        norm_first=norm_first,
        norm_epsilon=1e-5 if timm and widths == _XXLARGE else 1e-6,
        head_norm_epsilon=1e-12 if hugging_face else 0.0,
        **fields,
    )
    head = f"{names.head}.weight"
    layout = Layout(
        name=names.collection,
        model=model,
        naming=functools.partial(convnext_names.convnext, names=names),
        num_classes=tensors[head].shape[0] if head in tensors else 0,
        image_size=224 if patch > 2 else 32,
        channels=channels,
    )
    return layout if patch > 2 else layout.for_small_images()


def _refuse(tensors: Tensors, names: ConvNextNames) -> None:
    """Refuses what other networks with such names have."""
    first, down, stem_norm = names.of_unit(0, 0), names.of_down(0), f"{names.stem_norm}.weight"
    if stem_norm in tensors and tensors[stem_norm].ndim == 4:
        raise ValueError(
            f"{names.stem} and {names.stem_norm} are a stem of overlapping windows (timm's 'ols' forms); "
            "ours has one convolution, whose windows do not overlap"
        )
    early = "" if names.stem.startswith(f"{down}.") else f"{down}.1.weight"
    refuse(
        tensors,
        {
            f"{names.stem_norm}.running_mean": "BatchNorm in place of LayerNorm",
            early: "a down-sampling in front of its first stage",
            f"{first}.shortcut.conv.weight": "units that change the number of channels",
            "head.pre_logits.fc.weight": "a hidden layer in its head",
        },
    )
    norm = f"{first}.{names.norm}"
    if f"{norm}.weight" not in tensors or f"{norm}.bias" not in tensors:
        raise ValueError(
            f"{norm} has no weight and bias, so the units have another normalization than LayerNorm, the "
            "only one that ours have (the 'rms' forms of timm have RMSNorm)"
        )


def _width(tensors: Tensors, names: ConvNextNames, stage: int) -> int:
    """The channels of a stage.

    Raises:
      ValueError: its first unit has other convolutions than ours.
    """
    unit = names.of_unit(stage, 0)
    depthwise, inner = (f"{unit}.{layer}.weight" for layer in (names.depthwise, names.inner))
    shape = tensors[depthwise].shape
    if shape[1:] != (1, 7, 7):
        raise ValueError(
            f"{depthwise} has shape {shape}; in ours, the first convolution of a unit is depthwise with 7×7 "
            "pixels, (channels, 1, 7, 7)"
        )
    if inner in tensors and tensors[inner].shape[0] != 4 * shape[0]:
        raise ValueError(
            f"{inner} has {tensors[inner].shape[0]} outputs in a stage of width {shape[0]}; in ours, it has "
            "four times the width"
        )
    return shape[0]


def _stem(tensors: Tensors, names: ConvNextNames) -> tuple[int, int]:
    """The pixels of a side of the stem's windows, and the channels of the images.

    Raises:
      ValueError: it is missing, or has another form.
    """
    stem = f"{names.stem}.weight"
    shape = tensors[stem].shape if stem in tensors else ()
    if len(shape) != 4 or shape[2] != shape[3]:
        found = f"{stem} has shape {shape}" if shape else f"{stem} is missing"
        raise ValueError(f"{found}; the first convolution has square windows, (channels, 3, side, side)")
    return shape[2], shape[1]


def _count(tensors: Tensors, names: ConvNextNames, stage: int) -> int:
    """Units of a stage."""
    return next(
        i for i in itertools.count() if f"{names.of_unit(stage, i)}.{names.depthwise}.weight" not in tensors
    )
