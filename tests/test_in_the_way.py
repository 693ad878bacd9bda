"""Files that are damaged, names that can not be, and other things in the way of each command: one line."""

import errno
import os
import shlex
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from script_helpers import run_each

from resjax import models
from resjax.data import prepare
from resjax.data.npz import KEYS, read_npz
from resjax.pretrained import recognize


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "whole.npz"
    arrays = (np.zeros((10, 4, 4, 1), np.uint8), np.arange(10)) * 2
    np.savez(path, **dict(zip(KEYS, arrays, strict=True)))
    read_npz(str(path))
    return path.read_bytes()


PART = "not an .npz archive, or only a part of one"
DAMAGES = {
    "its end alone": (lambda b: b[-300:], "train_images is damaged, or no array"),
    "its directory": (lambda b: b[: b.rfind(b"PK\1\2")] + b"XXXX" + b[b.rfind(b"PK\1\2") + 4 :], PART),
    "how long that is": (lambda b: b[:-10] + b"\xff\xff\xff\x7f" + b[-6:], PART),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_an_archive_without_its_directory(npz, tmp_path, damage, said):
    path = tmp_path / "cut.npz"
    path.write_bytes(damage(npz))
    with pytest.raises(ValueError, match=f"cut.npz: {said}"):
        read_npz(str(path))


def test_a_layer_whose_tensor_has_no_dimensions():
    shapes = {
        "features.0.weight": (8, 3, 11, 11),
        "classifier.1.weight": (4, 8),
        "classifier.4.weight": (4, 4),
    }
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"classifier.6.weight is a single number"):
        recognize(tensors | {"classifier.6.weight": np.zeros((), np.float32)})


@pytest.mark.parametrize("name", ["../x:y", ".:y", "x:", ":y", "a..b:c"])
def test_a_name_of_a_builder_that_cannot_be_one(name):
    with pytest.raises(ValueError, match=r"or your own builder as 'package.module:function'"):
        models.build({"name": name}, image_shape=(8, 8, 1), num_classes=10)


def places(folder):
    """Files and folders in the way."""
    (folder / "file").touch()
    (folder / "folder.py").mkdir()
    (folder / "broken.py").write_text("import no_such_module")
    (folder / "bad.py").write_text("def get_config(arg=''")
    save_file({"features.0.weight": np.zeros((), np.float32)}, folder / "zero.safetensors")


LONG = "x" * 300
COMMANDS = {
    ("resjax.train", "--config=digits:smoke", "--workdir=file/run"): (1, "is within the file"),
    ("resjax.train", "--config=digits:smoke", f"--workdir={LONG}"): (1, "File name too long"),
    ("resjax.train", "--config=folder.py", "--workdir=run"): (2, "there is no such file"),
    ("resjax.train", "--config=broken.py", "--workdir=run"): (2, "ModuleNotFoundError: No module named"),
    ("resjax.train", "--config=bad.py", "--workdir=run"): (2, "SyntaxError: "),
    ("resjax.train", f"--config={LONG}.py", "--workdir=run"): (2, "the name is too long"),
    ("resjax.train", "--config=digits", "--workdir=run", f"--config.data.name={LONG}.npz"): (1, "too long"),
    ("resjax.describe", "--config=digits", "--config.model.name=../x:y"): (1, "model.name='../x:y'; allowed"),
    ("resjax.analyze", f"--workdir={LONG}"): (1, "File name too long"),
    ("resjax.claims", "--names=edges", "--out=file/x"): (1, "is within the file"),
    ("resjax.demo", "--smoke", "--workdir=file/x"): (1, "is within the file"),
    ("resjax.convolve", f"--image={LONG}"): (1, "the name is too long; name a shorter one"),
    ("resjax.convolve", "--figure=file/x.png"): (1, "is a file; name a folder"),
    ("resjax.pretrained.export", "--workdir=run", "--out=file/x"): (1, "is a file; name a folder"),
    ("resjax.cut", "--workdir=run", "--out=file/x", "--count=1"): (1, "is within the file"),
    ("resjax.cut", f"--workdir={LONG}", "--out=x", "--count=1"): (1, "File name too long"),
    ("resjax.pretrained", f"{LONG}.pth", "--workdir=run"): (1, "the name is too long"),
    ("resjax.pretrained", "zero.safetensors", f"--names={LONG}", "--workdir=run"): (
        1,
        "the name is too long",
    ),
    ("resjax.data.prepare", "mnist", f"--source={LONG}"): (1, "the name is too long"),
    ("resjax", "train", "--config=digits:smoke", "--workdir=file/run"): (1, "is within the file"),
}
QUICK = [("resjax.convolve", f"--image={LONG}"), ("resjax.pretrained", f"{LONG}.pth", "--workdir=run")]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_commands_with_something_in_the_way(tmp_path, every):
    places(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    cases = COMMANDS if every else {key: COMMANDS[key] for key in QUICK}
    for (arguments, (code, said)), done in zip(
        cases.items(), run_each(list(cases), out, cwd=tmp_path), strict=True
    ):
        name = shlex.join(arguments)[:80]
        assert done.returncode == code, (name, done)
        assert said in done.stderr and done.stderr.startswith("error: "), (name, done.stderr)
        assert done.stderr.count("\n") == 1, (name, done.stderr)


def test_prepare_uses_the_same_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        prepare, "prepare", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "", "/disk/file"))
    )
    with pytest.raises(SystemExit, match="1"):
        prepare.main(["mnist"])
    assert capsys.readouterr().err.startswith("error: /disk/file: this disk can only be read")


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch, capsys):
    from resjax import __main__ as script

    def gone():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(sys, "argv", ["resjax", "demo"])
    monkeypatch.setattr(script, "starts_process", lambda: None)  # it directs the signals of this process
    monkeypatch.setattr(os, "getcwd", gone)
    with pytest.raises(SystemExit, match="1"):
        script.main()
    assert capsys.readouterr().err.startswith("error: the current folder has been removed")
