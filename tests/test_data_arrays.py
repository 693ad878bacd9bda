"""Sets that are held whole: digits, .npz files, and what the configuration does to them."""

import numpy as np
import pytest
from data_helpers import images
from sklearn.datasets import load_digits

from resjax import data
from resjax.data.arrays import KEYS


def config(**changes):
    c = data.defaults()
    c.update(changes)
    return c


@pytest.fixture
def raw():
    return {
        "train_images": images(20, 8, 9, 3, seed=1),
        "train_labels": np.arange(20) % 4,
        "test_images": images(6, 8, 9, 3, seed=2),
        "test_labels": np.arange(6) % 4,
    }


@pytest.fixture
def save(tmp_path):
    def to_file(raw, **more):
        path = tmp_path / "mine.npz"
        np.savez(path, **raw, **more)
        return str(path)

    return to_file


def test_digits_are_scikit_learns_in_0_to_255():
    set_ = data.load(config())
    assert set_.train_images.shape == (1400, 8, 8, 1) and set_.test_images.shape == (397, 8, 8, 1)
    assert set_.train_images.dtype == np.uint8 and set_.train_labels.dtype == np.int32
    both = np.concatenate([set_.train_images, set_.test_images])[..., 0]
    bunch = load_digits()
    levels = np.round(both * (16 / 255)).astype(int).reshape(1797, 64)
    ours = sorted(map(tuple, np.c_[levels, np.r_[set_.train_labels, set_.test_labels]]))
    assert ours == sorted(map(tuple, np.c_[bunch.data.astype(int), bunch.target]))
    assert both.max() == 255 and both.min() == 0


def test_every_digit_occurs_in_both_parts():
    set_ = data.load(config())
    assert np.bincount(set_.train_labels).min() > 120
    assert np.bincount(set_.test_labels).min() > 25


@pytest.mark.parametrize(
    "changes",
    [{}, {"image_size": 16}, {"train_examples": 100}, {"holdout": 200, "train_examples": 300}],
)
def test_info_needs_no_data_and_agrees_with_load(changes):
    known, loaded = data.info(config(**changes)), data.load(config(**changes)).info
    for field in ("name", "image_shape", "num_classes", "num_train", "num_test", "class_names"):
        assert getattr(known, field) == getattr(loaded, field)


def test_info_of_imagenet_without_imagenet(tmp_path):
    info = data.info(config(name="imagenet2012", data_dir=str(tmp_path)))
    assert info.image_shape == (224, 224, 3) and info.num_classes == 1000
    assert (info.num_train, info.num_test) == (1_281_167, 50_000)


def test_held_out_examples_are_not_trained_on():
    whole = data.load(config())
    part = data.load(config(holdout=300))
    assert len(part.train_images) == 1100 and len(part.test_images) == part.info.num_test == 300
    together = np.concatenate([part.train_images, part.test_images]).reshape(1400, -1)
    assert sorted(map(tuple, together)) == sorted(map(tuple, whole.train_images.reshape(1400, -1)))


def test_fewer_training_examples_leave_the_test_set_alone():
    whole, part = data.load(config()), data.load(config(train_examples=100))
    assert len(part.train_images) == part.info.num_train == 100
    np.testing.assert_array_equal(whole.test_images, part.test_images)


def test_an_npz_file_is_taken_as_it_is(raw, save):
    set_ = data.load(config(name=save(raw)))
    for key in KEYS:
        np.testing.assert_array_equal(getattr(set_, key), raw[key])
    assert set_.info.num_classes == 4 and set_.info.image_shape == (8, 9, 3)
    assert set_.train_labels.dtype == np.int32
    assert data.info(config(name=set_.info.name)) == set_.info


def test_grey_images_without_channel_axis(raw, save):
    grey = {**raw, "train_images": images(20, 8, 8, 1)[..., 0], "test_images": images(6, 8, 8, 1)}
    assert data.load(config(name=save(grey))).info.image_shape == (8, 8, 1)


def test_class_names_give_the_number_of_classes(raw, save):
    names = np.array(["a", "b", "c", "d", "e"])
    info = data.load(config(name=save(raw, class_names=names))).info
    assert info.num_classes == 5 and info.class_names == ("a", "b", "c", "d", "e")


def test_padding_to_a_larger_field_moves_nothing_but_zeros_in(raw, save):
    set_ = data.load(config(name=save(raw), image_size=13, fit="pad"))
    assert set_.info.image_shape == (13, 13, 3)
    np.testing.assert_array_equal(set_.train_images[:, 2:10, 2:11], raw["train_images"])
    assert set_.train_images.sum() == raw["train_images"].sum(dtype=int)


def test_resizing_keeps_a_constant_image_constant(save, raw):
    flat = {**raw, "train_images": np.full((20, 8, 8, 1), 77, np.uint8)}
    flat["test_images"] = np.full((6, 8, 8, 1), 78, np.uint8)
    set_ = data.load(config(name=save(flat), image_size=20))
    assert set_.train_images.shape == (20, 20, 20, 1) and set(set_.train_images.flat) == {77}


def replaced(key, value):
    return lambda raw: {**raw, key: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: {"train_images": raw["train_images"], "y": 0}, "train_labels, .* missing"),
        (lambda raw: {**raw, "train_images": raw["train_images"] / 255}, "numpy.round"),
        (replaced("train_images", images(20, 8, 9, 3)[0, 0]), "N, H, W, C"),
        (replaced("test_images", images(6, 8, 8, 3)), "both need the same"),
        (replaced("train_images", images(0, 8, 9, 3)), "empty"),
        (replaced("train_images", images(20, 8, 9, 4)), "4 channels"),
        (replaced("train_images", images(20, 3, 8, 9)), "transpose"),
        (replaced("train_labels", np.arange(19) % 4), "19 entries for 20"),
        (replaced("train_labels", np.arange(20) % 4 - 1), "train_labels.0. is -1"),
        (replaced("test_labels", np.arange(6)), "test_labels.4. is 4.*outside 0..3"),
        (replaced("train_labels", np.arange(20) / 4), "integers"),
        (replaced("train_labels", np.eye(20, dtype=int)), "argmax"),
        (replaced("train_labels", np.array(["cat"] * 20)), "unique"),
        (replaced("train_images", np.array([1, "x"] * 10, object)), "dtype object"),
    ],
)
def test_bad_arrays_are_refused_with_a_remedy(raw, save, change, message):
    with pytest.raises(ValueError, match=message):
        data.load(config(name=save(change(raw))))


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"not a zip archive")
    with pytest.raises(ValueError, match=r"numpy\.savez"):
        data.load(config(name=str(tmp_path / "a.npz")))
    with pytest.raises(FileNotFoundError, match=r"numpy\.savez"):
        data.load(config(name=str(tmp_path / "b.npz")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cifar-10"}, "choose one of digits, mnist"),
        ({"standardize": "zca"}, "channel, pixel, unit, lenet"),
        ({"fit": "crop"}, "resize, pad"),
        ({"crop": "center"}, "resize, inception"),
        ({"pad": -1}, "0 or more"),
        ({"train_examples": 1300, "holdout": 101}, "there are 1400"),
        ({"image_size": 7, "fit": "pad"}, "fit='resize'"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(config(**changes))
