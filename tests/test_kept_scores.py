"""Scores that a command has measured are on disk for the next one, which adds examples and draws to them."""

import dataclasses
import io

import numpy as np
import pytest
from network_helpers import draw, subject_of
from rich.console import Console
from run_helpers import tiny_run

from resjax import models
from resjax.analysis import load_run
from resjax.cpu.memory import ENOUGH
from resjax.report import compute, kept_scores
from resjax.report.kept_scores import KeptScores
from resjax.studies.catalogue import STUDIES
from resjax.studies.lesions import prefixes
from resjax.studies.options import Options

SHAPE, CLASSES, BATCH = (6, 6, 1), 4, 4
CONFIG = models.defaults("resnet", stage_sizes=(4, 1), widths=(4, 6))
NETWORK = models.build(CONFIG, image_shape=SHAPE, num_classes=CLASSES)
VARIABLES = draw(NETWORK, SHAPE)
OPTIONS = Options(max_examples=4, batch_size=BATCH, draws=2)
MORE = dataclasses.replace(OPTIONS, max_examples=7, draws=4)


def subject(folder, **identity):
    """As another command sees it: nothing is in memory."""

    def give(split, most, augmented=False):
        rng = np.random.default_rng(1)
        images, labels = rng.normal(size=(7, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, 7)
        return images[:most], labels[:most]

    more = {"identity": {"name": "made", **identity}, "kept": folder}
    return subject_of(NETWORK, VARIABLES, give, SHAPE, **more)


def ran_by(run, name, options, monkeypatch, stored=None):
    """The result of a study, and how many units ran on how many examples."""
    images, own = [], prefixes.run_unit
    with monkeypatch.context() as patched:
        patched.setattr(prefixes, "run_unit", lambda *a: images.append(len(a[4])) or own(*a))
        study = dataclasses.replace(STUDIES[name], control=False)
        result = study.run(run, options, stored=stored)
    return result, sum(images)


def fill(folder, names=("deletions", "reorder")):
    stored = KeptScores(BATCH)
    for name in names:
        dataclasses.replace(STUDIES[name], control=False).run(subject(folder), OPTIONS, stored=stored)
        stored.save(folder)


@pytest.mark.parametrize("name", ["deletions", "reorder"])
def test_another_command_adds_examples_and_draws(name, tmp_path, monkeypatch):
    fill(tmp_path)
    same, ran = ran_by(subject(tmp_path), name, OPTIONS, monkeypatch, KeptScores(BATCH))
    alone, units = ran_by(subject(tmp_path), name, OPTIONS, monkeypatch)
    assert ran == 0 < units and same.to_json() == alone.to_json()
    more, ran = ran_by(subject(tmp_path), name, MORE, monkeypatch, KeptScores(BATCH))
    alone, units = ran_by(subject(tmp_path), name, MORE, monkeypatch)
    assert 0 < ran < units
    for measured in ("error", "loss", "kl", "agreement"):
        np.testing.assert_allclose(getattr(more, measured), getattr(alone, measured), rtol=2e-4, atol=2e-6)


def test_scores_of_another_run_are_not_used(tmp_path, monkeypatch):
    fill(tmp_path, ["reorder"])
    for run, size in ((subject(tmp_path, step=2), BATCH), (subject(tmp_path), BATCH + 1)):
        options = dataclasses.replace(OPTIONS, batch_size=size)
        assert ran_by(run, "reorder", options, monkeypatch, KeptScores(size))[1]
    monkeypatch.setattr(kept_scores, "code_fingerprint", lambda code: "changed")
    assert ran_by(subject(tmp_path), "reorder", OPTIONS, monkeypatch, KeptScores(BATCH))[1]


@pytest.mark.parametrize("damage", ["cut short", "a changed byte", "another format", "absent", "a folder"])
def test_a_damaged_file_is_measured_again(damage, tmp_path, monkeypatch):
    fill(tmp_path, ["reorder"])
    path = tmp_path / "scores.npz"
    content = path.read_bytes()
    middle = len(content) // 2
    if damage in ("absent", "a folder"):
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    else:
        changed = bytes([content[middle] ^ 1])
        contents = {
            "cut short": content[:middle],
            "a changed byte": content[:middle] + changed + content[middle + 1 :],
            "another format": b"{}",
        }
        path.write_bytes(contents[damage])
    result, ran = ran_by(subject(tmp_path), "reorder", OPTIONS, monkeypatch, KeptScores(BATCH))
    assert ran
    assert result.to_json() == ran_by(subject(tmp_path), "reorder", OPTIONS, monkeypatch)[0].to_json()


def test_no_damaged_byte_of_the_table_of_contents_stops_a_study(tmp_path, monkeypatch):
    """Whatever zipfile or numpy makes of it: the file is read as it is, or not at all."""
    fill(tmp_path, ["reorder"])
    path, run = tmp_path / "scores.npz", subject(tmp_path)
    key = kept_scores._key(run, False, BATCH)
    monkeypatch.setattr(kept_scores, "_key", lambda *_: key)  # always the same, and slow
    content, whole = path.read_bytes(), KeptScores(BATCH)(run, False)
    table = content.rfind(b"PK\x01\x02", 0, content.find(b"PK\x05\x06"))  # of the last array
    assert whole.size and table > 0
    for place in range(table, len(content)):
        for bit in (1, 8, 128):
            changed = bytearray(content)
            changed[place] ^= bit
            path.write_bytes(changed)
            found = KeptScores(BATCH)(run, False)
            assert found.size == 0 or found.rows.keys() == whole.rows.keys()


def test_a_control_takes_the_scores_of_the_network_at_initialization(tmp_path):
    tiny_run(tmp_path, stage_sizes=(2, 1))
    study, options = dataclasses.replace(STUDIES["lesion"], control=True), Options(max_examples=8)
    alone = study.run(load_run(tmp_path), options)
    for _ in range(2):  # the first command measures, the second reads
        stored, run = KeptScores(options.batch_size), load_run(tmp_path)
        result = study.run(run, options, stored=stored)
        stored.save(run.kept)
        assert result.loss.tolist() == alone.loss.tolist() != result.initial.loss.tolist()
        assert result.initial.loss.tolist() == alone.initial.loss.tolist()
    names = sorted(path.name for path in run.kept.iterdir())
    assert names == ["scores.npz", "scores_initial.npz"]


def _fails(bench):
    raise RuntimeError("a study with a fault")


def test_a_folder_that_cannot_be_written_costs_no_other_run_its_results(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    runs = [subject(tmp_path / name) for name in ("file", "folder")]
    for run in runs:
        run.label = run.kept.name
    printed, asked = io.StringIO(), []
    monkeypatch.setattr(compute, "forget_programs", asked.append)
    study = dataclasses.replace(STUDIES["reorder"], control=False)
    broken = dataclasses.replace(study, name="deletions", measure=_fails)
    done = compute.run_studies(runs, [study, broken], OPTIONS, Console(file=printed, width=200))
    assert list(done.shown[0][1]) == ["file", "folder"] and len(done.failed) == 2
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["reorder.json", "scores.npz"]
    assert printed.getvalue().count("scores not saved") == printed.getvalue().count("result not saved") == 1
    assert asked == [ENOUGH] * 4  # behind each study of each run, also where it failed


def test_the_network_at_initialization_has_scores_of_its_own(tmp_path):
    stored = KeptScores(BATCH)
    trained, initial = (stored(subject(tmp_path, step=step), step == 0) for step in (9, 0))
    known = prefixes.measure_places(NETWORK, VARIABLES, *subject(tmp_path).examples("test", 3), PLACES)[0]
    initial.add(PLACES, known)
    stored.save(tmp_path / "other")
    assert not list(tmp_path.iterdir())
    stored.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores_initial.npz"]
    assert trained.size == 0
    again = KeptScores(BATCH)
    assert again(subject(tmp_path, step=9), False).size == 0
    assert again(subject(tmp_path, step=0), True).size == 3


PLACES = np.arange(5)[None]
