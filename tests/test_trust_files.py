"""Pipes, sockets and devices in place of files: every reader refuses them at once, in one line.

Opening a pipe waits for a writer, so each test is ended by a signal after some seconds.
"""

import os
import shutil
import signal
import socket
import types
from pathlib import Path

import numpy as np
import pytest
from data_helpers import accept, images, write_mnist
from PIL import Image
from report_helpers import curve

from resjax import config as configs
from resjax import convolve, data
from resjax.data import folder, layout, prepare, tfds
from resjax.data.files import NotRegular, open_regular, read_bytes, read_json
from resjax.pretrained.finding.names import read_table
from resjax.pretrained.reading.files import read_checkpoint
from resjax.report import kept
from resjax.report.write import read as read_study
from resjax.studies.catalogue import STUDIES
from resjax.studies.options import Options
from resjax.training import manifest
from resjax.training.checkpoint import Checkpoints, Damaged
from resjax.workdir.workdir import claim, read_starts
from resjax.workdir.writers import Writer, read_records

TORCH = Path(__file__).parent / "data/pretrained_zip.pth"


@pytest.fixture(autouse=True)
def in_time():
    """Ends what waits."""

    def stop(*_):
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path):
    os.mkfifo(path)


def link_to_pipe(path):
    os.mkfifo(path.with_name("z pipe"))
    path.symlink_to("z pipe")


def device(path):
    path.symlink_to("/dev/null")  # /dev/zero would not end


def listening(path):
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name has at most 100 characters
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(path.name)
    os.chdir(here)


KINDS = {
    pipe: "a pipe",
    link_to_pipe: "a link to z pipe, a pipe",
    device: "a link to /dev/null, a device",
    listening: "a socket",
}


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def kind(request):
    return request.param


def refusal(use, *arguments):
    with pytest.raises(ValueError) as raised:
        use(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_no_file_is_refused_when_it_is_opened(tmp_path, kind):
    kind(path := tmp_path / "x")
    for use in (open_regular, read_bytes, lambda p: read_json(p, dict, "")):
        said = refusal(use, path)
        assert said.startswith(f"{path} is {KINDS[kind]}, not a file: save what comes out of it")


def test_a_folder_a_missing_file_and_one_below_a_file(tmp_path):
    assert refusal(read_bytes, tmp_path) == f"{tmp_path} is a folder, not a file: name a file"
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == b"abc"
    for path in (tmp_path / "none", tmp_path / "file/none"):
        with pytest.raises(FileNotFoundError):
            read_bytes(path)


def test_it_can_not_be_exchanged_after_it_was_looked_at(tmp_path, monkeypatch):
    """The file that is open is looked at, not its name."""
    pipe(path := tmp_path / "x")
    regular = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(NotRegular):
        open_regular(path)


def test_no_descriptor_is_left(tmp_path, kind):
    kind(path := tmp_path / "x")
    before = os.listdir("/dev/fd")
    refusal(open_regular, path)
    assert os.listdir("/dev/fd") == before


# --- every reader ---


def of_workdir(name, use):
    """``use(workdir)`` where the file ``name`` of a claimed workdir is replaced by ``make(path)``."""

    def refuse(make, tmp_path):
        run = claim(tmp_path / "run", configs.default())
        (run / name).unlink(missing_ok=True)
        make(run / name)
        return refusal(use, run), run / name

    return refuse


def log_of(run):
    with Writer(run, 1, 2):
        pass


def study(make, tmp_path):
    make(path := tmp_path / "curves.json")
    return refusal(read_study, path, STUDIES["curves"]), path


def archive(make, tmp_path):
    make(path := tmp_path / "x.npz")
    c = data.defaults()
    c.name = str(path)
    return refusal(data.load, c), path


def picture(make, tmp_path):
    make(path := tmp_path / "x.png")
    return refusal(convolve.read, str(path), "", 0), path


def picture_of_a_set(make, tmp_path):
    """Replaced after the folder was listed."""
    for place in ("train/a/1", "train/b/2", "test/a/3", "test/b/4"):
        file = tmp_path / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images(1, 8, 8, 3)[0]).save(file)
    train, test, _ = folder.scan(str(tmp_path))
    (path := tmp_path / "train/a/1.png").unlink()
    make(path)
    assert str(path) in refusal(folder.whole_shape, train, test, 0)
    return refusal(folder.read_whole, train, (8, 8, 3), False, "white"), path


def experiment(make, tmp_path):
    make(path := tmp_path / "x.py")
    assert refusal(configs.find_file, path) == refusal(configs.load_file, path)
    return refusal(configs.find_file, path), path


def tensors(make, tmp_path):
    make(path := tmp_path / "x.pth")
    return refusal(read_checkpoint, path), path


def tensors_in_a_folder(make, tmp_path):
    (tmp_path / "theirs").mkdir()
    make(path := tmp_path / "theirs/x.safetensors")
    return refusal(read_checkpoint, tmp_path / "theirs"), path


def index(make, tmp_path):
    make(path := tmp_path / "model.safetensors.index.json")
    return refusal(read_checkpoint, path), path


def shard(make, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "shard.safetensors"}}')
    make(path := tmp_path / "shard.safetensors")
    return refusal(read_checkpoint, tmp_path / "model.safetensors.index.json"), path


def table(make, tmp_path):
    make(path := tmp_path / "table")
    return refusal(read_table, path), path


def file_of_a_checkpoint(make, tmp_path):
    """Of one with checksums, and of one of an earlier version without."""
    step = tmp_path / "checkpoints/1"
    (step / "d").mkdir(parents=True)
    (step / "d/array").write_bytes(b"numbers")
    (step / "_CHECKPOINT_METADATA").write_text(manifest.FILE)
    manifest.write(step, 1)
    (path := step / "d/array").unlink()
    make(path)
    for _ in range(2):
        with pytest.raises(Damaged) as raised:
            Checkpoints(tmp_path).restore(types.SimpleNamespace())
        assert "the checkpoint of step 1 is damaged: " in str(raised.value)
        (step / manifest.FILE).unlink(missing_ok=True)
        (step / "_CHECKPOINT_METADATA").write_text("")
    return str(raised.value), path


def file_of_a_prepared_set(make, tmp_path):
    home = tmp_path / "mnist/3.0.1"
    home.mkdir(parents=True)
    for name in ("dataset_info.json", "mnist-train.array_record-00000-of-00001"):
        (home / name).write_text("{}")
    make(path := home / "features.json")
    return refusal(tfds.Records, "mnist", str(tmp_path), "train"), path


READERS = {
    "config.json": of_workdir("config.json", configs.load),
    "config.json, in training": of_workdir("config.json", lambda run: claim(run, configs.default())),
    "runs.json": of_workdir("runs.json", read_starts),
    "metrics.jsonl": of_workdir("metrics.jsonl", read_records),
    "metrics.jsonl, in training": of_workdir("metrics.jsonl", log_of),
    **{
        f.__name__: f
        for f in (study, archive, picture, picture_of_a_set, experiment, tensors, tensors_in_a_folder, index,
                  shard, table, file_of_a_checkpoint, file_of_a_prepared_set)
    },
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_what_is_no_file(reader, kind, tmp_path):
    said, path = READERS[reader](kind, tmp_path)
    assert f"{path} is {KINDS[kind]}, not a file: save what comes out of it as a file first" in said


def test_an_original_file_of_a_known_set(kind, tmp_path, monkeypatch, capsys):
    write_mnist(source := tmp_path / "source")
    accept(monkeypatch, source)
    (path := source / "train-images-idx3-ubyte.gz").unlink()
    kind(path)
    with pytest.raises(SystemExit) as ended:
        prepare.main(["mnist", f"--data_dir={tmp_path}/sets", f"--source={source}"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {path} is {KINDS[kind]}, not a file")


def test_a_finished_result_is_made_again(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "key", lambda *_: "key")
    run = types.SimpleNamespace(kept=tmp_path)
    kind(tmp_path / "curves.json")
    assert kept.load(run, STUDIES["curves"], Options()) is None
    kept.save(run, STUDIES["curves"], Options(), result := curve(0.1, 0.2))
    assert kept.load(run, STUDIES["curves"], Options()).to_json() == result.to_json()


def test_a_set_of_pictures_with_a_device_is_refused_before_it_is_read(kind, tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    kind(tmp_path / "train/a/1.png")
    with pytest.raises(ValueError, match=r"1\.png is a "):
        layout.classes(tmp_path / "train")


def test_a_link_to_a_folder_in_a_checkpoint(tmp_path):
    """The store would follow it to files that were not looked at."""
    (tmp_path / "checkpoints/1").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints/1/d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match=r"1/d is a link to .*elsewhere, a folder, not a file"):
        Checkpoints(tmp_path).restore(types.SimpleNamespace())


def test_the_output_of_a_program_as_a_file(tmp_path):
    """``resjax.pretrained <(curl …)`` names a pipe, too."""
    reading, writing = os.pipe()
    os.write(writing, TORCH.read_bytes()[:1000])
    try:
        for use in (read_checkpoint, read_table, configs.find_file):
            assert "a pipe, not a file: save what comes out of it" in refusal(use, f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)


def test_files_are_read_through_links(tmp_path):
    shutil.copy(TORCH, tmp_path / "there.pth")
    (tmp_path / "here.pth").symlink_to("there.pth")
    found = read_checkpoint(tmp_path / "here.pth").tensors
    np.testing.assert_array_equal(found["best"], read_checkpoint(TORCH).tensors["best"])
