"""config.json, runs.json and a study's numbers that are damaged: one line with the file and the remedy."""

import json
import shutil

import pytest
from report_helpers import curve

from resjax import config as configs
from resjax.report.write import read
from resjax.studies.catalogue import STUDIES
from resjax.workdir.workdir import claim, read_starts

BYTES = {
    b"": "is empty",
    b" \n": "is empty",
    b"\0" * 9: "is damaged: it is no JSON",
    b"{": "is damaged: it is no JSON (Expecting property name",
    b'{"a": 1} {"b": 2}': "is damaged: it is no JSON (Extra data",
    b'{"a": \xff}': "is damaged: it is no text in UTF-8",
    b"[" * 100_000: "is damaged: it is no JSON",
    b'{"a": ' + b"9" * 5000 + b"}": "is damaged: it is no JSON",
    b"3": "it holds 3, not",
    b"null": "it holds None, not",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return claim(tmp_path_factory.mktemp("whole") / "my run", configs.default())


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "my run")


def refusal(use, *arguments):
    """The message with which ``use(*arguments)`` refuses: one line."""
    with pytest.raises(ValueError) as raised:
        use(*arguments)
    assert type(raised.value) is ValueError and "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("content", [*BYTES, b"[]"])
def test_a_damaged_config(run, content):
    (run / "config.json").write_bytes(content)
    said = refusal(configs.load, run)
    assert said.startswith(f"{run}/config.json ") and BYTES.get(content, "it holds a list, not") in said
    assert f"copy config.json from there to '{run}/config.json'" in said
    assert refusal(claim, run, configs.default()) == said
    assert len(read_starts(run)) == 1


def without(section):
    return lambda stored: stored.pop(section)


FIELDS = {
    "no model": (without("model"), "has no model with a name"),
    "model is text": (lambda c: c.update(model="resnet"), "has no model with a name"),
    "its name is a number": (lambda c: c["model"].update(name=3), "has no model with a name"),
    "a section is a list": (lambda c: c.update(train=[1]), "has train=[1], a value of a wrong kind"),
    "a value is a section": (lambda c: c.update(seed={"a": 1}), "has seed={'a': 1}, a value of a wrong kind"),
    "text for a number": (
        lambda c: c["train"].update(batch_size="x"),
        "has train.batch_size='x'; it must be",
    ),
    "data": (lambda c: c["data"].update(pad="x"), "has data.pad='x'; needed: a whole number"),
    "null": (lambda c: c.update(seed=None), "has seed=None; it must be a whole number"),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_a_config_of_another_shape(run, kind):
    change, expected = FIELDS[kind]
    stored = json.loads((run / "config.json").read_text())
    change(stored)
    (run / "config.json").write_text(json.dumps(stored))
    said = refusal(configs.load, run)
    assert f"{run}/config.json {expected}" in said and "Restore it" in said


def test_a_config_with_a_byte_order_mark_is_read(run):
    path = run / "config.json"
    before = configs.load(run).to_dict()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert configs.load(run).to_dict() == before


@pytest.mark.parametrize("content", [*BYTES, b"{}"])
def test_a_damaged_list_of_starts(run, content):
    (run / "runs.json").write_bytes(content)
    said = refusal(read_starts, run)
    assert said.startswith(f"{run}/runs.json ") and BYTES.get(content, "it holds an object, not") in said
    assert f"mv '{run}/runs.json' '{run}/runs.json.damaged'" in said
    assert refusal(claim, run, configs.default()) == said
    (run / "runs.json").rename(run / "runs.json.damaged")  # what the message advises
    claim(run, configs.default())
    assert len(read_starts(run)) == 1 and (run / "runs.json.damaged").read_bytes() == content


IMPORT = {"file": "net.pth", "sha256": "0123", "layout": "torchvision"}


@pytest.mark.parametrize(
    "change",
    [lambda s: s.clear(), without("date"), without("commit"), lambda s: s.update(device_count="1"),
     lambda s: s.update(imported=True), lambda s: s.update(imported={**IMPORT, "file": 3}),
     lambda s: s.update(cut={"from": "runs/a", "step": 1, "units": "stage1/unit1", "by": "last"}),
     lambda s: s.update(cut={"from": "runs/a", "step": 1, "units": ["stage1/unit1", 2], "by": "last"}),
     lambda s: s.update(teacher={"workdir": "A", "step": "1", "sha256": "0"})],
)  # fmt: skip
def test_a_start_of_another_shape(run, change):
    (start,) = read_starts(run)
    (run / "runs.json").write_text(json.dumps([start, start | {"imported": IMPORT}]))
    assert len(read_starts(run)) == 2
    changed = dict(start)
    change(changed)
    for second in (changed, 3, None):
        (run / "runs.json").write_text(json.dumps([start, second]))
        assert "runs.json is damaged: entry 2 is not what a start writes" in refusal(read_starts, run)


@pytest.mark.parametrize("content", BYTES)
def test_damaged_numbers_of_a_study(tmp_path, content):
    path = tmp_path / "curves.json"
    result = {"a": {"result": curve(0.1, 0.2).to_json()}}
    path.write_text(json.dumps({"study": "curves", "runs": result}))
    assert read(path, STUDIES["curves"])["a"].train_error[-1] == 0.1
    path.write_bytes(content)
    said = refusal(read, path, STUDIES["curves"])
    assert said.startswith(f"{path} ") and BYTES[content] in said and "resjax.analyze" in said


def test_numbers_of_long_studies_are_read_and_a_long_configuration_is_not(run, tmp_path):
    path, blanks = tmp_path / "curves.json", b" " * (17 << 20)
    result = {"a": {"result": curve(0.1, 0.2).to_json()}}
    path.write_bytes(json.dumps({"study": "curves", "runs": result}).encode() + blanks)
    assert read(path, STUDIES["curves"])["a"].train_error[-1] == 0.1
    (run / "config.json").write_bytes(b"{}" + blanks)
    assert "is damaged: it has 17,825,794 bytes, of at most 16,777,216. " in refusal(configs.load, run)
