"""ConvNeXt, MLP-Mixer and ConvMixer as timm, torchvision and transformers build them (see ``torch_vits``)."""

import re

import torch
from pretrained_helpers import draw
from torch_models import drawn

SIZES, WIDTHS, CLASSES = (1, 2, 1, 1), (8, 12, 12, 20), 5


def _units(form, sizes=SIZES):
    return [form.format(s=s, odd=2 * s + 1, i=i) for s, n in enumerate(sizes) for i in range(n)]


def _timm_convnext(size, **form):
    from timm.models.convnext import ConvNeXt

    model = drawn(ConvNeXt(**{"depths": SIZES, "dims": WIDTHS, "num_classes": CLASSES} | form))
    return model, ["stem", *_units("stages.{s}.blocks.{i}")], model.state_dict()


def _authors_convnext(size, **form):
    """timm's network with the names of the authors' code, for which timm has a conversion."""
    from timm.models.convnext import checkpoint_filter_fn

    model, looked_at, given = _timm_convnext(size, **form)
    rules = {
        r"^stem\.": "downsample_layers.0.", r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
        r"^stages\.(\d+)\.blocks\.": r"stages.\1.", r"\.conv_dw\.": ".dwconv.", r"\.mlp\.fc": ".pwconv",
        r"\.mlp\.grn\.weight$": ".grn.gamma", r"\.mlp\.grn\.bias$": ".grn.beta", r"^head\.norm\.": "norm.",
        r"^head\.fc\.": "head.",
    }  # fmt: skip
    tensors = {}
    for name, tensor in given.items():
        for pattern, new in rules.items():
            name = re.sub(pattern, new, name)
        tensor = tensor.reshape(1, 1, 1, -1) if ".grn." in name else tensor
        tensors[name] = torch.from_numpy(draw(name, tuple(tensor.shape)))
    model.load_state_dict(checkpoint_filter_fn(dict(tensors), model))
    return model, looked_at, tensors


def _torchvision_convnext(size):
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    after = (*WIDTHS[1:], None)
    model = ConvNeXt(
        [CNBlockConfig(*one) for one in zip(WIDTHS, after, SIZES, strict=True)], num_classes=CLASSES
    )
    return drawn(model), ["features.0", *_units("features.{odd}.{i}")], model.state_dict()


def _hugging_face_convnext(size, version):
    import transformers

    name = f"ConvNext{version}"
    config = getattr(transformers, f"{name}Config")(
        depths=list(SIZES), hidden_sizes=list(WIDTHS), num_labels=CLASSES
    )
    model = drawn(getattr(transformers, f"{name}ForImageClassification")(config))
    own = name.lower()
    units = _units(f"{own}.encoder.stages.{{s}}.layers.{{i}}")
    return model, [f"{own}.embeddings", *units], model.state_dict()


def _timm_mixer(size, **form):
    from timm.models.mlp_mixer import MlpMixer

    given = {
        "patch_size": 4,
        "num_blocks": 2,
        "embed_dim": 24,
        "mlp_ratio": (0.5, 1.5),
        "num_classes": CLASSES,
    }
    model = drawn(MlpMixer(img_size=size, **given | form))
    return model, _halves(model), model.state_dict()


def _google_mixer(size):
    """Arrays with the names of Google's JAX code, and timm's network with their numbers."""
    model, looked_at, given = _timm_mixer(size, act_layer=_gelu_tanh())
    rules = {
        r"^stem\.proj": "stem", r"^blocks\.(\d+)": r"MixerBlock_\1", r"mlp_tokens": "token_mixing",
        r"mlp_channels": "channel_mixing", r"fc1": "Dense_0", r"fc2": "Dense_1",
        r"^norm\.": "pre_head_layer_norm.", r"\.norm1\.": ".LayerNorm_0.", r"\.norm2\.": ".LayerNorm_1.",
    }  # fmt: skip
    arrays, state = {}, {}
    for name, tensor in given.items():
        new = name
        for pattern, replacement in rules.items():
            new = re.sub(pattern, replacement, new)
        if new.endswith(".weight"):
            new = f"{new.removesuffix('weight')}{'kernel' if tensor.ndim > 1 else 'scale'}"
        new = new.replace(".", "/")
        out, *into = tensor.shape
        shape = (*into[1:], into[0], out) if len(into) == 3 else (*into, out)
        arrays[new] = draw(new, shape)
        array = torch.from_numpy(arrays[new])
        state[name] = array.permute(3, 2, 0, 1) if array.ndim == 4 else array.t()
    model.load_state_dict(state)
    return model, looked_at, arrays


def _gelu_tanh():
    from timm.layers import GELUTanh

    return GELUTanh


def _halves(model):
    inside = (f"blocks.{i}{what}" for i in range(len(model.blocks)) for what in (".norm2:in", ""))
    return ["blocks.0:in", *inside]


def _timm_convmixer(size, relu=False, **form):
    from timm.models.convmixer import ConvMixer

    given = {"dim": 12, "depth": 2, "kernel_size": 5, "patch_size": 7, "num_classes": CLASSES}
    activation = {"act_layer": torch.nn.ReLU} if relu else {}
    model = drawn(ConvMixer(**given | form, **activation))
    return model, ["stem", *(f"blocks.{i}" for i in range(len(model.blocks)))], model.state_dict()


def _timm_named(size, name, **form):
    import timm

    model = drawn(timm.create_model(name, num_classes=7, **form))
    if name.startswith("mixer"):
        return model, _halves(model), model.state_dict()
    if name.startswith("convmixer"):
        return model, ["stem", *(f"blocks.{i}" for i in range(len(model.blocks)))], model.state_dict()
    sizes = [len(stage.blocks) for stage in model.stages]
    return model, ["stem", *_units("stages.{s}.blocks.{i}", sizes)], model.state_dict()


def _torchvision_named(size, name):
    from torchvision import models

    model = drawn(models.get_model(name, num_classes=7))
    sizes = [len(stage) for stage in model.features[1::2]]
    return model, ["features.0", *_units("features.{odd}.{i}", sizes)], model.state_dict()


# name → (function, its arguments, side of the images, fields of the model that the file does not show)
SMALL = {
    "timm_convnext": (_timm_convnext, {"patch_size": 3, "ls_init_value": None}, 44, {}),
    "timm_convnext_conv_mlp": (_timm_convnext, {"conv_mlp": True}, 44, {}),
    "timm_convnext_norm_first": (_timm_convnext, {"head_norm_first": True, "conv_bias": False}, 44, {}),
    "timm_convnextv2": (_timm_convnext, {"use_grn": True, "ls_init_value": None}, 44, {}),
    "timm_convnextv2_conv_mlp": (
        _timm_convnext,
        {"use_grn": True, "ls_init_value": None, "conv_mlp": True, "norm_eps": 1e-5},
        44,
        {"norm_epsilon": 1e-5},
    ),
    "authors_convnext": (_authors_convnext, {}, 44, {}),
    "authors_convnextv2": (_authors_convnext, {"use_grn": True, "ls_init_value": None}, 44, {}),
    "torchvision_convnext": (_torchvision_convnext, {}, 44, {}),
    "huggingface_convnext": (_hugging_face_convnext, {"version": ""}, 44, {}),
    "huggingface_convnextv2": (_hugging_face_convnext, {"version": "V2"}, 44, {}),
    "timm_mixer": (_timm_mixer, {}, 16, {}),
    "google_mixer": (_google_mixer, {}, 16, {}),
    "timm_convmixer": (_timm_convmixer, {}, 28, {}),
    "timm_convmixer_relu": (_timm_convmixer, {"relu": True}, 28, {"activation": "relu"}),
}
LARGE = {
    "timm_convnext_tiny": (_timm_named, {"name": "convnext_tiny"}, 96, {}),
    "timm_convnext_tiny_hnf": (_timm_named, {"name": "convnext_tiny_hnf"}, 97, {}),
    "timm_convnext_atto": (_timm_named, {"name": "convnext_atto"}, 224, {}),
    "timm_convnextv2_femto": (_timm_named, {"name": "convnextv2_femto"}, 129, {}),
    "timm_convnext_xxlarge_of_5": (_timm_named, {"name": "convnext_xxlarge", "depths": SIZES}, 64, {}),
    "torchvision_convnext_tiny": (_torchvision_named, {"name": "convnext_tiny"}, 224, {}),
    "timm_mixer_s16": (_timm_named, {"name": "mixer_s16_224"}, 224, {}),
    "timm_mixer_s32": (_timm_named, {"name": "mixer_s32_224"}, 224, {}),
    "timm_convmixer_768_32": (_timm_named, {"name": "convmixer_768_32"}, 56, {}),
}


def build(name):
    """As ``torch_vits.build``."""
    function, arguments, size, fields = {**SMALL, **LARGE}[name]
    model, looked_at, tensors = function(size, **arguments)
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    return model, looked_at, size, arrays, fields
