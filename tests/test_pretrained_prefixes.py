"""Finding the network in a file: under wrappers and prefixes, beside others and what training keeps."""

import re
import shlex
from functools import partial

import numpy as np
import pytest
from pretrained_helpers import References
from safetensors.numpy import save_file

from resjax.pretrained import read
from resjax.pretrained.finding.besides import besides, classifier
from resjax.pretrained.finding.names import read_table, renamed
from resjax.pretrained.finding.normalizers import constants
from resjax.pretrained.finding.prefixes import equal, select
from resjax.pretrained.reading.files import Lazy

REFERENCES = References("pretrained.npz")
NET, VGG = REFERENCES.tensors("akamaster_resnet20"), REFERENCES.outline("torchvision_vgg11")
TWIN = {name: tensor.copy() for name, tensor in NET.items()}
BODY = {name: tensor for name, tensor in NET.items() if not name.startswith("linear")}
MEAN, STD = np.float32([0.5, 0.25, 0.125]), np.float32([0.5, 1.0, 0.75])
PAIR = (tuple(MEAN.tolist()), tuple(STD.tolist()))


def under(prefix, tensors=NET, plus=0):
    """``tensors`` with longer names, and with ``plus`` added to every number that training changes."""
    return {prefix + name: t + np.float32(plus) if plus and t.ndim else t for name, t in tensors.items()}


def within(pattern, new, tensors=NET):
    return {re.sub(pattern, new, name): tensor for name, tensor in tensors.items()}


def image(values, *shape):
    return np.reshape(values, shape)


# {case: (tensors of the file, the prefix, those of the network, what is besides it, constants)}
FOUND = {
    "alone": (NET, "", NET, (), None),
    "DataParallel": (under("module."), "module.", NET, (), None),
    "compiled": (under("state_dict.module._orig_mod."), "state_dict.module._orig_mod.", NET, (), None),
    "compiled before wrapping": (under("_orig_mod.module."), "_orig_mod.module.", NET, (), None),
    "a part wrapped": (within(r"^layer2\.", "layer2.module."), "", NET, (), None),
    "a part compiled": (within(r"^(layer\d\.\d)\.", r"\1._orig_mod."), "", NET, (), None),
    "features wrapped": (within("^features", "features.module", VGG), "", VGG, (), None),
    "an average of weights": (
        {"n_averaged": np.int64(7), **under("module.")}, "module.", NET, ("n_averaged (7)",), None,
    ),
    "Lightning": (
        {
            **under("state_dict.net."),
            "state_dict.criterion.pos_weight": np.zeros(10),
            "optimizer_states.state.0.exp_avg": np.zeros((2, 2)),
            "optimizer_states.state.0.exp_avg_sq": np.zeros((2, 2)),
        },
        "state_dict.net.",
        NET,
        ("state_dict.criterion.* (of shape (10,))", "optimizer_states.* (an optimizer's state, 2 tensors)"),
        None,
    ),
    "training's tensors beside the layers": (
        {**NET, "criterion.weight": np.zeros(10), "best_acc1": np.float32(92.5), "queue": np.zeros((8, 4))},
        "",
        NET,
        ("criterion.* (of shape (10,))", "best_acc1 (92.5)", "queue (of shape (8, 4))"),
        None,
    ),
    "momenta with the names of layers": (
        {**under("model."), **under("optimizer.momentum_buffer.", plus=1)},
        "model.",
        NET,
        ("optimizer.* (an optimizer's state, 116 tensors)",),
        None,
    ),
    "a network inside the loss": (
        {**under("model."), **under("criterion.perceptual.", VGG)},
        "model.",
        NET,
        ("criterion.* (layers, the last with 16 inputs and 7 outputs)",),
        None,
    ),
    "a network in the loss alone": (under("loss.model."), "loss.model.", NET, (), None),
    "a backbone and its own head": (
        {**under("backbone.", BODY), "head.weight": np.zeros((10, 64)), "head.bias": np.zeros(10)},
        "backbone.",
        BODY,
        ("head.* (layers, the last with 64 inputs and 10 outputs)",),
        None,
    ),
    "what a profiler left": (
        {**NET, **dict.fromkeys(("total_ops", "layer1.0.total_params", "layer1.total_ops"), np.zeros(1))},
        "",
        NET,
        ("*.total_ops (2 tensors)", "*.total_params (of shape (1,))"),
        None,
    ),
    "averages in a flat list": (
        {**NET, **{f"ema_{name.replace('.', '_')}": tensor for name, tensor in NET.items()}},
        "",
        NET,
        ("ema_conv1_weight, ema_bn1_weight, ema_bn1_bias, ema_bn1_running_mean, … (116 tensors)",),
        None,
    ),
    "a detector": (
        {**under("backbone.body.", BODY), "backbone.fpn.0.weight": np.zeros((4, 8, 1, 1))},
        "backbone.body.",
        BODY,
        ("backbone.fpn.* (of shape (4, 8, 1, 1))",),
        None,
    ),
    "standardized within": (
        {
            "normalizer.mean": image(MEAN, 1, 3, 1, 1),
            "normalizer.std": image(STD, 1, 3, 1, 1),
            **under("model."),
        },
        "model.",
        NET,
        ("normalizer.* (constants of standardization)",),
        PAIR,
    ),
    "the same network twice": (
        {
            "model.module.normalizer.new_mean": image(MEAN, 3, 1, 1),
            "model.module.normalizer.new_std": image(STD, 3, 1, 1),
            **under("model.module.model."),
            "model.module.attacker.normalize.new_mean": image(MEAN, 3, 1, 1) / 2,
            "model.module.attacker.normalize.new_std": image(STD, 3, 1, 1),
            **under("model.module.attacker.model.", TWIN),
        },
        "model.module.model.",
        NET,
        (
            "model.module.normalizer.* (constants of standardization)",
            "model.module.attacker.* (constants of standardization)",
            "model.module.attacker.model.* (the same network again, 116 tensors)",
        ),
        PAIR,
    ),
    "constants beside the layers": (
        {"mu": 255 * image(MEAN, 3, 1, 1), "sigma": 255 * image(STD, 3, 1, 1), **NET},
        "",
        NET,
        ("mu (constants of standardization)", "sigma (constants of standardization)"),
        PAIR,
    ),
    "one number for all channels": (
        {**under("net."), "net.mean": np.float32([0.5]), "net.std": np.float32(0.25)},
        "net.",
        NET,
        ("net.mean (constants of standardization)", "net.std (constants of standardization)"),
        ((0.5,) * 3, (0.25,) * 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_the_network_is_found_and_what_is_besides_it_is_told(case):
    tensors, prefix, network, beside, pair = FOUND[case]
    found = select(tensors)
    assert found.prefix == prefix
    assert equal(found.tensors, network)
    assert len(found.ignored) == len(tensors) - len(network)
    assert besides(tensors, found) == beside
    assert constants(tensors, found.prefix, 3) == pair


SEVERAL = {
    "MoCo": {
        **under("state_dict.module.encoder_q."),
        **under("state_dict.module.encoder_k.", plus=1),
        "state_dict.module.queue": np.zeros((128, 8)),
    },
    "DINO": {**under("student.module.backbone."), **under("teacher.backbone.", plus=1)},
    "an average beside the network": {**under("state_dict."), **under("state_dict_ema.module.", plus=1)},
    "one of them without a prefix": {**NET, **under("ema.", plus=1)},
    "names that a shell would change": {**under("model (best)."), **under("model (last).", plus=1)},
    "three": {**under("a."), **under("b.", VGG), **under("c.", plus=1), **under("d.")},
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_networks_are_listed_with_the_flag_that_chooses_each(case):
    tensors = SEVERAL[case]
    with pytest.raises(ValueError) as refusal:
        select(tensors)
    text = str(refusal.value)
    flags = [flag for flag in shlex.split(text.splitlines()[-1]) if flag.startswith("--prefix=")]
    assert len(flags) == (3 if case == "three" else 2)
    assert f"it holds {len(flags)} networks:" in text and "116 tensors, akamaster, resnet, 10 classes" in text
    assert text.splitlines()[-1].startswith("choose one: --prefix=") or "'" in text
    for i, flag in enumerate(flags):
        chosen = select(tensors, flag.removeprefix("--prefix="))
        wanted = {"three": [NET, VGG, under("", plus=1)]}.get(case, [NET, under("", plus=1)])
        assert equal(chosen.tensors, wanted[i])
        assert len(chosen.tensors) + len(chosen.ignored) == len(tensors)


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        (
            {**under("backbone.", BODY), "head.fc.weight": np.zeros((10, 64)), "head.fc.bias": np.zeros(10)},
            r"^head\.fc\. -> backbone.fc.",
        ),
        ({**BODY, "criterion.0.weight": np.zeros((3, 64))}, r"^criterion\.0\. -> fc."),
        ({**under("backbone."), "head.weight": np.zeros((10, 64))}, ""),  # has a classifier
        ({**under("backbone.", BODY), "head.weight": np.zeros((10, 32))}, ""),
        ({**under("backbone.", BODY), "a.weight": np.zeros((8, 64)), "b.weight": np.zeros((3, 8))}, ""),
        ({**under("backbone.", BODY), "head.weight": np.zeros(64)}, ""),
    ],
)
def test_a_layer_that_may_be_the_classifier_is_offered_as_one(tensors, line):
    text = classifier(tensors, select(tensors))
    assert line in text and bool(line) == bool(text)
    if line:
        found = select(renamed(tensors, read_table(dict([line.split(" -> ")]))))
        assert found.tensors["fc.weight"].shape[1] == 64 and set(BODY) < set(found.tensors)


def test_what_can_not_be_read_outside_the_network_does_not_matter():
    def unreadable():
        raise ValueError("of a dtype that NumPy lacks")

    get = {name: partial(under("net.").get, name) for name in under("net.")}
    tensors = Lazy({**get, "head.weight": unreadable, "optimizer.state.0": unreadable})
    found = select(tensors)
    assert equal(found.tensors, NET) and classifier(tensors, found) == ""
    assert besides(tensors, found) == ("head.* (1 tensor)", "optimizer.* (an optimizer's state, 1 tensor)")


def test_of_many_modules_the_first_are_told():
    tensors = {**under("net."), **{f"m{i}.weight": np.zeros(i) for i in range(20)}}
    told = besides(tensors, select(tensors))
    assert len(told) == 9 and told[7:] == ("m7.* (of shape (7,))", "12 modules more")


def test_a_network_without_a_prefix_is_told_as_one():
    tensors = {**SEVERAL["one of them without a prefix"], "queue": np.zeros(4)}
    assert besides(tensors, select(tensors, "ema")) == (
        "a network without a prefix (another network, 116 tensors)",
        "queue (of shape (4,))",
    )


@pytest.mark.parametrize("given", ["teacher", "teacher.", "teacher.backbone", "teacher.module.backbone."])
def test_a_part_of_a_prefix_suffices_and_wrappers_do_not_matter(given):
    tensors = {**under("student.module.backbone."), **under("teacher.module.backbone.", plus=1)}
    chosen = select(tensors, given)
    assert chosen.prefix == "teacher.module.backbone." and equal(chosen.tensors, under("", plus=1))


def test_a_prefix_without_a_known_layout_is_taken_at_its_word():
    tensors = {**under("criterion.vgg.", VGG), **under("model.")}
    assert equal(select(tensors, "criterion.vgg").tensors, VGG)


@pytest.mark.parametrize(
    ("tensors", "given", "message"),
    [
        (SEVERAL["DINO"], "techer", r"--prefix=techer: choose one: --prefix=student\.module\.backbone  or"),
        (under("net."), "model", r"under --prefix=model: use --prefix=net$"),
        (under("net."), "", r"under --prefix=: use --prefix=net$"),
        ({"encoder.a.b": MEAN, "decoder.c": MEAN}, "enkoder", r"=enkoder: did you mean encoder\?"),
        ({"encoder.a.b": MEAN, "decoder.c": MEAN}, "x", r"under --prefix=x: there are decoder, encoder$"),
        ({"w": MEAN}, "x", r"no name in the file has a prefix"),
        ({**under("a.b."), **under("a.c.", plus=1)}, "a", r"--prefix=a\.b  or  --prefix=a\.c"),
    ],
)  # fmt: skip
def test_a_prefix_that_chooses_nothing_is_answered_with_those_that_do(tensors, given, message):
    with pytest.raises(ValueError, match=message):
        select(tensors, given)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([-2.0, 0.1, 0.1], [0.2, 0.2, 0.2]),  # not of pixels
        ([0.5, 0.5, 0.5], [0.2, 0.0, 0.2]),
        ([300.0, 100.0, 100.0], [60.0, 60.0, 60.0]),
        ([0.5, 0.5], [0.2, 0.2]),  # of two channels
        ([[0.5] * 3] * 3, [[0.2] * 3] * 3),
    ],
)
def test_numbers_that_can_not_standardize_pixels_are_no_constants(mean, std):
    assert constants({"mean": np.array(mean), "std": np.array(std)}, "", 3) is None


def test_constants_of_three_channels_are_not_those_of_grey_images():
    pair = {"mean": MEAN, "std": STD}
    assert constants(pair, "", 1) is None and constants(pair, "", 3) == PAIR


def test_a_file_gives_what_was_found(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({**FOUND["standardized within"][0], "model.conv1.weight_orig": NET["conv1.weight"],
               "model.conv1.weight_mask": np.ones_like(NET["conv1.weight"])}, file)  # fmt: skip
    with pytest.raises(ValueError, match=rf"^{file}: the file has both model\.conv1\.weight and its parts"):
        read(file)
    tensors = {**FOUND["standardized within"][0]}
    tensors["model.conv1.weight_orig"] = tensors.pop("model.conv1.weight")
    tensors["model.conv1.weight_mask"] = np.float32(tensors["model.conv1.weight_orig"] > 0)
    save_file(tensors, file)
    source = read(file)
    assert source.prefix == "model." and source.constants == PAIR and source.names == ()
    assert source.besides == ("normalizer.* (constants of standardization)",)
    assert np.array_equal(source.tensors["conv1.weight"], np.maximum(NET["conv1.weight"], 0))
    save_file(SEVERAL["DINO"], file)
    with pytest.raises(ValueError, match=rf"^{file}: it holds 2 networks"):
        read(file)
    assert equal(read(file, prefix="teacher").tensors, under("", plus=1))


def unreadable():
    raise ValueError("it is sparse")


@pytest.mark.parametrize(
    ("others", "given", "besides_it"),
    [
        (["adjacency"], None, ()),
        (["criterion.graph"], None, ("criterion.* (1 tensor)",)),
        (["normalizer.mean", "normalizer.std"], None, ("normalizer.* (2 tensors)",)),
        ([f"ema.{name}" for name in NET], "net", (f"ema.* (another network, {len(NET)} tensors)",)),
    ],
)
def test_a_tensor_that_can_not_be_read_matters_in_the_network_only(others, given, besides_it):
    prefix = f"{given}." if given else ""
    get = {name: partial(np.asarray, tensor) for name, tensor in under(prefix).items()}
    tensors = Lazy(get | dict.fromkeys(others, unreadable))
    found = select(tensors, given)
    assert all(name in tensors for name in others)
    assert besides(tensors, found) == besides_it
    own = set(found.tensors) - set(others)
    assert own == set(NET) and constants(tensors, found.prefix, 3) is None
