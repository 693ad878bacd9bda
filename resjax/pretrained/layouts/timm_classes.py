"""ConvNeXt, MLP-Mixer and ConvMixer in timm: names for export, and the Python that builds their classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from resjax.models.convmixer import ActivatedConv, ConvMixerUnit
from resjax.models.convnext import ConvNextHead, ConvNextStem, ConvNextUnit
from resjax.models.mixer import TokenMixing
from resjax.models.tokens import PatchEmbedding, TokenHead
from resjax.models.transformer import Mlp, NormedUnit
from resjax.network import Network
from resjax.network.cut import HeadAfter, UnitAfter
from resjax.pretrained.layouts.convnext_names import TIMM, convnext, stages
from resjax.pretrained.layouts.mixers import convmixer_names, mixer_names
from resjax.pretrained.layouts.naming import FOR_JAX, check_cut
from resjax.pretrained.layouts.vit_export import ratio
from resjax.pretrained.places import Naming

Shape = tuple[int, int, int]


class _Class(NamedTuple):
    """A class of timm, for networks that ``fits``."""

    fits: Callable[[Network], bool]
    names: Callable[[Network], Naming]
    module: str
    built: Callable[[Network, Shape], str]  # the lines that build ``model``; a sentence if the class can't


def names(network: Network) -> Naming | None:
    """timm's names for ``network``; None for another kind than those of this file.

    Raises:
      ValueError: a cut has left what timm's class lacks.
    """
    found = _class_of(network)
    return found.names(network) if found else None


def building(network: Network, image_shape: Shape, file: str) -> str:
    """How to build ``network``, which was exported to ``file``, with timm: lines of Python, or a sentence on
    the class that they need; "" for another kind of network than those of this file."""
    found = _class_of(network)
    if not found:
        return ""
    built = found.built(network, image_shape)
    if not built.startswith("model = "):
        return built
    return "\n".join(
        (
            f"import safetensors.torch, torch, timm.models.{found.module} as {found.module}",
            built,
            f"model.eval().load_state_dict(safetensors.torch.load_file({file!r}))",
        )
    )


def _class_of(network: Network) -> _Class | None:
    return next((known for known in _CLASSES if known.fits(network)), None)


def _whole(unit: nn.Module) -> nn.Module:
    """A unit or head without what is left of those that were cut in front of it."""
    while isinstance(unit, UnitAfter | HeadAfter):
        unit = unit.unit if isinstance(unit, UnitAfter) else unit.head
    return unit


def _is(network: Network, stem: type, unit: type, head: type) -> bool:
    units = all(isinstance(_whole(stack.unit), unit) for stack in network.stacks)
    return units and isinstance(network.stem, stem) and isinstance(_whole(network.head), head)


def _is_convnext(network: Network) -> bool:
    return _is(network, ConvNextStem, ConvNextUnit, ConvNextHead)


def _convnext_names(network: Network) -> Naming:
    check_cut(network, "timm", shortcuts=True)
    head_norm = "norm_pre" if _whole(network.head).norm_first else TIMM.head_norm
    return convnext(network, TIMM._replace(head_norm=head_norm))


def _convnext(network: Network, image_shape: Shape) -> str:
    _, _, depths, widths = stages(network)
    stem, head = network.stem, _whole(network.head)
    unit = _whole(network.stacks[0].unit)
    # timm has four stages. With other windows, its first stage or its last has another stride than ours.
    if len(depths) != 4 or stem.patch not in (1, 3, 4, 5, 6, 7):
        found = ", ".join(f"stages.{stage} ({n})" for stage, n in enumerate(depths))
        return (
            "The names are those of timm's ConvNeXt, which has four stages, and no windows of 2 pixels or of "
            f"8 and more in its stem. They fit a class with {found}; in brackets are the numbers of units"
        )
    options = {
        "in_chans": image_shape[-1], "num_classes": head.classes, "depths": depths, "dims": widths,
        "patch_size": stem.patch,
    }  # fmt: skip
    if unit.version == "v2":
        options["use_grn"] = True
    if unit.version == "v2" or not unit.layer_scale:
        options["ls_init_value"] = None
    if head.norm_first:
        options["head_norm_first"] = True
    if unit.norm_epsilon != 1e-6:
        options["norm_eps"] = unit.norm_epsilon
    lines = [f"model = convnext.ConvNeXt({_arguments(options)})"]
    if head.norm_epsilon != unit.norm_epsilon:
        lines.append(f"model.{'norm_pre' if head.norm_first else 'head.norm'}.eps = {head.norm_epsilon}")
    return "\n".join(lines)


def _is_mixer(network: Network) -> bool:
    if not _is(network, PatchEmbedding, NormedUnit, TokenHead):
        return False
    units = [_whole(stack.unit) for stack in network.stacks]
    kinds = {type(unit.branch) for unit in units}
    plain = all(unit.placement == "pre" and not unit.layer_scale for unit in units)
    tokens = not network.stem.class_token and network.stem.positions == "none"
    return plain and tokens and TokenMixing in kinds and kinds <= {TokenMixing, Mlp}


def _mixer_names(network: Network) -> Naming:
    check_cut(network, "timm")
    units = [(unit.name, unit.part) for unit in network.units]
    for i, (name, part) in enumerate(units):
        if part != ("tokens", "channels")[i % 2] or (i % 2 == 0 and i + 1 == len(units)):
            raise ValueError(
                "timm's MLP-Mixer has an MLP along the tokens and one along the channels in each layer, and "
                f"a cut has left one alone near {name}: cut both units of a layer, {FOR_JAX}"
            )
    return mixer_names(network)


def _mixer(network: Network, image_shape: Shape) -> str:
    tokens, channels = (_whole(stack.unit).branch for stack in network.stacks[:2])
    width = network.stem.width
    options = {
        "img_size": image_shape[:2], "in_chans": image_shape[-1], "num_classes": network.head.classes,
        "patch_size": network.stem.patch, "num_blocks": network.num_units // 2, "embed_dim": width,
        "mlp_ratio": tuple(ratio(n, width) for n in (tokens.width, channels.width)),
    }  # fmt: skip
    return f"model = mlp_mixer.MlpMixer({_arguments(options)})"


def _is_convmixer(network: Network) -> bool:
    return _is(network, ActivatedConv, ConvMixerUnit, nn.Module)


def _convmixer_names(network: Network) -> Naming:
    check_cut(network, "timm")
    return convmixer_names(network)


def _convmixer(network: Network, image_shape: Shape) -> str:
    patch, depthwise = network.stem.conv, network.stacks[0].unit.depthwise
    options = {
        "dim": patch.features, "depth": network.num_units, "kernel_size": depthwise.conv.kernel[0],
        "patch_size": patch.kernel[0], "in_chans": image_shape[-1], "num_classes": network.head.classes,
    }  # fmt: skip
    activation = ", act_layer=torch.nn.ReLU" if depthwise.activation == "relu" else ""
    return f"model = convmixer.ConvMixer({_arguments(options)}{activation})"


def _arguments(options: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


_CLASSES = (
    _Class(_is_convnext, _convnext_names, "convnext", _convnext),
    _Class(_is_mixer, _mixer_names, "mlp_mixer", _mixer),
    _Class(_is_convmixer, _convmixer_names, "convmixer", _convmixer),
)
