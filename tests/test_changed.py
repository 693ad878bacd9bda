"""A digit that has changed in a text file of a run is noticed, and so are mixed files of two runs."""

import json
import re
import shutil

import pytest
from report_helpers import curve
from run_helpers import run_with, tiny_run

from resjax import config as configs
from resjax.analysis import load_run
from resjax.analyze import _unreadable
from resjax.report import kept
from resjax.studies.catalogue import CLAIMS
from resjax.studies.options import ClaimOptions
from resjax.workdir.records import line_of
from resjax.workdir.workdir import claim
from resjax.workdir.writers import read_records, set_aside


@pytest.fixture
def home(tmp_path):
    config = configs.default(depth=8)
    config.data.name = "digits"
    return claim(tmp_path / "run", config)


def replaced(path, old, new):
    """Replaces a text in a file, where it is once."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_changed_name_of_the_checksum_is_refused(home):
    replaced(home / "config.json", '"sha256"', '"shb256"')
    with pytest.raises(ValueError, match=r"config.json has changed since it was written"):
        configs.load(home)


def test_a_changed_value_of_a_configuration_is_refused(home):
    path = home / "config.json"
    replaced(path, '"learning_rate": 0.1', '"learning_rate": 0.5')
    with pytest.raises(
        ValueError, match=r'config.json has changed .* remove its line "sha256"; else restore it: begin'
    ) as raised:
        configs.load(home)
    assert "\n" not in str(raised.value)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "sha256" not in line))  # as the message says
    assert configs.load(home).optimizer.learning_rate == 0.5


def test_a_damaged_checksum_is_a_change(home):
    replaced(home / "config.json", f'"sha256": "{json.loads((home / "config.json").read_text())["sha256"]}"',
             '"sha256": "0"')  # fmt: skip
    with pytest.raises(ValueError, match="has changed since it was written"):
        configs.load(home)


def test_the_place_of_the_data_may_be_changed(home):
    replaced(home / "config.json", '"data_dir": ""', '"data_dir": "/elsewhere"')
    assert configs.load(home).data.data_dir == "/elsewhere"
    assert "sha256" not in configs.load(home)


RECORDS = [
    {"step": 10, "epoch": 0.5, "loss": 0.25},
    {"step": 20, "epoch": 1.0, "loss": 0.125, "norms": {"weight": {"stem": [1.5, 2.5], "head": 2.0}}},
    {"step": 20, "epoch": 1.0, "test_loss": 0.5},
]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line_of, RECORDS)))
    return path


def test_a_line_has_its_checksum_and_reads_as_its_record(log):
    assert re.fullmatch(r'\{"crc32": "[0-9a-f]{8}", "step": 10, .*\}\n', line_of(RECORDS[0]))
    found = read_records(log.parent)
    assert list(found) == RECORDS and found.unreadable == () and found.last == 20
    scalars = [{k: v for k, v in record.items() if k != "norms"} for record in RECORDS]
    assert list(found.without_norms()) == scalars
    log.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))  # of an earlier version
    assert list(read_records(log.parent)) == RECORDS


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("0.25", "0.75", 1),
        ("2.5]", "2.0]", 2),
        ('"step": 10', '"step": 11', 1),
        ("test_loss", "tesu_loss", 3),
    ],
)
def test_a_changed_digit_makes_a_line_unreadable(log, old, new, number):
    replaced(log, old, new)
    found = read_records(log.parent)
    assert found.unreadable == (number,)
    assert list(found) == [record for n, record in enumerate(RECORDS, 1) if n != number]
    changed = log.read_text().splitlines()[number - 1]
    assert "to metrics.jsonl.set-aside-1: 1 line that is no record" in set_aside(log, 20)
    assert (log.parent / "metrics.jsonl.set-aside-1").read_text() == changed + "\n"


def test_a_log_that_ends_before_its_checkpoint_is_named(log):
    said = "metrics.jsonl has no record after step 20, but there is a checkpoint of step 30: it was cut"
    assert set_aside(log, 30) == said and set_aside(log, 20) == ""
    run = run_with(workdir=log.parent, records=read_records(log.parent), step=30)
    assert _unreadable(run) == f"In {log.parent}, {said}."
    log.unlink()
    assert "no record after step 0" in set_aside(log, 30)
    assert set_aside(log, 1) == ""  # an import whose error was not measured


def test_a_changed_digit_in_a_kept_result_makes_it_anew(tmp_path):
    study, results = CLAIMS["skip_length"], {"a": curve(0.1, 0.2)}
    kept.save_claim(tmp_path, study, ClaimOptions(), results)
    path = tmp_path / "kept/skip_length.json"

    def key_holds():
        return kept._load(path, lambda data: data["key"], lambda result: result) is not None

    assert key_holds()
    whole = path.read_text()
    data = json.loads(whole)
    data["result"]["a"]["train_error"][-1] = 0.7
    path.write_text(json.dumps(data))
    assert not key_holds()
    del data["sha256"]  # of an earlier version
    path.write_text(json.dumps(data))
    assert key_holds()


def test_files_of_two_runs_are_told_apart(tmp_path):
    tiny_run(tmp_path / "one", seed=0)
    tiny_run(tmp_path / "two", seed=1)
    shutil.copy(tmp_path / "two/config.json", tmp_path / "one/config.json")
    with pytest.raises(
        ValueError, match="the checkpoint of step 2 has another seed than its configuration, 1"
    ):
        load_run(tmp_path / "one")
