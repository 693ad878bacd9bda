"""Sets that are held whole: digits, .npz files, and what the configuration does to them."""

import re
import zipfile

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
        (replaced("train_images", images(20, 8, 9, 3)[0, 0]), "N, H, W, C"),
        (replaced("test_images", images(6, 8, 8, 3)), "both need the same"),
        (replaced("train_images", images(0, 8, 9, 3)), "empty"),
        (replaced("train_images", images(20, 8, 9, 4)), "4 channels"),
        (replaced("train_images", images(20, 3, 8, 9)), r"transpose\(0, 2, 3, 1\)"),
        (
            replaced("train_images", images(8, 9, 3, 20)),
            r"20 channels.*: train_images.transpose\(3, 0, 1, 2\)",
        ),
        (replaced("train_images", images(8, 9, 1, 20)), r"train_images.transpose\(3, 0, 1, 2\)"),
        (replaced("train_labels", np.arange(19) % 4), "19 entries for 20"),
        (replaced("train_labels", np.arange(20) % 4 - 1), "train_labels.0. is -1"),
        (replaced("test_labels", np.arange(6)), "test_labels.4. is 4.*outside 0..3"),
        (replaced("train_labels", np.arange(20) / 4), "integers"),
        (replaced("train_labels", np.eye(20, dtype=int)), "argmax"),
        (replaced("train_labels", np.zeros(20, "m8[s]")), r"dtype timedelta64\[s\]; needed: integers"),
        (replaced("train_labels", np.array(["cat"] * 20)), "unique"),
        (
            replaced("train_labels", np.array(["cat"] * 20, object)),
            r"train_labels has dtype object, and .*; save numbers: .*dtype=int",
        ),
        (
            replaced("train_images", np.array([1, "x"] * 10, object)),
            r"train_images has dtype object, and .*; save images .*numpy\.stack",
        ),
        (
            replaced("class_names", np.array(["a", "b"], object)),
            r"class_names has dtype object, and .*; save texts: .*dtype=str",
        ),
        (replaced("class_names", np.array("a, b, c, d")), r"shape \(\); needed: a list of words"),
        (replaced("class_names", np.eye(4)), r"float64 and shape \(4, 4\)"),
    ],
)
def test_bad_arrays_are_refused_with_a_remedy(raw, save, change, message):
    with pytest.raises(ValueError, match=rf"mine\.npz: .*{message}"):
        data.load(config(name=save(change(raw))))


CHANNELS = (np.arange(20 * 8 * 9) % 5).reshape(20, 8, 9, 1)  # 0 .. 4


@pytest.mark.parametrize(
    ("given", "expected", "span"),
    [
        (CHANNELS.astype(bool), 255 * (CHANNELS > 0), "true and false"),
        (CHANNELS, CHANNELS, "0 .. 4"),
        ((CHANNELS * 63).astype(np.uint16), CHANNELS * 63, "0 .. 252"),
        ((CHANNELS * 255).astype(np.uint16), CHANNELS * 63.56, "0 .. 1020"),  # · 255 / 1023
        ((CHANNELS * 4095 // 4).astype(np.int32), CHANNELS * 63.75, "0 .. 4095"),
        ((CHANNELS * 16383.75).astype(np.uint16), CHANNELS * 63.75, "0 .. 65535"),
        (CHANNELS * 10**6, CHANNELS * 63.75, "0 .. 4e+06"),
        ((CHANNELS / 4).astype(np.float32), CHANNELS * 63.75, "0 .. 1"),
        ((CHANNELS / 8).astype(np.float16), CHANNELS * 31.875, "0 .. 0.5"),
        (CHANNELS * 63.75, CHANNELS * 63.75, "0 .. 255"),
        (CHANNELS / 2 - 1.0, CHANNELS * 63.75, "-1 .. 1"),
    ],
)
def test_the_remedy_for_images_of_another_dtype_is_right(raw, save, given, expected, span):
    """The expression in the message makes 0 .. 255 of the images, and the set is taken then."""
    raw = {**raw, "train_images": given, "test_images": given[:6]}
    with pytest.raises(ValueError, match=r"needed: uint8 in 0\.\.255") as refused:
        data.load(config(name=save(raw)))
    message = str(refused.value)
    assert span in message and str(given.dtype) in message
    expression = message.split(": ")[-1].removesuffix(", the same for both parts")
    for part in ("train", "test"):
        key = f"{part}_images"
        raw[key] = eval(expression.replace("train_images", key), {"numpy": np, key: raw[key]})
    found = data.load(config(name=save(raw))).train_images
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (CHANNELS - 1, r"-1 \.\. 3: an image has no negative levels"),
        (CHANNELS - 2.5, r"-2\.5 \.\. 1\.5, perhaps standardized"),
        (np.where(CHANNELS > 3, np.nan, 1.0), "nan"),
        (CHANNELS.astype(complex), "complex128"),
        (np.zeros((20, 8, 9, 4), np.uint8), r"4 channels.*opacity.*train_images\[\.\.\., :3\]"),
    ],
)
def test_images_without_a_remedy_are_described(raw, save, given, message):
    with pytest.raises(ValueError, match=message):
        data.load(config(name=save({**raw, "train_images": given})))


def twenty(*labels):
    """20 training labels that contain just these."""
    return np.resize(np.asarray(labels), 20)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (twenty(1, 2, 3, 4), r"4 different labels in 1 \.\. 4, so 1 of the classes 0 \.\. 4 .* e\.g\. 0\."),
        (twenty(0, 1, 2, 255), r"4 different labels in 0 \.\. 255, so 252 .* e\.g\. 3\..*If 255 marks"),
        (twenty(0, 2, 3, 7), r"4 different labels in 0 \.\. 7, so 4 .* e\.g\. 1\."),
        (twenty(-1, 0, 1, 2), r"train_labels\[0\] is -1.*If -1 marks images without a label"),
        (twenty(-2, -1, 0, 1), r"train_labels\[0\] is -2"),
        (twenty(5, 10**12), r"2 different labels in 5 \.\. 1000000000000, so 999,999,999,999 of"),
    ],
)
def test_labels_that_are_no_classes_are_refused(raw, save, train, message):
    """The last remedy in the message makes classes of the labels, and the set is taken then."""
    dtype = np.promote_types(*map(np.min_scalar_type, (train.min(), train.max())))  # the smallest
    raw = {**raw, "train_labels": train.astype(dtype), "test_labels": train[:6].astype(dtype)}
    with pytest.raises(ValueError, match=message) as refused:
        data.load(config(name=save(raw)))
    names = {"numpy": np, **raw}
    exec(re.split("Count from 0: |classes anew: ", str(refused.value))[1].split(". If")[0], names)
    raw |= {key: names[key] for key in raw}
    info = data.load(config(name=save(raw))).info
    assert info.num_classes == len(np.unique(train))


def test_class_names_allow_classes_without_training_images(raw, save):
    raw["train_labels"][raw["train_labels"] == 1] = 0
    with pytest.raises(ValueError, match=r"save class_names with 4 names"):
        data.load(config(name=save(raw)))
    assert data.load(config(name=save(raw, class_names=list("abcd")))).info.num_classes == 4


@pytest.mark.parametrize(
    ("train", "test", "names", "message"),
    [
        (
            twenty(0, 1),
            [0, 1, 2, 1, 0, 2],
            "",
            r"test_labels\[2\] is 2, one of 2 outside 0\.\.1.*Remove these",
        ),
        (twenty(1, 2, 3), [1, 2, 3] * 2, "abc", r"train_labels\[2\] is 3.*train_labels = train_labels - 1"),
        (
            twenty(0, 1, 2),
            [0, 1, 2] * 2,
            "ab",
            r"3 different labels in 0 \.\. 2\. Save a name for every class",
        ),
    ],
)
def test_labels_outside_the_classes_are_refused(raw, save, train, test, names, message):
    more = {"class_names": list(names)} if names else {}
    with pytest.raises(ValueError, match=message):
        data.load(config(name=save({**raw, "train_labels": train, "test_labels": np.array(test), **more})))


def test_a_column_of_labels_is_taken(raw, save):
    """As in the files of MedMNIST, which also have a validation part."""
    columns = {key: raw[key][:, None].astype(np.uint8) for key in KEYS if "labels" in key}
    more = {"val_images": raw["test_images"], "val_labels": columns["test_labels"]}
    set_ = data.load(config(name=save({**raw, **columns}, **more)))
    assert set_.info.num_classes == 4 and set_.train_labels.dtype == np.int32
    np.testing.assert_array_equal(set_.train_labels, raw["train_labels"])
    np.testing.assert_array_equal(set_.test_labels, raw["test_labels"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(20, 4, dtype=np.uint8), r"shape \(20, 4\); needed: \[N\] or \[N, 1\].*argmax.*learned here$"),
        (np.ones((20, 14), int), "one row here has 14 that are not 0"),
        (np.ones((20, 1, 1), int), r"shape \(20, 1, 1\)"),
    ],
)
def test_several_labels_for_an_image_are_refused(raw, save, labels, message):
    with pytest.raises(ValueError, match=message):
        data.load(config(name=save({**raw, "train_labels": labels})))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (np.array([b"ant", b"bee", b"cat", "dög".encode()]), ("ant", "bee", "cat", "dög")),
        (np.arange(4), ("0", "1", "2", "3")),
    ],
)
def test_class_names_are_words(raw, save, names, expected):
    assert data.load(config(name=save(raw, class_names=names))).info.class_names == expected


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"not a zip archive")
    with pytest.raises(ValueError, match=r"numpy\.savez"):
        data.load(config(name=str(tmp_path / "a.npz")))
    with pytest.raises(FileNotFoundError, match=r"numpy\.savez"):
        data.load(config(name=str(tmp_path / "b.npz")))


def test_a_single_class_is_refused(raw, save):
    labels = {key: np.zeros_like(raw[key]) for key in KEYS if "labels" in key}
    with pytest.raises(ValueError, match=r"mine\.npz has one class: "):
        data.load(config(name=save({**raw, **labels})))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("place", [0, 20, 60, -90])
def test_a_damaged_npz_file_is_refused(tmp_path, raw, write, place):
    """In what tells that it is an array, in its header, or in its numbers."""
    path = tmp_path / "a.npz"
    raw["train_images"][:] = 7
    write(path, **raw)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="only a part of one"):
        data.load(config(name=str(path)))
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("train_images.npy")
    start = content.index(member.filename.encode(), member.header_offset) + len(member.filename) + 20
    place = start + place % member.compress_size
    path.write_bytes(content[:place] + 16 * b"\xff" + content[place + 16 :])
    with pytest.raises(
        ValueError, match=r"train_images is damaged, or no array; copy the file again.*savez$"
    ):
        data.load(config(name=str(path)))


def test_the_arrays_of_keras_are_renamed_by_the_remedy(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = ("x_train", "y_train", "x_test", "y_test")
    np.savez("mnist.npz", **dict(zip(old, raw.values(), strict=True)))
    with pytest.raises(ValueError, match="missing") as refused:
        data.load(config(name="mnist.npz"))
    exec(str(refused.value).split("in Python: ")[1], {"numpy": np})
    np.testing.assert_array_equal(data.load(config(name="renamed.npz")).test_images, raw["test_images"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cifar-10"}, "choose one of digits, mnist"),
        ({"name": ""}, "choose one of digits, mnist"),  # not the current folder
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
