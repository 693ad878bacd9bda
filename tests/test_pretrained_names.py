"""Foreign names: a table renames them, and the refusal of unknown names proposes one."""

import re

import numpy as np
import pytest
from pretrained_helpers import References
from safetensors.numpy import save_file

from resjax.pretrained import load, read
from resjax.pretrained.finding import foreign
from resjax.pretrained.finding.names import new_names, read_table, renamed
from resjax.pretrained.finding.proposal import propose
from resjax.pretrained.reading.files import under

REFERENCES = References("pretrained.npz")
TABLE = r"""
# The stem.
^conv0\. -> conv1.
^bn0\. -> bn1.

^convs\.([0-2])\. -> layer1.\1.
^convs\.([3-5])\. -> layer2.\1.
^convs\.(\d+)\. -> layer3.\1.
"""


def foreign_names(tensors, **changes):
    """``tensors`` renamed by regular expressions and functions."""
    names = {name: name for name in tensors}
    for pattern, new in changes.values():
        names = {old: re.sub(pattern, new, name) for old, name in names.items()}
    assert len(set(names.values())) == len(tensors)
    return {name: tensors[old] for old, name in names.items()}


def in_one_list(tensors):
    """All units of three stages in one list, with the stem ``conv0`` and ``bn0``."""
    return foreign_names(
        tensors,
        stem=(r"^(conv|bn)1\.", r"\g<1>0."),
        units=(r"^layer(\d)\.(\d)\.", lambda m: f"convs.{3 * (int(m[1]) - 1) + int(m[2])}."),
    )


def same(found, wanted):
    return set(found) == set(wanted) and all(np.array_equal(found[k], wanted[k]) for k in wanted)


RESNET, OPTION_B = REFERENCES.tensors("akamaster_resnet20"), REFERENCES.outline("torchvision_basic")


@pytest.mark.parametrize("form", ["file", "dictionary"])
def test_a_table_renames_and_units_are_counted_from_0(form, tmp_path):
    table = tmp_path / "names.txt"
    table.write_text(TABLE, "utf-8-sig")  # as some editors write it
    if form == "dictionary":
        lines = [line.split(" -> ") for line in TABLE.splitlines() if "->" in line]
        table = dict(lines)
    assert same(renamed(in_one_list(RESNET), read_table(table)), RESNET)
    save_file(in_one_list(RESNET), tmp_path / "x.safetensors")
    source = read(tmp_path / "x.safetensors", names=table)
    assert same(source.tensors, RESNET) and source.layout.model.depth == 20
    assert source.names[0] == r"^conv0\. -> conv1." and len(source.names) == 5


def test_lines_apply_in_order_anywhere_in_a_name():
    tensors = dict.fromkeys(("a.w", "b.w", "a.a.w", "x.layer4.7.w", "x.layer4.20.w", "queue"), np.zeros(1))
    rules = read_table({r"\ba\.": "c.", r"^c\.w": "d.w", "w$": "weight", "queue": "DROP", "^b.": ""})
    assert new_names(tensors, rules) == {
        "d.weight": "a.w",
        "weight": "b.w",
        "c.c.weight": "a.a.w",
        "x.layer4.0.weight": "x.layer4.7.w",
        "x.layer4.1.weight": "x.layer4.20.w",
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("# nothing\n", "has no line"),
        ("a -> b\n\nc->d\n", "line 3: 'c->d' has no arrow"),
        ("fc(  -> b", r"line 1: 'fc\(  *-> b' is no regular expression"),
        (r"fc -> \3", r"line 1: .* is no regular expression: invalid group"),
        ("# head\n^head\\. -> fc.", r"line 2: '\^head\\\\.' matches none of 86 names, conv1.weight, "),
        ("fc -> fc", "changes no name"),
        (r"\.bias$ -> .weight", r"one name, bn1.weight, to both bn1.weight and bn1.bias"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
    ],
)
def test_a_table_that_can_not_be_meant_is_refused_with_its_line(table, message, tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(ValueError, match=message):
        renamed(OPTION_B, read_table(file))


def test_a_table_that_is_not_there_is_named(tmp_path):
    save_file({"w": np.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match=r"--names=nowhere\.txt: there is no such file"):
        read(tmp_path / "x.safetensors", names="nowhere.txt")


# --- the proposed table ---

STAGES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
FOREIGN = {
    "one list": (in_one_list, RESNET, 5),
    "units of their own": (
        lambda t: foreign_names(
            t, units=(r"^layer(\d)\.(\d)\.", lambda m: f"net.block{3 * int(m[1]) - 2 + int(m[2])}.")
        ),
        RESNET,
        3,
    ),
    "a sequence of a network's children": (
        lambda t: foreign_names(
            t,
            children=(r"^(conv1|bn1|layer\d)\.", lambda m: f"state_dict.backbone.{STAGES[m[1]]}."),
            head=(r"^fc\.", "state_dict.head."),
        ),
        OPTION_B,
        7,
    ),
    "sequences in each unit": (
        lambda t: foreign_names(
            t,
            units=(r"^layer(\d)", lambda m: f"conv{int(m[1]) + 1}_x"),
            branch=(
                r"(_x\.\d\.)(conv|bn)(\d)",
                lambda m: f"{m[1]}residual_function.{3 * int(m[3]) - 3 + (m[2] == 'bn')}",
            ),
            shortcut=("downsample", "shortcut"),
            stem=(r"^conv1\.", "conv1.0."),
            stem_bn=(r"^bn1\.", "conv1.1."),
        ),
        OPTION_B,
        12,
    ),
    "stages counted from 0": (
        lambda t: foreign_names(
            t, units=(r"^layer(\d)", lambda m: f"stage{int(m[1]) - 1}"), conv=("conv1", "c1")
        ),
        OPTION_B,
        6,
    ),
    "stages that have each other's names": (
        lambda t: foreign_names(
            t, units=(r"^layer(\d)", lambda m: f"layer{int(m[1]) - 1}"), conv=("conv1", "c1")
        ),
        OPTION_B,
        6,
    ),
    "first units of their own": (
        lambda t: foreign_names(
            t,
            first=(r"^layer([23])\.0\.", r"stack\1a."),
            rest=(r"^layer([23])\.(\d)\.", lambda m: f"stack{m[1]}b.{int(m[2]) - 1}."),
            units=(r"^layer1", "stack1"),
            ends=(r"^(conv|bn)1\.", r"\1In."),
        ),
        RESNET,
        7,
    ),
    "option B of the collections for CIFAR": (
        lambda t: foreign_names(t, units=(r"^layer(\d)", r"stage\1"), shortcut=("shortcut", "skip")),
        REFERENCES.outline("akamaster_option_b"),
        5,
    ),
    "BatchNorm within convolutions": (
        lambda t: foreign_names(
            t,
            units=(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}"),
            norm=(r"\.bn(\d)\.", r".conv\1.norm."),
            shortcut=(r"downsample\.0\.", "shortcut."),
            shortcut_norm=(r"downsample\.1\.", "shortcut.norm."),
            ends=(r"^conv1\.", "stem.conv1."),
            stem_norm=(r"^bn1\.", "stem.conv1.norm."),
        ),
        OPTION_B,
        10,
    ),
    "bottlenecks": (
        lambda t: foreign_names(t, units=(r"^layer(\d)", r"group\1"), shortcut=("downsample", "proj")),
        REFERENCES.outline("torchvision_bottleneck"),
        6,
    ),
    "a chain": (
        lambda t: foreign_names(t, convs=("features", "body"), head=("classifier", "top")),
        REFERENCES.outline("torchvision_vgg11"),
        2,
    ),
    "a chain with BatchNorm": (
        lambda t: foreign_names(t, convs=(r"features\.", "net.conv"), head=(r"classifier\.", "net.fc")),
        REFERENCES.outline("chenyaofo_vgg11_bn"),
        19,
    ),
}


@pytest.mark.parametrize("order", ["as defined", "sorted"])
@pytest.mark.parametrize("case", FOREIGN)
def test_the_proposed_table_gives_a_known_layout(case, order):
    change, tensors, lines = FOREIGN[case]
    theirs = change(tensors)
    if order == "sorted":
        theirs = dict(sorted(theirs.items()))
    rules = propose(theirs)
    assert len(rules) == lines
    found = renamed(theirs, rules)
    prefix = {"a sequence of a network's children": "state_dict.backbone.", "a chain with BatchNorm": "net."}
    assert same(under(found, {k.removeprefix(prefix.get(case, "")): k for k in found}), tensors)


def test_the_refusal_lists_the_names_and_its_table_can_be_used(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(in_one_list(RESNET), path)
    with pytest.raises(ValueError) as refusal:
        read(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: its {len(RESNET)} tensors have names of no known layout:\n")
    assert "  convs.{0…8}.conv1.weight  (16, 16, 3, 3) to (64, 64, 3, 3)\n" in text
    assert "torchvision" in text and "--config.model.shortcut=none" in text
    table = tmp_path / "names.txt"
    table.write_text(text.split("--names=names.txt:\n")[1])
    assert same(read(path, names=table).tensors, RESNET)
    table.write_text(r"^conv0\. -> conv1.")
    with pytest.raises(ValueError, match=r"(?s)even after renaming.*add these lines") as refusal:
        read(path, names=table)
    with table.open("a") as file:
        file.write("\n" + str(refusal.value).split("and correct them:\n")[1])
    assert same(read(path, names=table).tensors, RESNET)


def test_units_in_a_chain_are_no_vgg(tmp_path):
    """What torch.nn.Sequential(*children) makes of a residual network begins as a VGG does."""
    path, table = tmp_path / "x.safetensors", tmp_path / "names.txt"
    whole = REFERENCES.tensors("torchvision_basic")
    body = {k: v for k, v in whole.items() if not k.startswith("fc")}
    save_file(
        foreign_names(body, children=(r"^(conv1|bn1|layer\d)\.", lambda m: f"features.{STAGES[m[1]]}.")), path
    )
    with pytest.raises(ValueError, match="names of no known layout") as refusal:
        read(path)
    assert "VGG" in str(refusal.value)
    assert "features.0.weight." not in str(refusal.value)
    table.write_text(str(refusal.value).split("--names=names.txt:\n")[1])
    source = read(path, names=table)
    assert same(source.tensors, body) and source.prefix == "features."
    save_file({f"features.{i}.squeeze.weight": np.zeros((4, 3, 1, 1)) for i in (0, 3)}, path)
    with pytest.raises(ValueError, match="names of no known layout"):
        read(path)


def test_tensors_that_a_network_does_not_use_are_left_out_with_the_lines_of_the_refusal(tmp_path):
    strangers = (
        "sub_block.0.bn.weight",
        "sub_block.0.bn.bias",
        "layer2.1.alpha",
        "scale",
        "layer1.0.conv1.lora",
    )
    tensors = {**RESNET, **dict.fromkeys(strangers, np.zeros(3, np.float32))}
    save_file(
        {f"state_dict.net.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "x.safetensors"
    )
    with pytest.raises(ValueError, match=r"Unexpected: .*computes nothing with them") as refusal:
        load(tmp_path / "x.safetensors")
    table = tmp_path / "names.txt"
    table.write_text(str(refusal.value).split("--names=names.txt:\n")[1])
    assert len(read_table(table)) == 4
    assert same(read(tmp_path / "x.safetensors", names=table).tensors, RESNET)


@pytest.mark.parametrize(
    "tensors",
    [{"blocks.0.attn.qkv.weight": (9, 3), "pos_embed": (1, 5, 3)}, {"a.conv.weight": (4, 3, 3, 3)}],
)
def test_where_nothing_can_be_guessed_no_table_is_proposed(tensors):
    tensors = {name: np.zeros(shape) for name, shape in tensors.items()}
    assert propose(tensors) == ()
    text = foreign.refusal(tensors, renamed=False)
    assert "write a table of lines PATTERN -> REPLACEMENT" in text and "--names=FILE" in text
    assert "layer1.0.conv1.weight" in text
    assert all(f"{name}  {tensor.shape}" in text for name, tensor in tensors.items())


def test_a_long_list_of_names_is_cut():
    lines = foreign.outline({f"layer_{'x' * i}.w": np.zeros(i) for i in range(60)})
    assert len(lines) == 25 and lines[12] == "… 36 more …"
