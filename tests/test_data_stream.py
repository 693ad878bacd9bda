"""Streamed sets: the same batches however they are made."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from data_helpers import encoded, images, ramp
from PIL import Image

from resjax.data.decode import center_crop, opened, train_crop
from resjax.data.folder import Files
from resjax.data.info import Info
from resjax.data.stream import Stream
from resjax.data.tfds import Records
from resjax.studies.examples import evenly_spread
from resjax.studies.run import _read


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, pixels in enumerate(images(13, 40, 50, 3)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
    return Files(tuple(paths), np.arange(13, dtype=np.int32))


def stream(files, workers=0, crop="resize"):
    # Two of the thirteen are left out of training.
    info = Info("pictures", (24, 24, 3), 13, 11, 13)
    train = np.arange(11, dtype=np.int32)
    return Stream(info, files, train, files, np.arange(13, dtype=np.int32), crop, workers)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.mark.parametrize("crop", ["resize", "inception"])
def test_starting_late_gives_the_same_batches(files, crop):
    set_ = stream(files, crop=crop)
    assert_equal(take(set_.train_batches(5, 4), 6)[3:], take(set_.train_batches(5, 4, 3), 3))


def test_a_worker_process_makes_the_same_batches(files):
    here, there = stream(files), stream(files, workers=1)
    assert_equal(take(here.train_batches(5, 4, 2), 3), take(there.train_batches(5, 4, 2), 3))


def test_threads_of_a_worker_open_a_prepared_set_once(monkeypatch):
    # Two threads that import TensorFlow Datasets at once can wait for each other for ever.
    opened = []

    class Nothing:
        def __getitems__(self, indices):
            return []

    def slowly(self):
        opened.append(self)
        time.sleep(0.1)
        return Nothing()

    records = object.__new__(Records)  # without a prepared set, which takes TFDS to make
    records._source = None  # not opened yet; private, as is what opens it
    monkeypatch.setattr(Records, "_open", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(records.read, [[]] * 4))
    assert opened == [records]


def test_evaluation_pictures_are_read_forwards_and_come_in_the_order_of_an_analysis(files, monkeypatch):
    read, own = [], Files.read
    monkeypatch.setattr(Files, "read", lambda self, indices: read.extend(indices) or own(self, indices))
    images, labels = _read(stream(files), "test", 5, 0)
    np.testing.assert_array_equal(labels, evenly_spread(13)[:5])
    assert list(dict.fromkeys(read)) == sorted(labels)
    every, _ = _read(stream(files), "test", 13, 0)
    np.testing.assert_array_equal(images, every[:5])


def test_the_first_training_pictures_of_an_analysis_are_the_same_however_many_there_are(files):
    (few, few_labels), (more, more_labels) = (_read(stream(files), "train", most, 5) for most in (4, 11))
    np.testing.assert_array_equal(few, more[:4])
    np.testing.assert_array_equal(few_labels, more_labels[:4])


def test_an_epoch_sees_each_training_picture_once(files):
    labels = [batch["label"] for batch in take(stream(files).train_batches(0, 11), 2)]
    for epoch in labels:
        assert sorted(epoch) == list(range(11))


def test_epochs_and_seeds_crop_differently(files):
    first, second = take(stream(files).train_batches(0, 11), 2)
    other = next(stream(files).train_batches(1, 11))
    by_label = [batch["image"][np.argsort(batch["label"])] for batch in (first, second, other)]
    for i, j in ((0, 1), (0, 2)):
        assert (by_label[i] != by_label[j]).any(axis=(1, 2, 3)).all()


def test_hosts_share_each_training_batch(files):
    set_ = stream(files)
    parts = [take(set_.train_batches(5, 6, 1, host, 3), 4) for host in range(3)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(joined, take(set_.train_batches(5, 6, 1), 4))


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 4, 26, 40])
def test_each_test_picture_counts_once(files, hosts, batch_size):
    parts = [list(stream(files).test_batches(batch_size, host, hosts)) for host in range(hosts)]
    assert len({len(part) for part in parts}) == 1
    batches = list(itertools.chain(*parts))
    assert {batch["image"].shape for batch in batches} == {(batch_size // hosts, 24, 24, 3)}
    assert {batch["mask"].dtype for batch in batches} == {np.dtype(np.float32)}
    seen = np.concatenate([batch["label"][batch["mask"] == 1] for batch in batches])
    assert sorted(seen) == list(range(13))


@pytest.mark.parametrize(("batch_size", "index", "count"), [(5, 0, 2), (4, 2, 2), (0, 0, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(files, batch_size, index, count):
    with pytest.raises(ValueError, match=r"batch_size|process_index"):
        stream(files).test_batches(batch_size, index, count)


def test_a_broken_picture_is_named(files, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    broken = Files((str(tmp_path / "bad.png"),), np.zeros(1, np.int32))
    info = Info("mine", (24, 24, 3), 1, 1, 1)
    one = np.zeros(1, np.int32)
    set_ = Stream(info, broken, one, broken, one, "resize", 0)
    with pytest.raises(ValueError, match=r"bad\.png is not a readable image"):
        next(set_.test_batches(1))


def test_the_centre_crop_keeps_the_middle():
    # Shorter side 256 already: no resampling, 16 pixels off each side, more off the long ones.
    crop = center_crop(ramp(256, 256), 224)
    np.testing.assert_array_equal(crop[0, :, 0], np.arange(16, 240))
    np.testing.assert_array_equal(crop[:, 0, 1], np.arange(16, 240))
    wide = np.zeros((256, 300, 3), np.uint8)
    wide[:, 150] = 255
    assert np.flatnonzero(center_crop(Image.fromarray(wide), 224)[0, :, 0]).tolist() == [112]


def box_of(crop):
    """(left, right, top, bottom) of a crop of `ramp`, in its pixels, edges included."""
    x, y = crop[..., 0].astype(float).mean(0), crop[..., 1].astype(float).mean(1)
    step_x, step_y = (x[-2] - x[1]) / (len(x) - 3), (y[-2] - y[1]) / (len(y) - 3)
    return x[0], x[-1], y[0], y[-1], step_x * len(x), step_y * len(y)


def test_resize_crops_have_he_and_simonyans_scales():
    sides, lefts = [], []
    for seed in range(200):
        crop = train_crop(ramp(256, 256), 64, "resize", np.random.default_rng(seed))
        left, _, _, _, width, height = box_of(crop)
        assert abs(width - height) < 3
        sides.append(width)
        lefts.append(left)
    # Shorter side 256..480 for a crop of 224 is a window of 256 / (480 / 224) .. 224 pixels.
    assert 117 < min(sides) < 124 and 215 < max(sides) < 226
    assert min(lefts) < 10 and max(lefts) > 90


def test_inception_crops_have_szegedys_areas_and_aspects():
    areas, aspects = [], []
    for seed in range(300):
        crop = train_crop(ramp(256, 256), 64, "inception", np.random.default_rng(seed))
        *_, width, height = box_of(crop)
        areas.append(width * height / 256**2)
        aspects.append(width / height)
    assert 0.06 < min(areas) < 0.13 and 0.9 < max(areas) < 1.03
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.42


def test_a_long_picture_still_gives_a_crop():
    for crop in ("resize", "inception"):
        strip = Image.fromarray(images(1, 8, 900, 3)[0])
        assert train_crop(strip, 32, crop, np.random.default_rng(0)).shape == (32, 32, 3)


def test_draft_decoding_changes_little():
    # 8 times the size: the JPEG is decoded at an eighth, the PNG in full.
    smooth = Image.fromarray(images(1, 6, 6, 3)[0]).resize((1792, 1792), Image.Resampling.BICUBIC)
    crops = []
    for form in ("JPEG", "PNG"):
        with opened(encoded(smooth, form), form) as image:
            crop = train_crop(image, 100, "resize", np.random.default_rng(0))
            crops.append(crop.astype(int))
            assert (image.size != (1792, 1792)) == (form == "JPEG")
    assert np.abs(crops[0] - crops[1]).mean() < 2


def test_the_centre_crop_is_that_of_the_whole_picture():
    rough = Image.fromarray(images(1, 200, 200, 3)[0]).resize((800, 800), Image.Resampling.BICUBIC)
    jpeg = encoded(rough, "JPEG")
    with opened(jpeg, "whole") as image:
        whole = image.convert("RGB")
    with opened(jpeg, "to be cropped") as image:
        np.testing.assert_array_equal(center_crop(image, 56), center_crop(whole, 56))
        assert image.size == (800, 800)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_every_mode_becomes_rgb_or_grey(mode):
    picture = ramp(64, 64).convert(mode)
    assert center_crop(picture, 24).shape == (24, 24, 3)
    assert center_crop(picture, 24, channels=1).shape == (24, 24, 1)
