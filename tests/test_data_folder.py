"""A user's folder of class folders."""

import numpy as np
import pytest
from data_helpers import images
from PIL import Image

from resjax import data
from resjax.data import folder


def config(path, **changes):
    c = data.defaults()
    c.update({"name": str(path), "workers": 0, **changes})
    return c


def fill(root, part, names, count=3, size=(10, 12), mode="RGB"):
    channels = 3 if mode == "RGB" else 1
    for k, name in enumerate(names):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(images(count, *size, channels, seed=k)):
            picture = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
            picture.save(root / part / name / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    fill(tmp_path, "train", ("bee", "ant"))
    fill(tmp_path, "test", ("ant", "bee"), count=2)
    return tmp_path


def test_small_equal_images_are_held_whole(root):
    set_ = data.load(config(root))
    assert isinstance(set_, data.Arrays)
    assert set_.info.class_names == ("ant", "bee") and set_.info.image_shape == (10, 12, 3)
    assert set_.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    # "bee" was written first, from seed 0.
    np.testing.assert_array_equal(set_.train_images[3:], images(3, 10, 12, 3, seed=0))
    assert set_.info.num_test == 4


def test_val_stands_for_test(tmp_path):
    fill(tmp_path, "train", ("a", "b"))
    fill(tmp_path, "val", ("a",), count=1)
    assert data.load(config(tmp_path)).info.num_test == 1


def test_grey_images_have_one_channel(tmp_path):
    fill(tmp_path, "train", ("a", "b"), mode="L")
    fill(tmp_path, "test", ("a", "b"), mode="L")
    assert data.load(config(tmp_path)).info.image_shape == (10, 12, 1)


def test_one_colour_image_makes_the_set_coloured(tmp_path):
    fill(tmp_path, "train", ("a", "b"), mode="L")
    fill(tmp_path, "test", ("a", "b"))
    assert data.load(config(tmp_path)).info.image_shape == (10, 12, 3)


def test_images_of_different_sizes_need_image_size(root):
    fill(root, "train", ("cat",), size=(20, 11))
    with pytest.raises(ValueError, match=r"different sizes .*data\.image_size"):
        data.load(config(root))
    set_ = data.load(config(root, image_size=16))
    assert set_.train_images.shape == (9, 16, 16, 3)


def test_pictures_of_a_folder_are_not_padded(root):
    with pytest.raises(ValueError, match="not for folders"):
        data.load(config(root, image_size=16, fit="pad"))


def test_larger_images_are_streamed(root):
    set_ = data.load(config(root, image_size=65))
    assert isinstance(set_, data.Stream) and set_.info.image_shape == (65, 65, 3)
    batch = next(set_.train_batches(0, 4))
    assert batch["image"].shape == (4, 65, 65, 3) and batch["label"].dtype == np.int32


def test_many_small_images_are_streamed(root, monkeypatch):
    monkeypatch.setattr(folder, "_WHOLE_BYTES", 10 * 16 * 16 * 3 - 1)
    assert isinstance(data.load(config(root, image_size=16)), data.Stream)


def test_large_images_need_image_size(tmp_path):
    fill(tmp_path, "train", ("a",), size=(70, 70))
    fill(tmp_path, "test", ("a",), size=(70, 70))
    with pytest.raises(ValueError, match=r"streamed: set data\.image_size"):
        data.load(config(tmp_path))


def test_a_held_out_part_of_a_stream_comes_from_its_training_files(root):
    set_ = data.load(config(root, image_size=65, holdout=2))
    assert set_.info.num_train == 4 and set_.info.num_test == 2
    assert set_.test is set_.train
    assert not set(set_.train_indices) & set(set_.test_indices)


def test_a_class_that_training_lacks_is_named(root):
    fill(root, "test", ("wasp",))
    with pytest.raises(ValueError, match=r"lacks: wasp; there are ant, bee"):
        data.load(config(root))


@pytest.mark.parametrize("parts", [(), ("train",), ("test",), ("training", "test")])
def test_a_wrong_layout_is_explained(tmp_path, parts):
    for part in parts:
        fill(tmp_path, part, ("a",))
    with pytest.raises(FileNotFoundError, match=r"needed: train/CLASS/\*\.jpg"):
        data.load(config(tmp_path))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.load(config(tmp_path / "absent"))


def test_a_folder_without_classes_is_explained(root, tmp_path):
    (tmp_path / "flat" / "train").mkdir(parents=True)
    (tmp_path / "flat" / "test").mkdir()
    with pytest.raises(ValueError, match="no class folders"):
        data.load(config(tmp_path / "flat"))


def test_classes_without_pictures_are_explained(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="no pictures"):
        data.load(config(tmp_path))


@pytest.mark.parametrize("kept", [0, 60])
def test_an_unreadable_file_is_named(root, kept):
    bad = root / "train" / "bee" / "1.png"
    bad.write_bytes(bad.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"bee/1\.png is not a readable image"):
        data.load(config(root))
