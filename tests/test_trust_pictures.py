"""A picture's content chooses no program: whatever a file is called, a fixed list of formats is read."""

import subprocess

import numpy as np
import pytest
from data_helpers import images
from PIL import EpsImagePlugin, Image

from resjax import data
from resjax.convolve import read
from resjax.data.decode import FORMATS, opened
from resjax.data.pixels import shown

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """The programs that were started; none really is."""
    programs = []

    def start(*arguments, **_):
        programs.append(arguments)
        raise OSError("no program is started here")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(
        EpsImagePlugin, "gs_binary", None, raising=False
    )  # Pillow remembers whether there is Ghostscript
    yield programs
    assert programs == []


@pytest.fixture
def folder(tmp_path):
    for place in ("train/a/1", "train/b/2", "test/a/3", "test/b/4"):
        file = tmp_path / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images(1, 8, 8, 3)[0]).save(file)
    return tmp_path


def load(folder, **changes):
    config = data.defaults()
    config.update({"name": str(folder), "workers": 0, **changes})
    return data.load(config)


def test_pillow_alone_would_start_ghostscript(tmp_path, started):
    (tmp_path / "x.png").write_bytes(EPS)
    with Image.open(tmp_path / "x.png") as image, pytest.raises(OSError):
        image.load()
    assert started and "gs" in started[0][0][0]
    started.clear()


@pytest.mark.parametrize(
    ("size", "where"), [(0, "train"), (8, "test"), pytest.param(65, "train", marks=pytest.mark.slow)]
)
def test_postscript_in_a_folder_of_pictures(folder, size, where):
    """In a set that is loaded whole, and in one that is streamed."""
    file = folder / where / "a" / "x.png"
    file.write_bytes(EPS)
    with pytest.raises(ValueError) as refused:
        next(load(folder, image_size=size).train_batches(0, 3))
    said = f"{file} is not a readable image (it is PostScript; formats that are read: JPEG, PNG, BMP"
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_postscript_given_to_a_command(tmp_path):
    (tmp_path / "x.png").write_bytes(EPS)
    with pytest.raises(ValueError, match=r"x\.png is not a readable image \(it is PostScript"):
        read(str(tmp_path / "x.png"), "", 0)


@pytest.mark.parametrize("kind", ["ICO", "PCX", "SGI", "TGA", "PDF", "DDS"])
def test_other_formats_are_not_read_whatever_they_are_called(tmp_path, kind):
    Image.fromarray(images(1, 16, 16, 3)[0]).save(tmp_path / "x.png", kind)
    encoded = (tmp_path / "x.png").read_bytes()
    with pytest.raises(ValueError, match=r"x\.png is not a readable image"), opened(encoded, "x.png"):
        pass


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_the_list_are_read(tmp_path, kind):
    stored = np.kron(images(1, 2, 2, 3)[0], np.ones((16, 16, 1), np.uint8))  # large fields, for JPEG
    Image.fromarray(stored).save(tmp_path / "x", kind, **({"lossless": True} if kind == "WEBP" else {}))
    with opened((tmp_path / "x").read_bytes(), "x") as image:
        pixels = np.asarray(shown(image, 3), int)
    assert np.abs(pixels - stored)[4:12, 4:12].max() <= 3
