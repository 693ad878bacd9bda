"""Forms of networks that collections for CIFAR have, block by block as plain numpy computes them."""

import numpy as np
import pytest
from marks import slow_but
from network_helpers import equal
from pretrained_helpers import activations
from pretrained_references import FORMS, Tensors, post, pre, vgg11
from safetensors.numpy import save_file

from resjax import models
from resjax.pretrained import load, recognize
from resjax.pretrained.convert import to_variables


def made(function, channels=3, side=8, **arguments):
    """Drawn tensors of a network, images [2, side, side, channels] and its outputs on them, channels last."""
    tensors = Tensors()
    x = np.random.default_rng(0).normal(size=(2, side, side, channels)).astype(np.float32)
    outputs = function(tensors, x.transpose(0, 3, 1, 2).astype(np.float64), **arguments)
    return tensors, x, [o.transpose(0, 2, 3, 1) if o.ndim == 4 else o for o in outputs]


def imported(tensors, side=8, head=True, **fields):
    layout = recognize(tensors)
    shape = (side, side, layout.channels)
    model = models.defaults(**layout.model.to_dict() | fields)
    network = models.build(model, image_shape=shape, num_classes=layout.num_classes or 3)
    return network, to_variables(tensors, network, shape, layout.naming(network), head=head)


@pytest.mark.parametrize("name", slow_but(FORMS, *list(FORMS)[::2]))
def test_activations_of_every_block_are_those_of_its_definition(name):
    function, arguments, (channels, side), layout, model = FORMS[name]
    tensors, x, wanted = made(function, channels, side, **arguments)
    found = recognize(tensors)
    assert (found.name, found.model.name) == (layout, model)
    assert (found.num_classes, found.image_size, found.channels) == (5, 32, channels)
    ours = activations(*imported(tensors, side), x)
    assert len(ours) == len(wanted)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


VGG11 = {0: 64, 3: 128, 6: 256, 8: 256, 11: 512, 13: 512, 16: 512, 18: 512}
PLAIN = {"sizes": (1, 1), "widths": (4, 6)}


def test_a_bias_that_no_batchnorm_of_its_unit_follows_is_refused_unless_it_is_zero():
    tensors, x, wanted = made(pre, **PLAIN)
    for name in ("conv1.bias", "layer1.0.conv2.bias", "layer2.0.shortcut.0.bias"):
        channels = len(tensors[name.replace("bias", "weight")])
        with pytest.raises(ValueError, match=f"{name} is not 0.* no BatchNorm of this unit follows"):
            imported({**tensors, name: np.ones(channels, np.float32)})
        ours = activations(*imported({**tensors, name: np.zeros(channels, np.float32)}), x)
        np.testing.assert_allclose(ours[-1], wanted[-1], rtol=0, atol=2e-5 * np.abs(wanted[-1]).max())


@pytest.mark.parametrize(("function", "name"), [(post, "bn"), (post, "bn1"), (pre, "bn"), (pre, "bn_last")])
def test_where_all_channels_are_equal_the_name_of_a_batchnorm_shows_its_place(function, name):
    ends = {"stem": f"conv1 {name}"} if function is post else {"head_bn": name}
    tensors, x, wanted = made(function, sizes=(2,), widths=(4,), **ends)
    if name == "bn":
        with pytest.raises(ValueError, match=r"bn follows .*\^bn\\. -> bn1\. or.*\^bn\\. -> bn_last\."):
            recognize(tensors)
    else:
        ours = activations(*imported(tensors), x)
        np.testing.assert_allclose(ours[-1], wanted[-1], rtol=0, atol=2e-5 * np.abs(wanted[-1]).max())


def test_some_missing_biases_are_an_error():
    tensors, _, _ = made(vgg11, side=32)
    del tensors["features.4.bias"]
    with pytest.raises(ValueError, match=r"Missing: features\.4\.bias\."):
        imported(tensors, side=32)


# The fully connected layers of a head, and what else may stand in their place.
HEADS = {
    "none": {},
    "one": {"fc.weight": (5, 6), "fc.bias": (5,)},
    "behind dropout": {"classifier.1.weight": (5, 6), "classifier.1.bias": (5,)},
    "several": {"fc.0.weight": (7, 6), "fc.0.bias": (7,), "fc.3.weight": (5, 7), "fc.3.bias": (5,)},
    "of another input": {"fc.weight": (5, 24), "fc.bias": (5,)},
    "with BatchNorm": {"fc.0.weight": (7, 6), "fc.1.running_mean": (7,), "fc.3.weight": (5, 7)},
    "of unknown name": {"projector.0.weight": (7, 6), "prototypes.weight": (5, 7)},
}


@pytest.mark.parametrize("head", HEADS)
def test_a_new_head_takes_the_place_of_any(head):
    tensors, _, _ = made(post, **PLAIN, head=(("fc", 5),))
    _, wanted = imported(tensors)
    del wanted["params"]["head"]
    backbone = {k: v for k, v in tensors.items() if not k.startswith("fc.")}
    old = {k: np.ones(shape, np.float32) for k, shape in HEADS[head].items()}
    _, variables = imported(backbone | old, head=False)
    assert equal(variables, wanted)
    unknown = head in ("none", "with BatchNorm", "of unknown name")
    assert recognize(backbone | old).num_classes == (0 if unknown else 5)


def test_a_network_without_classifier_is_loaded_with_a_new_one(tmp_path):
    tensors, _, _ = made(post, **PLAIN)
    backbone = {k: np.asarray(v) for k, v in tensors.items() if not k.startswith("fc.")}
    for name, held in {"without": backbone, "with": tensors}.items():
        save_file({k: np.asarray(v) for k, v in held.items()}, tmp_path / name)
    with pytest.raises(ValueError, match=r"no classifier of a known name.*new_head=CLASSES"):
        load(tmp_path / "without")
    found = load(tmp_path / "without", new_head=3)
    assert found.layout.num_classes == 0
    head = found.variables["params"].pop("head")
    assert head["classifier"]["kernel"].shape == (6, 3) and np.std(head["classifier"]["kernel"]) > 0
    _, wanted = imported(tensors)
    del wanted["params"]["head"]
    assert equal(found.variables, wanted)
    assert equal(load(tmp_path / "with", new_head=3).variables["params"]["head"], head)


@pytest.mark.parametrize(
    ("gone", "classes", "layers"),
    [
        ((), 5, 2),
        (("classifier.6.",), 0, 2),
        (("classifier.3.", "classifier.6."), 512, 0),
        (("classifier.",), 0, 0),
    ],
)
def test_a_vgg_may_lack_fully_connected_layers(gone, classes, layers):
    """Its last layer is no classifier if it has as many outputs as inputs, and others precede it."""
    shapes = {f"features.{n}.weight": (width, 3, 3, 3) for n, width in VGG11.items()}
    shapes |= {
        "classifier.0.weight": (512, 512),
        "classifier.3.weight": (512, 512),
        "classifier.6.weight": (5, 512),
    }
    tensors = {k: np.broadcast_to(0.0, v) for k, v in shapes.items() if not k.startswith(gone or "-")}
    layout = recognize(tensors)
    assert (layout.num_classes, layout.model.fc_layers, layout.model.configuration) == (classes, layers, "A")
