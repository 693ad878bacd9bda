"""The folder of a run: how it is named, what may be written, which configuration it belongs to."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from resjax import config as configs
from resjax.analysis import load_run
from resjax.training.experiment import load_experiment
from resjax.workdir.paths import local, split, writable, writable_file
from resjax.workdir.workdir import claim, find

URLS = {
    "gs://bucket/runs/a": ("runs/a", "gcloud storage rsync --recursive runs/a gs://bucket/runs/a"),
    "s3://bucket/my run": ("'runs/my run'", "aws s3 sync 'runs/my run' 's3://bucket/my run'"),
    "hdfs://host:9000/x": ("runs/x", "copy it when the command has ended; or mount the storage"),
    "https://host/": ("runs/host", "mount the storage"),
    "HTTP://host/a": ("runs/a", "mount the storage"),
    "file:///home/me/my runs": ("'/home/me/my runs'", "give the path alone"),
    "file://localhost/home/me": ("/home/me", "give the path alone"),
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (" ", "--workdir is empty; name a folder"),
        ("~nobody-here/x", "--workdir=~nobody-here/x begins with an unknown user; name another folder"),
        ("x" * 300, r"--workdir=x{300} is no possible name \(.*\); name another folder"),
        ("x\0y", r"--workdir=x\\x00y is no possible name \(.*\); name another folder"),
        ("a\udcff", r"--workdir=a\\udcff is not UTF-8; name another folder"),
    ],
)
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        writable(name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("kind", [str, Path])  # a Path has lost a slash
@pytest.mark.parametrize("use", [local, writable, writable_file])
def test_a_url_is_no_folder(tmp_path, monkeypatch, url, kind, use):
    monkeypatch.chdir(tmp_path)
    instead, remedy = URLS[url]
    with pytest.raises(ValueError, match="is a URL") as raised:
        use(kind(url), "--out")
    if use is writable_file:
        remedy = re.sub("rsync --recursive|sync", "cp", remedy)
    text = str(raised.value)
    assert f"--out={instead}" in text and remedy in text and "\n" not in text
    assert not list(tmp_path.iterdir())


def test_a_url_that_is_read_is_copied_here_first():
    with pytest.raises(ValueError, match="aws s3 sync s3://bucket/a runs/a"):
        find(["s3://bucket/a"])
    with pytest.raises(ValueError, match="--workdir=gs://b is a URL"):
        load_run("gs://b")


@pytest.mark.parametrize("name", ["runs/a", "C:/runs", "10:30:/a", "a:b/c", "my runs, final", "gs:"])
def test_other_names_are_folders(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert local(name) == tmp_path / name == writable(name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_folder_or_cannot_be_written(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for given, said in {
        file: "--out=.*file is a file; name a folder",
        file / "a/b": "within the file",
    }.items():
        with pytest.raises(ValueError, match=said):
            writable(given, "--out")
    with pytest.raises(ValueError, match=r"--workdir is empty; name a folder: --workdir=runs/NAME"):
        local("")
    with pytest.raises(ValueError, match=r"is a folder; name a file"):
        writable_file(tmp_path, "--out")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(ValueError, match=r"--out=.* is a pipe, a socket or a device; name a file"):
            writable_file(path, "--out")
    assert writable_file(tmp_path / "new/file", "--out") == tmp_path / "new/file"
    assert not (tmp_path / "new").exists()  # the work before may fail
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ValueError, match="you may not write in"):
        writable(tmp_path / "a")


THERE = ("my runs, final", "a", "b", "c,d", "c", "p,q/seed1", "p,q/seed2")
SPLIT = {
    ("a,b",): ["a", "b"],
    ("a", "b"): ["a", "b"],
    ("a, b",): ["a", "b"],
    ("a,",): ["a"],
    ("my runs, final",): ["my runs, final"],
    ("a,my runs, final,b",): ["a", "my runs, final", "b"],
    ("c,d",): ["c,d"],  # although there is a folder c
    ("c", "d"): ["c", "d"],
    ("p,q/seed*",): ["p,q/seed*"],
    ("p,q/seed*,a",): ["p,q/seed*", "a"],
    ("x,y",): ["x", "y"],  # nothing is there: two names
}


@pytest.mark.parametrize("values", SPLIT)
def test_commas_separate_workdirs_unless_a_name_has_them(tmp_path, monkeypatch, values):
    monkeypatch.chdir(tmp_path)
    for name in THERE:
        Path(name).mkdir(parents=True)
    assert split(values) == SPLIT[values]


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    """A configuration of data in a file whose path is relative to the current folder."""
    home = tmp_path / "home"
    (home / "sets").mkdir(parents=True)
    monkeypatch.chdir(home)
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (8, 8, 8, 1), np.uint8)
        arrays[f"{part}_labels"] = np.arange(8) % 2
    np.savez("sets/numbers.npz", **arrays)
    config = configs.default("resnet", depth=8, widths=(2, 2, 2))
    config.data.name = "sets/numbers.npz"
    return config


def stored_name(run, name=None):
    """The data of a run; with ``name``, as if an earlier version had stored that."""
    stored = json.loads((run / "config.json").read_text())
    if name:
        stored["data"]["name"] = name
        (run / "config.json").write_text(json.dumps(stored))
    return stored["data"]["name"]


def test_a_run_of_data_with_a_relative_path_goes_on_elsewhere(tmp_path, monkeypatch, numbers):
    run = claim("run", numbers)
    whole = str(tmp_path / "home/sets/numbers.npz")
    assert stored_name(run) == whole and numbers.data.name == "sets/numbers.npz"
    monkeypatch.chdir(tmp_path)
    load_experiment(configs.load(run))
    claim(run, configs.load(run))
    numbers.data.name = "home/sets/numbers.npz"
    claim(run, numbers)
    numbers.data.name = "other/sets/numbers.npz"
    with pytest.raises(ValueError, match=r"another configuration:\n  data\.name: .*home.* → .*other"):
        claim(run, numbers)


@pytest.mark.parametrize("older", ["sets/numbers.npz", "./sets/numbers.npz", "../home/sets/numbers.npz"])
def test_an_older_run_of_data_with_a_relative_path(tmp_path, monkeypatch, numbers, older):
    run = claim("run", numbers)
    stored_name(run, older)
    monkeypatch.chdir(tmp_path)
    if not Path(older).exists():
        said = rf"data\.name='{older}'.* relative to this folder, {tmp_path}\. Start in .* into {run}/config"
        with pytest.raises(FileNotFoundError, match=said):
            load_run(run)
    numbers.data.name = "elsewhere/numbers.npz"
    with pytest.raises(ValueError, match="another configuration"):
        claim(run, numbers)
    numbers.data.name = "home/sets/numbers.npz"
    claim(run, numbers)
    assert stored_name(run) == str(tmp_path / "home/sets/numbers.npz")


def test_data_that_were_moved_are_missed_with_a_remedy(tmp_path, numbers):
    run = claim("run", numbers)
    Path("sets").rename("moved")
    with pytest.raises(FileNotFoundError, match=r"no such file or folder\. Write the absolute path .* into"):
        load_run(run)


@pytest.mark.parametrize(("name", "needed"), [("mnist", True), ("digits", False)])
def test_the_folder_of_prepared_sets_is_missed_where_it_is_needed(tmp_path, monkeypatch, name, needed):
    config = configs.default("resnet", depth=8, widths=(2, 2, 2))
    config.data.name, config.data.data_dir = name, "sets"
    monkeypatch.chdir(tmp_path)
    run = claim("run", config)
    assert configs.load(run).data.data_dir == str(tmp_path / "sets")
    said = r"data\.data_dir='.*/sets', and there is no such" if needed else "has no checkpoint yet"
    with pytest.raises(FileNotFoundError, match=said):
        load_run(run)


def test_a_known_name_is_never_taken_for_a_folder(tmp_path):
    config = configs.default()
    run = claim(tmp_path / "run", config)
    assert stored_name(run) == "digits"
    config.data.name = str(tmp_path / "digits")
    with pytest.raises(ValueError, match="another configuration"):
        claim(run, config)


IMPORTED = {"imported": {"file": "net.pth", "sha256": "0123", "layout": "torchvision"}}
CUT = {"cut": {"from": "runs/a", "step": 3, "units": ["stage1/unit1"], "by": "last"}}


@pytest.mark.parametrize("origin", [IMPORTED, CUT])
def test_given_weights_may_be_trained_in_another_way(tmp_path, origin):
    """But not with another network, seed or optimizer, or other data; what was trained here goes on as it
    began."""
    config = configs.default()
    run = claim(tmp_path / "run", config)
    runs = json.loads((run / "runs.json").read_text())
    (run / "runs.json").write_text(json.dumps([runs[0] | origin]))
    (run / "checkpoints/1").mkdir(parents=True)
    config.train.batch_size, config.seed, config.optimizer.momentum = 64, 1, 0.8
    config.optimizer.learning_rate, config.optimizer.schedule, config.optimizer.warmup = (
        0.2,
        "cosine",
        "9 steps",
    )
    refused = r"configuration:\n  optimizer\.momentum: 0\.9 → 0\.8\n  seed: 0 → 1\nUse"
    with pytest.raises(ValueError, match=refused):
        claim(run, config)
    config.seed, config.optimizer.momentum = 0, 0.9
    claim(run, config)
    config.train.batch_size = 32
    with pytest.raises(ValueError, match=r"train\.batch_size: 64 → 32"):
        claim(run, config)
