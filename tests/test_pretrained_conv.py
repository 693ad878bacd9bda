"""ConvNeXt, MLP-Mixer and ConvMixer of others: every unit is PyTorch's (committed references), what does not
fit, and the way back."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw as draw_variables
from network_helpers import equal, logits_of
from pretrained_helpers import References, activations, images, saved, summary
from safetensors.numpy import load_file, save_file

from resjax import models
from resjax.network.cut import cut_variables
from resjax.pretrained import load, recognize
from resjax.pretrained.convert import to_tensors, to_variables
from resjax.pretrained.export import export
from resjax.pretrained.finding.prefixes import select
from resjax.pretrained.layouts import convnext_names, mixers
from resjax.pretrained.layouts.torch_classes import building, names_of
from resjax.pretrained.places import places
from resjax.pretrained.reading.files import read_checkpoint

REFERENCES = References("pretrained_conv.npz")
NAMES = REFERENCES.names
IMAGENET, HALF = (0.485, 0.456, 0.406), (0.5,) * 3
CONVNEXT = {"stage_sizes": (1, 2, 1, 1), "widths": (8, 12, 12, 20), "patch": 4}
MIXER = {"width": 24, "depth": 2, "token_width": 12, "mlp_width": 36, "patch": 4}
CONVMIXER = {"width": 12, "depth": 2, "kernel": 5, "patch": 7}
V2, HUGGING_FACE = {"version": "v2"}, {"head_norm_epsilon": 1e-12}
# (layout, and the fields that are not the defaults)
RECOGNIZED = {
    "timm_convnext": ("timm", CONVNEXT | {"patch": 3, "layer_scale": 0.0}),
    "timm_convnext_conv_mlp": ("timm", CONVNEXT),
    "timm_convnext_norm_first": ("timm", CONVNEXT | {"norm_first": True}),
    "timm_convnextv2": ("timm", CONVNEXT | V2),
    "timm_convnextv2_conv_mlp": ("timm", CONVNEXT | V2),
    "authors_convnext": ("facebookresearch", CONVNEXT),
    "authors_convnextv2": ("facebookresearch", CONVNEXT | V2),
    "torchvision_convnext": ("torchvision", CONVNEXT),
    "huggingface_convnext": ("Hugging Face", CONVNEXT | HUGGING_FACE),
    "huggingface_convnextv2": ("Hugging Face", CONVNEXT | V2 | HUGGING_FACE),
    "timm_mixer": ("timm Mixer", MIXER),
    "google_mixer": ("vision_transformer Mixer", MIXER | {"activation": "gelu_tanh"}),
    "timm_convmixer": ("timm ConvMixer", CONVMIXER),
    "timm_convmixer_relu": ("timm ConvMixer", CONVMIXER),
}


@pytest.mark.parametrize(
    "name", slow_but(NAMES, "timm_convnextv2", "torchvision_convnext", "google_mixer", "timm_convmixer_relu")
)
def test_every_unit_is_that_of_pytorch(name, tmp_path):
    facts = REFERENCES.facts(name)
    found = load(saved(REFERENCES.tensors(name), name, tmp_path), facts["size"], **facts.get("fields", {}))
    given = [summary(a) for a in activations(found.network, found.variables, images(facts["size"]))]
    wanted = REFERENCES.summaries(name)
    assert len(given) == len(wanted) == found.network.num_units + 2
    # Of each activation, relative to its root mean square, which comes first.
    assert np.all(np.abs(np.stack(given) - wanted) <= 3e-5 * wanted[:, :1])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_shows(name, tmp_path):
    file = saved(REFERENCES.tensors(name), name, tmp_path)
    layout = recognize(select(read_checkpoint(file).tensors).tensors)
    collection, fields = RECOGNIZED[name]
    side, mean = (16, HALF) if name.endswith("mixer") and "conv" not in name else (224, IMAGENET)
    assert (layout.name, layout.mean, layout.num_classes, layout.image_size) == (collection, mean, 5, side)
    kind = name.partition("_")[2].partition("_")[0].removesuffix("v2")
    assert layout.model.to_dict() == models.defaults(kind, **fields).to_dict()


PUBLISHED = {
    "convnext T": ("convnext", {"size": "T"}),
    "convnext v2 L": ("convnext", {"size": "L", "version": "v2"}),
    "convnext xxlarge": (
        "convnext",
        {"stage_sizes": (3, 4, 30, 3), "widths": (384, 768, 1536, 3072), "patch": 4, "norm_epsilon": 1e-5},
    ),
    "mixer B": ("mixer", {"size": "B"}),
    "convmixer 1536": ("convmixer", {}),
    "convmixer 768": ("convmixer", {"width": 768, "depth": 32, "kernel": 7, "activation": "relu"}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_recognized_by_shapes(name):
    (kind, fields), shape = PUBLISHED[name], (224, 224, 3)
    model = models.defaults(kind, **fields)
    network = models.build(model, image_shape=shape, num_classes=1000)
    names = names_of(network)
    shapes = {p.keys(names)[0]: np.broadcast_to(0.0, p.torch_shape()) for p in places(network, shape)}
    layout = recognize(shapes)
    assert layout.model.to_dict() == model.to_dict() and layout.image_size == 224


UNIT = "stages.0.blocks.0"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("timm_convnext", {"stem.1.weight": (8, 8, 3, 3)}, "a stem of overlapping windows"),
        ("timm_convnext", {"stem.1.running_mean": (8,)}, "BatchNorm in place of LayerNorm"),
        ("timm_convnext", {"stages.0.downsample.1.weight": (8, 8, 2, 2)}, "in front of its first stage"),
        ("timm_convnext", {f"{UNIT}.norm.bias": None}, "RMSNorm"),
        ("timm_convnext", {f"{UNIT}.conv_dw.weight": (8, 1, 3, 3)}, "depthwise with 7×7 pixels"),
        ("timm_convnext", {f"{UNIT}.mlp.fc1.weight": (24, 8)}, "has 24 outputs in a stage of width 8"),
        ("timm_convnext", {"stem.0.weight": None}, "stem.0.weight is missing; the first convolution"),
        ("timm_convnext", {"head.pre_logits.fc.weight": (20, 20)}, "a hidden layer in its head"),
        ("timm_mixer", {"blocks.0.mlp_tokens.fc2.weight": (16, 6)}, r"a gate is between them \(gMixer\)"),
        ("timm_mixer", {"stem.proj.weight": None}, "stem.proj.weight is missing"),
        ("timm_mixer", {"stem.norm.weight": (24,)}, "a normalization of its patches"),
        ("timm_convmixer", {"blocks.0.0.fn.0.weight": (12, 12, 5, 5)}, "this convolution is depthwise"),
        ("timm_convmixer", {"blocks.0.0.fn.0.weight": (12, 1, 4, 4)}, "an odd number of pixels"),
        ("timm_convmixer", {"stem.0.weight": (12, 3)}, r"has shape \(12, 3\); it has 4 dimensions in ours"),
    ],
)
def test_what_ours_do_not_have_is_refused_by_name(name, changes, message):
    shapes = {**REFERENCES.facts(name)["tensors"], **changes}
    with pytest.raises(ValueError, match=message):
        recognize({k: np.broadcast_to(0.0, shape) for k, shape in shapes.items() if shape is not None})


def converted(tensors, shape, **fields):
    layout = recognize(tensors)
    network = models.build(layout.model.to_dict() | fields, image_shape=shape, num_classes=5)
    return to_variables(tensors, network, shape, layout.naming(network))


def test_what_is_missing_unexpected_or_misshaped_is_named():
    tensors = REFERENCES.tensors("torchvision_convnext")
    del tensors["features.3.1.layer_scale"]
    tensors |= {"features.2.1.weight": np.zeros((12, 8, 3, 3)), "features.3.0.alpha": np.zeros(3)}
    with pytest.raises(ValueError) as refusal:
        converted(tensors, (44, 44, 3))
    text = str(refusal.value)
    assert "Missing: features.3.1.layer_scale." in text and "Unexpected: features.3.0.alpha." in text
    assert "features.2.1.weight (12, 8, 3, 3) instead of (12, 8, 2, 2)" in text


def test_a_mixer_is_for_images_of_one_size():
    with pytest.raises(ValueError, match=r"mlp_tokens.fc1.weight \(12, 16\) .*data.image_size"):
        converted(REFERENCES.tensors("timm_mixer"), (24, 24, 3))


@pytest.mark.parametrize("name", slow_but(["timm_convnext", "torchvision_convnext"], "timm_convnext"))
def test_a_new_classifier_keeps_the_normalization_in_front_of_it(name, tmp_path):
    found = load(saved(REFERENCES.tensors(name), name, tmp_path), 44, new_head=9)
    tensors = REFERENCES.tensors(name)
    norm = tensors["head.norm.weight" if name.startswith("timm") else "classifier.0.weight"]
    assert np.array_equal(found.variables["params"]["head"]["norm"]["scale"], norm)
    assert found.variables["params"]["head"]["classifier"]["kernel"].shape == (20, 9)


def test_a_new_head_has_a_normalization_of_its_own_where_the_file_has_none(tmp_path):
    tensors = {k: v for k, v in REFERENCES.tensors("timm_convnextv2").items() if not k.startswith("head.")}
    tensors["head.other.weight"] = np.ones((3, 20), np.float32)  # replaced, though head.norm belongs to ours
    save_file(tensors, tmp_path / "x.safetensors")
    head = load(tmp_path / "x.safetensors", 44, new_head=9).variables["params"]["head"]
    assert np.array_equal(head["norm"]["scale"], np.ones(20))
    assert head["classifier"]["kernel"].shape == (20, 9)


# --- back to PyTorch ---

TINY = {
    "convnext": {"patch": 4, "stage_sizes": (2, 2, 1, 1), "widths": (4, 6, 8, 10)},
    "mixer": {"size": "digits", "width": 8, "depth": 3, "token_width": 7, "mlp_width": 12, "patch": 8},
    "convmixer": {"width": 6, "depth": 3, "kernel": 3, "patch": 4},
}
SHAPE = (32, 32, 3)
FORMS = {
    "convnext": ("convnext", {"layer_scale": 0.2}),
    "convnext of two stages": ("convnext", {"stage_sizes": (2, 1), "widths": (4, 6)}),
    "convnext, norm first": ("convnext", {"norm_first": True, "layer_scale": 0.0}),
    "convnext v2, gates": ("convnext", {"version": "v2", "unit_dropout": "linear"}),
    "mixer": ("mixer", {}),
    "mixer, gates": ("mixer", {"unit_dropout": "linear"}),
    "convmixer": ("convmixer", {}),
    "convmixer, gates": ("convmixer", {"unit_dropout": "linear"}),
}


def built(name, **fields):
    model = models.defaults(name, **{**TINY[name], **fields})
    return models.build(model, image_shape=SHAPE, num_classes=5)


@pytest.mark.parametrize("form", slow_but(FORMS, "convnext v2, gates", "mixer, gates", "convmixer, gates"))
def test_what_is_exported_computes_the_same(form, tmp_path):
    name, fields = FORMS[form]
    network = built(name, **fields)
    variables = draw_variables(network, SHAPE)
    export(network, variables, SHAPE, tmp_path / "x.safetensors", {"step": "7"})
    found = load(tmp_path / "x.safetensors", 32)
    x = jnp.asarray(images(32))
    wanted = logits_of(network, variables, x)
    np.testing.assert_allclose(logits_of(found.network, found.variables, x), wanted, rtol=1e-4, atol=1e-5)
    if network.test_gates is None:
        assert equal(found.variables, {"batch_stats": {}, **variables})


@pytest.mark.parametrize("names", convnext_names.NAMES, ids=lambda names: names.marker)
def test_every_tensor_comes_back_in_each_collections_names(names):
    network = built("convnext", version="v1" if names is convnext_names.TORCHVISION else "v2")
    variables = draw_variables(network, SHAPE)
    tensors = to_tensors(variables, network, SHAPE, convnext_names.convnext(network, names))
    assert equal(converted(tensors, SHAPE), {"batch_stats": {}, **variables})


CUTS = {
    "convnext": ("stage1/unit2", "stage2/unit1"),
    "convnext, a stage": ("stage2/unit1", "stage2/unit2", "stage4/unit1"),
    "mixer": ("stage1/unit1", "stage1/unit2", "stage1/unit4"),
}


@pytest.mark.parametrize("what", CUTS)
def test_units_of_a_cut_network_are_counted_anew(what, tmp_path):
    name, gone = what.partition(",")[0], CUTS[what]
    whole, network = built(name), built(name, cut=gone)
    variables = draw_variables(whole, SHAPE)
    export(whole, variables, SHAPE, tmp_path / "whole.safetensors")
    export(network, cut_variables(whole, variables, gone, SHAPE), SHAPE, tmp_path / "cut.safetensors")
    before, found = (load_file(tmp_path / f"{one}.safetensors") for one in ("whole", "cut"))
    numbers = [int(one.rpartition("unit")[2]) - 1 for one in gone]
    wanted = {}
    for key, tensor in before.items():
        if name == "mixer":  # a layer, and the second MLP of the next
            key = re.sub(r"^blocks\.(\d)", lambda m: f"blocks.{int(m[1]) - 1}", key)
            zero = key.startswith(("blocks.0.norm2", "blocks.0.mlp_channels"))
            tensor = np.zeros_like(tensor) if zero else tensor
            key = "" if "-1" in key else key
        else:
            parts = key.split(".")
            places = {f"stage{int(parts[1]) + 1}/unit{int(parts[3]) + 1}"} if "blocks" in parts else set()
            key = "" if places & set(gone) else key
            if what == "convnext":  # the second unit of the second stage is its first one now
                key = key.replace("stages.1.blocks.1.", "stages.1.blocks.0.")
        if key:
            wanted[key] = tensor
    assert numbers and set(found) == set(wanted)
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


LINES = (
    ("convnext", {"cut": CUTS["convnext, a stage"]}, "depths=(2, 0, 1, 0), dims=(4, 6, 8, 10), patch_size"),
    ("convnext", {"version": "v2"}, "use_grn=True, ls_init_value=None)"),
    ("convnext", {"layer_scale": 0.0, "norm_first": True}, "ls_init_value=None, head_norm_first=True)"),
    ("convnext", {"head_norm_epsilon": 1e-12}, "\nmodel.head.norm.eps = 1e-12\n"),
    ("convnext", {"stage_sizes": (2, 1), "widths": (4, 6)}, "a class with stages.0 (2), stages.1 (1); "),
    ("convnext", {"patch": 2}, "no windows of 2 pixels or of 8"),
    ("mixer", {"cut": CUTS["mixer"]}, "# No MLP along the channels is left in blocks 0: its"),
    ("mixer", {"activation": "gelu_tanh"}, "act_layer=timm.layers.GELUTanh)"),
    ("convmixer", {"activation": "relu"}, "num_classes=5, act_layer=torch.nn.ReLU)"),
)


def test_the_lines_that_build_timms_classes():
    for name, fields, said in LINES:
        lines = building(built(name, **fields), SHAPE, "it's x")
        assert said in lines and ('load_file("it\'s x")' in lines) == ("import" in lines), lines


def test_what_timm_lacks_is_refused(tmp_path):
    for name, fields, message in (
        ("convnext", {"cut": ("stage1/unit2",), "map": "affine"}, "timm's networks have no maps"),
        ("mixer", {"cut": ("stage1/unit2",), "map": "affine"}, "timm's networks have no maps"),
        ("convmixer", {"cut": ("stage1/unit2",)}, "no shortcut without a branch, and stage1/unit2 begins"),
    ):
        network = built(name, **fields)
        with pytest.raises(ValueError, match=f"{message}.* or write it for JAX, --export=FILE"):
            export(network, draw_variables(network, SHAPE), SHAPE, tmp_path / "x.safetensors")
        assert not (tmp_path / "x.safetensors").exists()


def test_names_of_a_mixer_in_its_authors_files():
    network = built("mixer")
    variables = draw_variables(network, SHAPE)
    tensors = to_tensors(variables, network, SHAPE, mixers.mixer_names(network, mixers.JAX))
    assert {"MixerBlock_2.token_mixing.Dense_1.kernel", "pre_head_layer_norm.scale"} <= set(tensors)
    assert equal(converted(tensors, SHAPE), {"batch_stats": {}, **variables})
