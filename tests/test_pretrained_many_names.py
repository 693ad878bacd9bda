"""Names of tensors without end: what finds a network in them takes time that grows as their number, and tells
little of them."""

import numpy as np
import pytest
from fuzz_files import resnet
from safetensors.numpy import save_file

from resjax.pretrained import read
from resjax.pretrained.finding import foreign
from resjax.pretrained.finding.besides import besides
from resjax.pretrained.finding.names import new_names, read_table
from resjax.pretrained.finding.prefixes import select
from resjax.pretrained.finding.proposal import propose
from resjax.pretrained.finding.reparametrized import effective
from resjax.pretrained.reading.files import Lazy, read_checkpoint

MANY = 1000
CONV = (2, 3, 3, 3)


class Counted(Lazy):
    """Empty tensors whose names are walked through a number of times."""

    def __init__(self, names, shape=(0,)):
        super().__init__(dict.fromkeys(names, lambda: np.zeros(shape, np.float32)))
        self.walks = 0

    def __iter__(self):
        self.walks += 1
        return super().__iter__()


NAMES = {
    "statistics": [f"a{n}.running_{part}" for n in range(MANY) for part in ("mean", "var")],
    "one module": [f"a.t{n}" for n in range(MANY)],
    "masks": [f"a{n}.weight_{part}" for n in range(MANY) for part in ("orig", "mask")],
    "numbers": [f"{n}{'.layer1' * 70}" for n in range(200)],
    "means": [f"a{n}.{part}" for n in range(MANY) for part in ("mean", "std")],
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_walked_through_a_few_times(kind):
    counted = Counted(NAMES[kind])
    tensors = effective(counted)
    found = select(tensors)
    besides(tensors, found)
    foreign.refusal(tensors, renamed=False)
    assert counted.walks < 40


@pytest.mark.parametrize("kind", NAMES)
def test_a_refusal_has_few_of_the_names(kind):
    assert len(foreign.refusal(Counted(NAMES[kind]), renamed=False)) < 3000


def test_equal_units_without_end_are_proposed_without_comparing_each_with_each():
    names = [f"unit{n}.{leaf}.weight" for n in range(200) for leaf in "ab"]
    rules = propose(Counted(names, CONV))
    assert [str(rule) for rule in rules] == [
        r"^unit(\d+)\. -> layer1.\1.",
        r"^(layer\d+\.\d+)\.a\. -> \1.conv1.",
        r"^(layer\d+\.\d+)\.b\. -> \1.conv2.",
    ]


@pytest.mark.parametrize(
    "names",
    [
        [f"u{n}x.{leaf}.weight" for n in range(300) for leaf in "ab"],
        [f"u.{n}.a.weight" for n in range(10_001)],
        [f"u{n}{'.b' * 20}.weight" for n in range(3)],
    ],
    ids=["lines", "tensors", "modules"],
)
def test_no_table_of_names_is_proposed_that_nobody_would_read(names):
    assert propose(Counted(names, CONV)) == ()


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        ([f"p{n}.layer1.0.conv1.weight" for n in range(101)], CONV, "it holds more than 100 networks"),
        ([f"layer{n}.0.conv1.weight" for n in range(1, 18)], CONV, "a network of 17 stages; at most 16"),
        (
            ["conv1.weight", *(f"layer1.0.conv{n}.weight" for n in range(1, 18))],
            CONV,
            "units of 17 convolutions",
        ),
        (
            ["conv1.weight", "layer1.0.conv1.weight", *(f"fc.{n}.weight" for n in range(17))],
            CONV,
            "a head of 17 fully connected layers; at most 16",
        ),
        ([f"features.{n}.weight" for n in range(2000)], CONV, "a chain of convolutions that is not a VGG"),
        (["conv1.weight", "layer1.0.conv1.weight"], (0, 3, 3, 3), "but shapes that none of its networks has"),
    ],
    ids=["networks", "stages", "convolutions", "head", "chain", "empty"],
)
def test_a_network_has_limits(tmp_path, names, shape, message):
    save_file({name: np.zeros(shape, np.float32) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path / "x.safetensors")
    assert len(str(refused.value)) < 10_200


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 501, r"a tensor called a{100}…, of 501 characters"),
        ("a\x1b[2J", r"a tensor called 'a\\x1b\[2J', of 5 characters"),
        ("a\nerror: b", r"a tensor called 'a\\nerror: b'"),
    ],
    ids=["long", "terminal", "line"],
)
def test_a_name_can_be_printed(tmp_path, name, message):
    save_file({name: np.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "x.safetensors")


def test_the_number_of_a_unit_stands_in_a_module_of_its_own():
    names = ["a.weight", "xlayer1.7.weight", "layer1.7.weight", "b.layer1.9.weight"]
    new = new_names(names, read_table({"^a": "c"}))
    assert [*new] == ["c.weight", "xlayer1.7.weight", "layer1.0.weight", "b.layer1.0.weight"]


def test_a_convolution_reads_channels(tmp_path):
    tensors = {**resnet(), "conv1.weight": np.zeros((4, 0, 3, 3), np.float32)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="its first convolution reads images of 0 channels"):
        read(tmp_path / "x.safetensors")
