"""An MLP-Mixer as timm's class ``MlpMixer`` has it: tensors, and the Python that builds it.

Each layer of that class has an MLP along the tokens and one along the channels. Where a cut has left one of
them, the tensors of the other are zeros, so that it adds 0.
"""

import math

import numpy as np

from resjax.models.mixer import TokenMixing
from resjax.models.tokens import PatchEmbedding, TokenHead
from resjax.models.transformer import Mlp, NormedUnit
from resjax.network import Network
from resjax.network.cut import whole
from resjax.pretrained.layouts import python_lines
from resjax.pretrained.layouts.mixers import PARTS, TIMM
from resjax.pretrained.layouts.vit_export import ratio
from resjax.pretrained.layouts.vit_names import layers_of

_ACTIVATIONS = {"gelu_tanh": "GELUTanh", "quick_gelu": "QuickGELU"}  # in timm.layers


def is_mixer(network: Network) -> bool:
    """Whether these are the parts of an MLP-Mixer, of which at least one MLP along the tokens is left."""
    units = [whole(stack.unit) for stack in network.stacks]
    kinds = {type(unit.branch) for unit in units if isinstance(unit, NormedUnit)}
    return (
        isinstance(network.stem, PatchEmbedding)
        and all(isinstance(unit, NormedUnit) for unit in units)
        and TokenMixing in kinds
        and kinds <= {TokenMixing, Mlp}
    )


def completed(
    tensors: dict[str, np.ndarray], network: Network, image_shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """``tensors`` of ``network`` with timm's names, and what the class needs besides."""
    stem, out = _stem(network), dict(tensors)
    tokens = math.prod(side // stem.patch for side in image_shape[:2])
    inputs, widths = (tokens, stem.width), _widths(network)
    for i, left in enumerate(_left(network)):
        for along in {0, 1} - left:
            dense = {TIMM.inner: (widths[along], inputs[along]), TIMM.outer: (inputs[along], widths[along])}
            shapes: dict[str, tuple[int, ...]] = {TIMM.of_norm(i, along): (stem.width,)}
            shapes |= {TIMM.of_mlp(i, along, name): shape for name, shape in dense.items()}
            for layer, shape in shapes.items():
                out[TIMM.tensor(layer, "kernel")] = np.zeros(shape, np.float32)
                out[TIMM.tensor(layer, "bias")] = np.zeros(shape[:1], np.float32)
    return out


def building(network: Network, image_shape: tuple[int, int, int], file: str) -> str:
    """Lines of Python that build ``network``, which was exported to ``file``."""
    stem, head, left = _stem(network), network.head, _left(network)
    assert isinstance(head, TokenHead)
    arguments: dict[str, object] = {
        "img_size": image_shape[:2],
        "patch_size": stem.patch,
        "in_chans": image_shape[-1],
        "num_classes": head.classes,
        "num_blocks": len(left),
        "embed_dim": stem.width,
        "mlp_ratio": tuple(ratio(width, stem.width) for width in _widths(network)),
    }
    told = [python_lines.arguments(arguments)]
    imported = "safetensors.torch, timm.models.mlp_mixer as mlp_mixer"
    if (activation := _branches(network)[0].activation) != "gelu":
        imported = f"timm.layers, {imported}"
        told.append(f"act_layer=timm.layers.{_ACTIVATIONS[activation]}")
    lines = [
        f"import {imported}",
        f"model = mlp_mixer.MlpMixer({', '.join(told)})",
        python_lines.loaded(file),
    ]
    for along, part in enumerate(PARTS):
        gone = (i for i, own in enumerate(left) if along not in own)
        lines += python_lines.without(f"MLP along the {part}", gone)
    return "\n".join(lines)


def _stem(network: Network) -> PatchEmbedding:
    assert isinstance(network.stem, PatchEmbedding)
    return network.stem


def _left(network: Network) -> list[set[int]]:
    """Which MLPs each layer has: 0 is that along the tokens, 1 along the channels."""
    found: dict[int, set[int]] = {}
    for (part, _), i in layers_of(network).items():
        found.setdefault(i, set()).add(PARTS.index(part))
    return [found[i] for i in sorted(found)]


def _branches(network: Network) -> list[TokenMixing | Mlp]:
    units = (stack.unit for stack in network.stacks)
    return [unit.branch for unit in units if isinstance(unit, NormedUnit)]  # type: ignore[misc]


def _widths(network: Network) -> tuple[int, int]:
    """The outputs of the first layers along the tokens and along the channels."""
    widths = {isinstance(branch, Mlp): branch.width for branch in _branches(network)}
    return widths[False], widths.get(True, _stem(network).width)
