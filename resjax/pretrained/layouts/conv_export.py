"""ConvNeXt and ConvMixer as timm's classes have them: names for export, and the Python that builds them."""

from resjax.models.convmixer import ActivatedConv, ConvMixerUnit
from resjax.models.convnext import ConvNextHead, ConvNextStem, ConvNextUnit
from resjax.models.stem_head import Head
from resjax.network import Network
from resjax.network.cut import whole
from resjax.pretrained.layouts.convnext_names import TIMM, convnext, stages
from resjax.pretrained.layouts.mixers import convmixer_names
from resjax.pretrained.layouts.naming import check_cut
from resjax.pretrained.layouts.python_lines import arguments as told
from resjax.pretrained.layouts.python_lines import loaded
from resjax.pretrained.places import Naming

Shape = tuple[int, int, int]


def names(network: Network) -> Naming | None:
    """timm's names for a ConvNeXt or ConvMixer; None for other networks.

    Raises:
      ValueError: a cut has left what timm's class lacks.
    """
    if is_convnext(network):
        check_cut(network, "timm", shortcuts=True)
        head_norm = "norm_pre" if _head(network).norm_first else TIMM.head_norm
        return convnext(network, TIMM._replace(head_norm=head_norm))
    if is_convmixer(network):
        check_cut(network, "timm")
        return convmixer_names(network)
    return None


def building(network: Network, image_shape: Shape, file: str) -> str:
    """Lines of Python that build a ConvNeXt or ConvMixer, which was exported to ``file``, or a sentence on
    the class that they need; "" for other networks."""
    if is_convnext(network):
        return _convnext(network, image_shape, file)
    return _convmixer(network, image_shape, file) if is_convmixer(network) else ""


def is_convnext(network: Network) -> bool:
    """Whether these are the parts of a ConvNeXt, whole or cut."""
    units = all(isinstance(whole(stack.unit), ConvNextUnit) for stack in network.stacks)
    return units and isinstance(network.stem, ConvNextStem) and isinstance(whole(network.head), ConvNextHead)


def is_convmixer(network: Network) -> bool:
    """Whether these are the parts of a ConvMixer, whole or cut."""
    units = all(isinstance(whole(stack.unit), ConvMixerUnit) for stack in network.stacks)
    return units and isinstance(network.stem, ActivatedConv)


def _head(network: Network) -> ConvNextHead:
    head = whole(network.head)
    assert isinstance(head, ConvNextHead)
    return head


def _convnext(network: Network, image_shape: Shape, file: str) -> str:
    found, stem, head = stages(network), network.stem, _head(network)
    unit = whole(network.stacks[0].unit)
    assert isinstance(stem, ConvNextStem) and isinstance(unit, ConvNextUnit)
    # timm has four stages. With other windows, its first stage or its last has another stride than ours.
    if len(found.depths) != 4 or stem.patch not in (1, 3, 4, 5, 6, 7):
        there = ", ".join(f"stages.{stage} ({n})" for stage, n in enumerate(found.depths))
        return (
            "The names are those of timm's ConvNeXt, which has four stages, and no windows of 2 pixels or of "
            f"8 and more in its stem. They fit a class with {there}; in brackets are the numbers of units"
        )
    arguments: dict[str, object] = {
        "in_chans": image_shape[-1],
        "num_classes": head.classes,
        "depths": found.depths,
        "dims": found.widths,
        "patch_size": stem.patch,
    }
    if unit.version == "v2":
        arguments["use_grn"] = True
    if unit.version == "v2" or not unit.layer_scale:
        arguments["ls_init_value"] = None
    if head.norm_first:
        arguments["head_norm_first"] = True
    if unit.norm_epsilon != 1e-6:
        arguments["norm_eps"] = unit.norm_epsilon
    lines = [
        "import safetensors.torch, timm.models.convnext as convnext",
        f"model = convnext.ConvNeXt({told(arguments)})",
    ]
    if head.norm_epsilon != unit.norm_epsilon:
        norm = "norm_pre" if head.norm_first else "head.norm"
        lines.append(f"model.{norm}.eps = {head.norm_epsilon!r}")
    return "\n".join((*lines, loaded(file)))


def _convmixer(network: Network, image_shape: Shape, file: str) -> str:
    stem, unit, head = network.stem, network.stacks[0].unit, network.head
    assert isinstance(stem, ActivatedConv) and isinstance(unit, ConvMixerUnit) and isinstance(head, Head)
    arguments: dict[str, object] = {
        "dim": stem.conv.features,
        "depth": network.num_units,
        "kernel_size": unit.depthwise.conv.kernel[0],
        "patch_size": stem.conv.kernel[0],
        "in_chans": image_shape[-1],
        "num_classes": head.classes,
    }
    relu = unit.depthwise.activation == "relu"
    imported = "safetensors.torch, torch" if relu else "safetensors.torch"
    activation = ", act_layer=torch.nn.ReLU" if relu else ""
    return "\n".join(
        (
            f"import {imported}, timm.models.convmixer as convmixer",
            f"model = convmixer.ConvMixer({told(arguments)}{activation})",
            loaded(file),
        )
    )
