"""A vision transformer as timm's class ``VisionTransformer`` has it: tensors, and the Python that builds it.

That class has an attention and an MLP in each layer, learned positions, and, with CLIP's LayerNorm behind
them, no bias of its patches. What our network lacks or has in another form is written so that the outputs are
the same: where a cut has left one branch of a layer, the tensors of the other are zeros, so that it adds 0;
fixed positions are written as learned ones; and the bias of the patches is added to their positions.
"""

import dataclasses
import math

import numpy as np

from resjax.models.tokens import PatchEmbedding, TokenHead, sincos
from resjax.models.transformer import Attention, Mlp, NormedUnit
from resjax.network import Network
from resjax.pretrained.layouts import python_lines
from resjax.pretrained.layouts.vit_names import TIMM, branches, layers_of


@dataclasses.dataclass(frozen=True)
class _Form:
    """What timm's class needs to know of a network."""

    stem: PatchEmbedding
    head: TokenHead
    kinds: dict[int, set[str]]  # of a layer: 'attention', 'mlp' or both
    heads: int
    mlp_width: int
    layer_scale: bool
    activation: str
    epsilon: float


def check(network: Network) -> None:
    """Raises ValueError for a vision transformer with a part that timm's class lacks."""
    if _form(network).head.representation:
        raise ValueError(
            "timm's vision transformers have no layer in front of the classifier; train with "
            "model.representation=0, or write the network for JAX, --export=FILE"
        )


def completed(
    tensors: dict[str, np.ndarray], network: Network, image_shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """``tensors`` of ``network`` with timm's names, and what the class needs besides."""
    form, out = _form(network), dict(tensors)
    rows, columns = (side // form.stem.patch for side in image_shape[:2])
    width, token = form.stem.width, int(form.stem.class_token)
    if TIMM.positions not in out:
        fixed = form.stem.positions == "sincos"
        at = sincos(rows, columns, width) if fixed else np.zeros((rows * columns, width), np.float32)
        out[TIMM.positions] = np.pad(at, ((token, 0), (0, 0)))[None]
    if form.stem.norm:
        bias = out.pop(TIMM.tensor(TIMM.patch, "bias"))
        of_patches = np.broadcast_to(bias, (rows * columns, width))
        out[TIMM.positions] = out[TIMM.positions] + np.pad(of_patches, ((token, 0), (0, 0)))
    for i, kinds in form.kinds.items():
        for kind in {"attention", "mlp"} - kinds:
            shapes = _shapes(kind, form, width)
            out |= {TIMM.of_layer(i, name): np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return out


def building(network: Network, image_shape: tuple[int, int, int], file: str) -> str:
    """Lines of Python that build ``network``, which was exported to ``file``."""
    form = _form(network)
    stem, head = form.stem, form.head
    height, width, channels = image_shape
    arguments: dict[str, object] = {
        "img_size": height if height == width else (height, width),
        "patch_size": stem.patch,
        "in_chans": channels,
        "num_classes": head.classes,
        "embed_dim": stem.width,
        "depth": len(form.kinds),
        "num_heads": form.heads,
        "mlp_ratio": ratio(form.mlp_width, stem.width),
    }
    if form.layer_scale:
        arguments["init_values"] = 1e-5
    if head.pool == "mean":
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    elif head.pool == "patches":
        arguments["global_pool"] = "avg"
    if stem.norm:
        arguments["pre_norm"] = True
    if form.activation != "gelu":
        arguments["act_layer"] = form.activation
    told = [python_lines.arguments(arguments)]
    lines = ["import safetensors.torch, timm.models.vision_transformer as vit"]
    if form.epsilon != 1e-6:
        lines[0] = f"import functools, torch, {lines[0].removeprefix('import ')}"
        told.append(f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={form.epsilon!r})")
    lines += [
        f"model = vit.VisionTransformer({', '.join(told)})",
        python_lines.loaded(file),
    ]
    for kind, name in (("attention", "attention"), ("mlp", "MLP")):
        gone = (i for i, kinds in form.kinds.items() if kind not in kinds)
        lines += python_lines.without(name, gone)
    return "\n".join(lines)


def _form(network: Network) -> _Form:
    assert isinstance(network.stem, PatchEmbedding) and isinstance(network.head, TokenHead)
    layers, kinds = layers_of(network), dict[int, set[str]]()
    units: list[NormedUnit] = []
    for info in network.units:
        own = branches(info.stack.unit)
        kinds.setdefault(layers[info.part, info.row], set()).update(own)
        units += own.values()
    attention = next((unit.branch for unit in units if isinstance(unit.branch, Attention)), None)
    mlp = next((unit.branch for unit in units if isinstance(unit.branch, Mlp)), None)
    return _Form(
        stem=network.stem,
        head=network.head,
        kinds=kinds,
        heads=attention.heads if attention else 1,
        mlp_width=mlp.width if mlp else network.stem.width,
        layer_scale=bool(units[0].layer_scale),
        activation=mlp.activation if mlp else "gelu",
        epsilon=network.head.norm_epsilon,
    )


def _shapes(kind: str, form: _Form, width: int) -> dict[str, tuple[int, ...]]:
    """{name in a layer: shape} of the tensors of one branch."""
    if kind == "attention":
        norm, scale = TIMM.attention_norm, TIMM.scales[0]
        dense = {TIMM.qkv[0]: (3 * width, width), TIMM.out: (width, width)}
    else:
        norm, scale = TIMM.mlp_norm, TIMM.scales[1]
        dense = {TIMM.inner: (form.mlp_width, width), TIMM.outer: (width, form.mlp_width)}
    shapes: dict[str, tuple[int, ...]] = {TIMM.tensor(norm, leaf): (width,) for leaf in ("scale", "bias")}
    for name, shape in dense.items():
        shapes |= {TIMM.tensor(name, "kernel"): shape, TIMM.tensor(name, "bias"): shape[:1]}
    return shapes | ({scale: (width,)} if form.layer_scale else {})


def ratio(mlp_width: int, width: int) -> float:
    """A number r for which int(width · r), which timm computes, is ``mlp_width``."""
    ratio = mlp_width / width
    return ratio if int(width * ratio) == mlp_width else math.nextafter(ratio, math.inf)
