"""Every configuration trains in its small form, on data that this test makes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resjax import config as configs
from resjax.train import train_and_evaluate
from resjax.workdir.writers import read_records

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def make_npz(path: Path, size: int, channels: int) -> str:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 64), ("test", 20)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, size, size, channels), np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % 10
    np.savez(path, **arrays)
    return str(path)


def make_folder(path: Path) -> str:
    """JPEGs of several sizes, larger than what is held in memory whole."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 8), ("test", 3)):
        for label in ("cat", "dog", "frog"):
            folder = path / split / label
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (80 + 7 * i, 120, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return str(path)


def smoke_config(path: Path, tmp_path: Path):
    c = configs.load_file(path, "smoke")
    if path.stem.startswith("imagenet"):
        c.data.name = make_folder(tmp_path / "images")
    elif path.stem.startswith("lenet5"):
        c.data.name = make_npz(tmp_path / "data.npz", 28, 1)
    elif path.stem.startswith("cifar10"):
        c.data.name = make_npz(tmp_path / "data.npz", 32, 3)
    c.train.duration = "2 steps"
    c.train.batch_size = min(c.train.batch_size, 16)
    return c


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_smoke_form_trains(path, tmp_path):
    c = smoke_config(path, tmp_path)
    state = train_and_evaluate(c, tmp_path / "run")
    assert int(state.step) == 2
    records = read_records(tmp_path / "run")
    assert np.isfinite([r["loss"] for r in records if "loss" in r]).all()
    assert 0 <= records[-1]["test_error"] <= 1


@pytest.mark.slow
def test_a_streamed_folder_trains_like_any_other(tmp_path):
    """The path of large data sets: decoded on the way, cropped on the host, resumed by step."""
    c = configs.default("resnet", depth=6, widths=(4, 8))
    c.data.name = make_folder(tmp_path / "images")
    c.data.image_size = 32
    c.data.workers = 0
    c.data.flip = True
    c.train.batch_size = 8
    c.train.steps_per_dispatch = 2
    c.eval.batch_size = 8
    c.train.duration = "5 steps"
    c.checkpoint.every = "3 steps"
    state = train_and_evaluate(c, tmp_path / "run")
    assert int(state.step) == 5
    assert read_records(tmp_path / "run")[-1]["step"] == 5
