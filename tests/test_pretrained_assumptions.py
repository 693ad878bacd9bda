"""What is assumed of each kind of network, and that each flag that is printed does what it says."""

import pytest

from resjax import models
from resjax.data import Info
from resjax.pretrained.assumptions import as_text, assumptions
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.workdirs import default_config

IMAGES = ["mean", "std", "pixels", "order of classes", "training images"]
PADDED = ["shortcuts", "where shapes change", "zero channels added"]
FIXED = ["BatchNorm's ε", "activation"]
STEM, STRIDE = "max pooling in the stem", "a bottleneck's stride"
STAGES = "stride of later stages"


def layout(name, side=32, channels=3, **fields):
    constants = {"mean": (), "std": ()} if channels != 3 else {}
    model = models.defaults(name, **fields)
    return Layout("akamaster", model, None, 10, side, channels=channels, **constants)


def info_of(found, side=0):
    side, channels = side or found.image_size, found.channels
    shape = (side, side, channels)
    mean, std = found.mean or (0.25,) * channels, found.std or (0.75,) * channels
    return Info("/data/animals.npz", shape, 10, 100, 50, (), mean, std)


VIT = ["LayerNorm's ε", "activation"]
SMALL = {"width": 24, "depth": 2, "heads": 2, "mlp_width": 8, "patch": 4}


def vit(name, **fields):
    found = layout("vit", 16, **SMALL | fields)
    return found._replace(name=name, mean=(0.5,) * 3, std=(0.5,) * 3, constants_of="Google's ViT")


PROJECTED = {"placement": "post", "transition": "projection"}
NETWORKS = {
    "option A": (
        layout("resnet", placement="post", pad_centre=True),
        [*IMAGES, STEM, STAGES, *PADDED, *FIXED],
    ),
    "option B": (layout("resnet", **PROJECTED), [*IMAGES, STEM, STAGES, *FIXED]),
    "plain": (
        layout("resnet", placement="post", shortcut="none"),
        [*IMAGES, STEM, STAGES, *FIXED],
    ),
    "one stage": (
        layout("resnet", widths=(16,), depth=6, placement="post"),
        [*IMAGES, STEM, "shortcuts", "BatchNorm, ReLU", *FIXED],
    ),
    "equal stages": (
        layout("resnet", widths=(16, 16), depth=10, placement="post", transition="pad_subsample"),
        [*IMAGES, STEM, STAGES, *PADDED, "BatchNorm, ReLU", *FIXED],
    ),
    "bottlenecks": (
        layout("resnet", block="bottleneck", depth=29, bottleneck_stride="3x3", **PROJECTED),
        [*IMAGES, STEM, STAGES, STRIDE, *FIXED],
    ),
    "grey": (layout("resnet", channels=1, **PROJECTED), [*IMAGES, STEM, STAGES, *FIXED]),
    "ResNet-18": (layout("imagenet_resnet", 224, depth=18), [*IMAGES, STEM, STAGES, *FIXED]),
    "ResNet-50": (layout("imagenet_resnet", 224), [*IMAGES, STEM, STAGES, STRIDE, *FIXED]),
    "pre-activation": (
        layout("resjax.pretrained.networks:preact_resnet"),
        [*IMAGES, STEM, STAGES, "input of projections", *FIXED],
    ),
    "pre-activation, normalized stem": (
        layout("resnet", placement="pre", transition="projection"),
        [*IMAGES, STEM, STAGES, "input of projections", *FIXED],
    ),
    "hidden layers": (
        layout("resnet", head_widths=(6,), **PROJECTED),
        [*IMAGES, STEM, STAGES, "between the head's layers", *FIXED],
    ),
    "timm": (layout("resjax.pretrained.networks:timm_resnetv2", 224), [*IMAGES, STAGES, *FIXED]),
    "VGG": (layout("vgg", 224, fc_width=64), [*IMAGES[:2], *IMAGES[3:], "activation"]),
    "VGG with BatchNorm": (layout("vgg", 224, fc_width=64, norm=True), [*IMAGES[:2], *IMAGES[3:], *FIXED]),
    "AlexNet": (layout("alexnet", 224, form="one_column"), [*IMAGES, "activation"]),
    "ConvNeXt": (
        layout("convnext", 224, head_norm_epsilon=1e-12),
        [*IMAGES, STAGES, "LayerNorm's ε", "ε of the head's", "activation"],
    ),
    "MLP-Mixer": (layout("mixer", 224), [*IMAGES[:2], *IMAGES[3:], *VIT]),
    "ConvMixer": (layout("convmixer", 224), [*IMAGES, *FIXED]),
    "ViT": (vit("timm"), [*IMAGES, "heads", "the classifier reads", *VIT]),
    "ViT of Google": (
        vit("big_vision", activation="gelu_tanh", representation=8, positions="sincos"),
        [*IMAGES, "the classifier reads", "positions", "in front of the classifier", *VIT],
    ),
    "ViT with means": (
        vit("Hugging Face", pool="mean", heads=1, norm_epsilon=1e-12),
        [*IMAGES, "heads", *VIT],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_assumed_of(name):
    found, expected = NETWORKS[name]
    rows = assumptions(default_config(found), found, info_of(found))
    assert [row.what.partition(" (of")[0] for row in rows] == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_each_flag_changes_a_network_that_can_be_built(name):
    """And what it changes is assumed no more."""
    found, _ = NETWORKS[name]
    info = info_of(found)
    before = assumptions(default_config(found), found, info)
    for row in before:
        if not row.flag:
            continue
        config = default_config(found)
        field, _, text = row.flag.removeprefix("--config.").partition("=")
        section, _, key = field.partition(".")
        old = config[section][key]
        value = {"true": True, "false": False}.get(text, text)
        if isinstance(old, tuple):
            value = tuple(float(number) for number in text.split(",") if number)
            assert len(value) == found.channels
        elif isinstance(old, int) and not isinstance(old, bool):
            value = int(text)
        elif isinstance(old, float):
            value = float(text)
        assert value != old, row
        config[section][key] = value
        models.build(config.model, image_shape=info.image_shape, num_classes=10)
        if key != "name":
            after = [one.what for one in assumptions(config, found, info)]
            assert row.what not in after, row


def test_the_table():
    found = layout("resnet", placement="post", **{"transition": "projection"})
    config = default_config(found)
    config.data.std = (0.5, 0.5, 0.5)
    text = as_text(assumptions(config, found, info_of(found)))
    assert text.splitlines() == [
        "Assumed, since a file of tensors does not show it "
        "(to change one, add its flag and use another workdir):",
        "  mean (of ImageNet)       0.485, 0.456, 0.406  --config.data.mean=0.5,0.5,0.5",
        "  pixels                   32×32                --config.data.image_size=64",
        "  order of classes         that of animals.npz  --config.data.name=DATA",
        "  training images          pad 4, crop, flip    --config.data.pad=0",
        "  max pooling in the stem  no                   --config.model.stem=small_pool",
        "  stride of later stages   2                    (fixed)",
        "  BatchNorm's ε            1e-05                (fixed)",
        "  activation               ReLU                 (fixed)",
    ]


def test_constants_that_the_file_holds_are_not_assumed():
    found = layout("resnet", **PROJECTED)._replace(constants_of="the file")
    rows = assumptions(default_config(found), found, info_of(found))
    assert [row.what for row in rows][:2] == ["pixels", "order of classes"]


def test_the_classes_of_a_new_classifier_are_not_assumed():
    found = layout("resnet", **PROJECTED)._replace(num_classes=0)
    rows = assumptions(default_config(found), found, info_of(found))
    assert "order of classes" not in [row.what for row in rows]


def test_other_images_than_usual_are_named():
    found = layout("resnet", **PROJECTED)
    rows = {row.what: row for row in assumptions(default_config(found), found, info_of(found, 28))}
    assert rows["pixels"][1:] == ("28×28 (usual: 32×32)", "--config.data.image_size=32")


def test_positions_of_other_images_are_told():
    found = vit("timm")
    rows = {row.what: row for row in assumptions(default_config(found), found, info_of(found, 32))}
    assert rows["positions"][1:] == ("resampled, 4×4 to 8×8", "--config.data.image_size=16")
    assert rows["mean (of Google's ViT)"].flag == "--config.data.mean=0.485,0.456,0.406"
