"""Layouts: every block's activation is PyTorch's (committed references), and what does not fit is named."""

import re

import jax
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw as draw_variables
from network_helpers import equal
from pretrained_helpers import References, activations, images, summary
from safetensors.numpy import save_file

from resjax import models
from resjax.pretrained import load, read, recognize
from resjax.pretrained.convert import to_tensors, to_variables
from resjax.pretrained.export import export
from resjax.pretrained.finding.names import read_table, renamed
from resjax.pretrained.layouts import naming
from resjax.pretrained.places import places

REFERENCES = References("pretrained.npz")
NAMES = REFERENCES.names
RECOGNIZED = {
    "akamaster_resnet20": ("akamaster", "resnet"),
    "akamaster_option_b": ("akamaster", "resnet"),
    "chenyaofo_resnet20": ("chenyaofo", "resnet"),
    "chenyaofo_vgg11_bn": ("chenyaofo", "vgg"),
    "huggingface_basic": ("Hugging Face", "resnet"),
    "huggingface_bottleneck": ("Hugging Face", "resnet"),
    "timm_bottleneck": ("torchvision", "resnet"),
    "timm_v2_basic": ("timm ResNetV2", "resjax.pretrained.networks:timm_resnetv2"),
    "timm_v2_bottleneck": ("timm ResNetV2", "resjax.pretrained.networks:timm_resnetv2"),
    "timm_vgg11_bn": ("timm", "vgg"),
    "torchvision_alexnet": ("torchvision", "alexnet"),
    "torchvision_basic": ("torchvision", "resnet"),
    "torchvision_bottleneck": ("torchvision", "resnet"),
    "torchvision_vgg11": ("torchvision", "vgg"),
}


@pytest.mark.parametrize("name", slow_but(NAMES, *(name for name in NAMES if name != "torchvision_alexnet")))
def test_activations_of_every_block_are_those_of_pytorch(name, tmp_path):
    size = REFERENCES.facts(name)["size"]
    tensors = REFERENCES.tensors(name)
    layout = recognize(tensors)
    assert (layout.name, layout.model.name) == RECOGNIZED[name]
    shape = (size, size, 3)
    network = models.build(layout.model, image_shape=shape, num_classes=layout.num_classes)
    variables = to_variables(tensors, network, shape, layout.naming(network))
    found = np.stack([summary(a) for a in activations(network, variables, images(size))])
    wanted = REFERENCES.summaries(name)
    assert found.shape == wanted.shape  # the stem, every unit, the logits
    # Of each activation, relative to its root mean square, which comes first.
    assert np.all(np.abs(found - wanted) <= 3e-5 * wanted[:, :1])


def small(**changes):
    """Tensors of akamaster's ResNet-20, some replaced; None removes one."""
    tensors = {**REFERENCES.tensors("akamaster_resnet20"), **changes}
    return {k: v for k, v in tensors.items() if v is not None}


def convert(tensors, size=32):
    layout = recognize(tensors)
    shape = (size, size, 3)
    network = models.build(layout.model, image_shape=shape, num_classes=layout.num_classes)
    return to_variables(tensors, network, shape, layout.naming(network))


def test_what_is_missing_unexpected_or_misshaped_is_named():
    changes = {
        "layer2.1.bn2.running_mean": None,
        "layer2.1.alpha": np.zeros(3),
        "layer3.0.conv1.weight": np.zeros((64, 31, 3, 3)),
    }
    with pytest.raises(ValueError) as refusal:
        convert(small(**changes))
    text = str(refusal.value)
    assert "Missing: layer2.1.bn2.running_mean." in text
    assert "Unexpected: layer2.1.alpha." in text
    assert "layer3.0.conv1.weight (64, 31, 3, 3) instead of (64, 32, 3, 3)" in text


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("conv1.weight", lambda t: np.where(t > 1, t, np.nan), "not finite"),
        ("layer1.0.bn1.bias", lambda t: t + np.inf, "not finite"),
        ("layer1.0.bn1.bias", lambda t: t.astype(np.float64) + 1e300, "not finite"),
        ("layer1.0.bn1.running_var", lambda t: -t, "negative"),
        ("conv1.weight", lambda t: np.round(50 * t).astype(np.int8), "int8"),
        ("linear.weight", lambda t: t > 0, "bool"),
    ],
)
def test_numbers_that_no_network_computes_with_are_refused(name, change, why):
    with pytest.raises(ValueError, match=rf"these tensors: {name} \({why}\). The training diverged"):
        convert(small(**{name: change(small()[name])}))


def test_a_head_that_does_not_read_means_is_replaced_by_a_new_one():
    with pytest.raises(ValueError, match=r"linear\.weight .* mean over the image.*--new_head"):
        convert(small(**{"linear.weight": np.zeros((10, 256))}))


def test_long_lists_are_cut():
    gone = {k: None for k in small() if k.startswith("layer3.1.")}
    with pytest.raises(ValueError, match=r"Unexpected: .* and \d+ more\."):
        convert(small(**gone))


@pytest.mark.parametrize(
    ("module", "leaves", "lines"),
    [
        (r".*bn\d", ("_iter", "_tmp_running_mean"), 2),  # of a synchronized BatchNorm
        (r"layer\d\.\d", ("act.weight",), 1),  # a name's last part that the network has, too
        (r"conv1", ("alpha", "alpha.weight"), 2),
    ],
)
def test_the_table_that_leaves_tensors_out_is_short_and_enough(module, leaves, lines):
    modules = {match[0] for name in small() if (match := re.match(rf"{module}(?=\.)", name))}
    tensors = small(**{f"{one}.{leaf}": np.ones(3) for one in modules for leaf in leaves})
    with pytest.raises(ValueError, match="save these lines") as refusal:
        convert(tensors)
    rules = [line.strip().split(" -> ") for line in str(refusal.value).splitlines() if "->" in line]
    assert len(rules) == lines and set(renamed(tensors, read_table(dict(rules)))) == set(small())


def without(*names):
    return lambda tensors: {k: v for k, v in tensors.items() if k not in names}


def without_all(part):
    """Leaves out the tensors whose names hold ``part``."""
    return lambda tensors: {k: v for k, v in tensors.items() if part not in k}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (None, {"blocks.0.attn.qkv.weight": (3, 3)}, "no known layout: 1 of them, blocks.0"),
        (
            "akamaster_resnet20",
            without("conv1.weight"),
            "not the first convolution. Known names.*--names=FILE",
        ),
        ("akamaster_resnet20", without_all("bn1"), "no BatchNorm of known name follows .* conv1"),
        ("akamaster_option_b", without_all("shortcut.1"), "follows the projections, shortcut.0"),
        ("akamaster_resnet20", {"conv1.weight": (12, 3, 3, 3)}, "12 channels before stages of .16, 32, 64"),
        ("akamaster_resnet20", {"conv1.weight": (16, 3, 5, 5)}, "5×5"),
        (
            "akamaster_resnet20",
            {"layer1.0.conv1.weight": (7, 16, 3, 3), "layer1.0.bn1.weight": (7,)},
            r"layer1\.0\.conv1.weight has 7 output channels, in a stage of width 16.*pruned",
        ),
        ("akamaster_resnet20", {"layer2.1.conv1.weight": (20, 32, 3, 3)}, "has 20 .* a stage of width 32"),
        ("akamaster_resnet20", {"layer1.2.conv2.weight": (32, 16, 3, 3)}, "has 32 .* a stage of width 16"),
        ("timm_bottleneck", {"layer2.0.conv2.weight": (60, 128, 3, 3)}, "has 60 .* a stage of width 128"),
        ("akamaster_resnet20", without("bn1.running_mean"), "is not BatchNorm"),
        ("timm_bottleneck", {"conv1.3.weight": (1,)}, "three convolutions"),
        ("timm_bottleneck", {"layer1.0.se.fc1.weight": (1,)}, "squeeze"),
        ("akamaster_resnet20", {"layer1.0.fc1.weight": (1,)}, "squeeze"),
        ("timm_bottleneck", {"layer1.0.conv2.weight": (64, 2, 3, 3)}, "groups"),
        ("timm_bottleneck", {"layer1.0.conv3.weight": (512, 64, 1, 1)}, "wide"),
        ("timm_v2_basic", without_all("running"), "GroupNorm"),
        ("timm_v2_basic", {"stem.conv1.weight": (1,)}, "d and t forms"),
        ("timm_bottleneck", without_all("layer1.0.conv3."), "units of 2 convolutions, the first 1×1"),
        ("torchvision_vgg11", without_all("features.8."), "is not a VGG"),
        ("torchvision_vgg11", {"features.0.weight": (64,)}, "features.0.weight has 1 dim"),
        ("torchvision_vgg11", {"classifier.9.weight": (5, 7)}, "3 hidden"),
        ("torchvision_alexnet", without_all("classifier.4"), "layers classifier.1 and classifier.4"),
    ],
)
def test_a_network_that_ours_can_not_represent_is_refused_with_the_reason(name, change, message):
    shapes = REFERENCES.facts(name)["tensors"] if name else {}
    tensors = {k: np.broadcast_to(0.0, shape) for k, shape in shapes.items()}
    if callable(change):
        tensors = change(tensors)
    else:
        tensors.update({k: np.zeros(shape) for k, shape in change.items()})
    with pytest.raises(ValueError, match=message):
        recognize(tensors)


def test_images_of_another_size_do_not_fit_a_vgg():
    with pytest.raises(ValueError, match=r"data\.image_size"):
        convert(REFERENCES.tensors("torchvision_vgg11"), size=256)


def test_unequal_stages_and_unknown_depths_are_kept():
    layout = recognize(REFERENCES.tensors("timm_bottleneck"))
    assert layout.model.name == "resnet" and layout.model.stage_sizes == (1, 2, 1, 1)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("resnet", 34), ("resnet", 101), ("resnet", 152), ("vgg", "D"), ("vgg", "E")],
)
def test_the_other_depths_are_recognized_by_shapes(name, depth):
    if name == "resnet":
        model = models.defaults("imagenet_resnet", depth=depth)
    else:
        model = models.defaults("vgg", configuration=depth, norm=True)
    network = models.build(model, image_shape=(224, 224, 3), num_classes=1000)
    names = naming.torchvision(network)
    every = places(network, (224, 224, 3))
    shapes = {p.keys(names)[0]: np.broadcast_to(0.0, p.torch_shape()) for p in every}
    layout = recognize(shapes)
    assert layout.model.to_dict() == model.to_dict()
    assert (layout.num_classes, layout.image_size) == (1000, 224)


EXPORTED = {
    "post": ("resnet", {"depth": 14, "placement": "post", "transition": "projection", "widths": (4, 6, 8)}),
    "bottleneck": (
        "resnet",
        {"stage_sizes": (2, 1, 1, 1), "placement": "post", "transition": "projection", "block": "bottleneck",
         "widths": (2, 2, 4, 4), "stem": "large", "bottleneck_stride": "3x3"},
    ),
    "vgg": ("vgg", {"configuration": "A", "norm": True, "fc_width": 8}),
    "vgg_of_one": ("vgg", {"configuration": "A", "fc_layers": 1, "fc_width": 8}),
    "vgg_without_hidden_layers": ("vgg", {"configuration": "A", "fc_layers": 0}),
    "hidden_layers": (
        "resnet",
        {"stage_sizes": (1, 1), "placement": "post", "transition": "projection", "widths": (2, 4),
         "head_widths": (6, 7)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", slow_but(EXPORTED, *list(EXPORTED)[::2]))
def test_what_is_exported_comes_back_bit_for_bit(name, tmp_path):
    kind, fields = EXPORTED[name]
    model = models.defaults(kind, **fields)
    shape = (64, 64, 3)
    network = models.build(model, image_shape=shape, num_classes=5)
    variables = draw_variables(network, shape)
    export(network, variables, shape, tmp_path / "new/x.safetensors", {"step": "7"})
    tensors = read(tmp_path / "new/x.safetensors").tensors
    assert equal(to_variables(tensors, network, shape, naming.torchvision(network)), variables)
    layout = recognize(tensors)
    again = models.build(layout.model, image_shape=shape, num_classes=5)
    assert jax.tree.structure(layout.naming(again)) and again.num_units == network.num_units
    assert equal(to_variables(tensors, again, shape, layout.naming(again)), variables)


def test_every_tensor_of_a_file_is_written_back():
    tensors = REFERENCES.tensors("torchvision_basic")
    layout = recognize(tensors)
    shape = (64, 64, 3)
    network = models.build(layout.model, image_shape=shape, num_classes=7)
    names = layout.naming(network)
    back = to_tensors(to_variables(tensors, network, shape, names), network, shape, names)
    assert set(back) == {k for k in tensors if "num_batches" not in k}
    assert all(np.array_equal(back[k], tensors[k]) for k in back)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.defaults("resnet", depth=8), (8, 8, 3)),
        (models.defaults("resnet", depth=8, placement="post", shortcut="none"), (8, 8, 3)),
        (models.defaults("alexnet"), (64, 64, 3)),
        (models.defaults("veit_plain"), (8, 8, 3)),
        (models.defaults("lenet5"), (32, 32, 1)),
    ],
)
def test_networks_that_torchvision_lacks_are_not_exported(model, shape, tmp_path):
    network = models.build(model, image_shape=shape, num_classes=10)
    with pytest.raises(ValueError, match="torchvision"):
        export(network, {}, shape, tmp_path / "x")


def test_load_builds_the_network_and_takes_what_a_file_can_not_show(tmp_path):
    save_file(REFERENCES.tensors("akamaster_resnet20"), tmp_path / "x.safetensors")
    found = load(tmp_path / "x.safetensors")
    assert found.model.pad_centre and found.model.depth == 20 and found.image_shape == (32, 32, 3)
    assert found.layout.mean == (0.485, 0.456, 0.406)
    behind = load(tmp_path / "x.safetensors", image_size=16, pad_centre=False)
    assert not behind.model.pad_centre and behind.image_shape == (16, 16, 3)
    x = images(16)
    a, b = (activations(n, found.variables, x) for n in (found.network, behind.network))
    assert np.array_equal(a[3], b[3]) and not np.array_equal(a[4], b[4])  # the first transition
    with pytest.raises(ValueError, match="has no field 'depht'"):
        load(tmp_path / "x.safetensors", depht=3)
