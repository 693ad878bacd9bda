"""Vision transformers as timm, torchvision and transformers build them, as in ``torch_models``.

An attention's output with its shortcut is the input of the LayerNorm that follows it.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from pretrained_helpers import draw
from safetensors.numpy import load_file, save_file
from torch_models import drawn

WIDTH, DEPTH, HEADS, PATCH, CLASSES = 128, 2, 2, 4, 5


def _looked_at(block, norm, depth=DEPTH):
    inside = (f"{block.format(i=i)}{what}" for i in range(depth) for what in (f".{norm}:in", ""))
    return [f"{block.format(i=0)}:in", *inside]


def _timm(size, **form):
    from timm.models.vision_transformer import VisionTransformer

    given = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 1.5,
             "num_classes": CLASSES}  # fmt: skip
    return VisionTransformer(img_size=size, **given | form)


def _timm_vit(size, **form):
    model = _timm(size, **form)
    return drawn(model), _looked_at("blocks.{i}", "norm2", len(model.blocks)), model.state_dict()


def _timm_named(size, name, **form):
    import timm

    model = timm.create_model(name, num_classes=7, **form)
    return drawn(model), _looked_at("blocks.{i}", "norm2", len(model.blocks)), model.state_dict()


def _clip(size):
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
    return _timm_vit(size, pre_norm=True, norm_layer=norm, act_layer="quick_gelu")


def _torchvision(size, **form):
    from torchvision.models import VisionTransformer

    model = VisionTransformer(size, PATCH, DEPTH, HEADS, WIDTH, 192, num_classes=CLASSES, **form)
    return drawn(model), _looked_at("encoder.layers.encoder_layer_{i}", "ln_2"), model.state_dict()


def _torchvision_named(size, name):
    from torchvision import models

    model = models.get_model(name, num_classes=7)
    depth = len(model.encoder.layers)
    return drawn(model), _looked_at("encoder.layers.encoder_layer_{i}", "ln_2", depth), model.state_dict()


def _hugging_face(size, file):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=192,
        image_size=size, patch_size=PATCH, num_labels=CLASSES,
    )  # fmt: skip
    model = drawn(ViTForImageClassification(config))
    tensors = model.state_dict()
    if file:  # its names are not those of the modules
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            path = Path(folder) / "model.safetensors"
            tensors = {k: draw(k, v.shape) for k, v in load_file(path).items()}
            save_file(tensors, path, metadata={"format": "pt"})
            model = ViTForImageClassification.from_pretrained(folder).eval()
    blocks = [name for name, module in model.named_modules() if type(module).__name__ == "ViTLayer"]
    looked_at = [f"{blocks[0]}:in", *(f"{b}{what}" for b in blocks for what in (".layernorm_after:in", ""))]
    return model, looked_at, tensors


def _google(size, big=False):
    """Arrays with the names of Google's JAX code, and timm's network that reads them."""
    from timm.models.vision_transformer import _load_weights

    per_head, hidden = WIDTH // HEADS, 192
    mha, norm, mlp = (0, 1, 0) if big else (1, 2, 3)
    shapes = {
        "cls": (1, 1, WIDTH), "embedding/kernel": (PATCH, PATCH, 3, WIDTH), "embedding/bias": (WIDTH,),
        "pos_embedding" if big else "Transformer/posembed_input/pos_embedding":
            (1, (size // PATCH) ** 2 + 1, WIDTH),
        "Transformer/encoder_norm/scale": (WIDTH,), "Transformer/encoder_norm/bias": (WIDTH,),
        "head/kernel": (WIDTH, CLASSES), "head/bias": (CLASSES,),
    }  # fmt: skip
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        for n in (0, norm):
            shapes |= {f"{block}/LayerNorm_{n}/{leaf}": (WIDTH,) for leaf in ("scale", "bias")}
        for name in ("query", "key", "value", "out"):
            attention = f"{block}/MultiHeadDotProductAttention_{mha}/{name}"
            out = name == "out"
            shapes[f"{attention}/kernel"] = (HEADS, per_head, WIDTH) if out else (WIDTH, HEADS, per_head)
            shapes[f"{attention}/bias"] = (WIDTH,) if out else (HEADS, per_head)
        for j, (into, of) in enumerate(((WIDTH, hidden), (hidden, WIDTH))):
            shapes[f"{block}/MlpBlock_{mlp}/Dense_{j}/kernel"] = (into, of)
            shapes[f"{block}/MlpBlock_{mlp}/Dense_{j}/bias"] = (of,)
    prefix = "params/" if big else ""
    arrays = {f"{prefix}{name}": draw(f"{prefix}{name}", shape) for name, shape in shapes.items()}
    model = _timm(size, act_layer="gelu_tanh").eval()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(file := f"{folder}/x.npz", **arrays)
        _load_weights(model, file)
    return model, _looked_at("blocks.{i}", "norm2"), arrays


# name → (function, its arguments, side of the images, fields of the model that the file does not show)
SMALL = {
    "timm_vit": (_timm_vit, {}, 16, {}),
    "timm_deit3": (_timm_vit, {"no_embed_class": True, "init_values": 1e-5}, 16, {}),
    "timm_mae": (_timm_vit, {"global_pool": "avg", "qkv_bias": False}, 16, {}),
    "timm_gap": (_timm_vit, {"class_token": False, "global_pool": "avg", "fc_norm": False}, 16, {}),
    "timm_clip": (_clip, {}, 16, {"activation": "quick_gelu"}),
    "torchvision_vit": (_torchvision, {}, 16, {}),
    "torchvision_representation": (_torchvision, {"representation_size": 24}, 16, {}),
    "huggingface_vit": (_hugging_face, {"file": True}, 16, {}),
    "huggingface_vit_modules": (_hugging_face, {"file": False}, 16, {}),
    "google_vit": (_google, {}, 16, {}),
    "google_big_vision": (_google, {"big": True}, 16, {}),
}
LARGE = {
    "timm_vit_tiny": (_timm_named, {"name": "vit_tiny_patch16_224"}, 224, {}),
    "timm_deit3_small": (_timm_named, {"name": "deit3_small_patch16_224"}, 224, {}),
    "timm_vit_huge_of_2": (_timm_named, {"name": "vit_huge_patch14_224", "depth": 2}, 224, {}),
    "timm_clip_base_32_of_2": (_timm_named, {"name": "vit_base_patch32_clip_224", "depth": 2}, 224, {}),
    "torchvision_vit_b_16": (_torchvision_named, {"name": "vit_b_16"}, 224, {}),
}


def build(name):
    """A module with drawn weights, in inference mode; the modules to look at; the side of its images; its
    tensors as a file has them; and what the file does not show."""
    function, arguments, size, fields = {**SMALL, **LARGE}[name]
    model, looked_at, tensors = function(size, **arguments)
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    return model, looked_at, size, arrays, fields
