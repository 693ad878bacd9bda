"""Standardizing, cropping and flipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_helpers import images

from resjax import data
from resjax.data import arrays
from resjax.data.augment import augment, standardize, statistics
from resjax.data.config import check


@pytest.fixture
def set_():
    raw = {
        "train_images": images(50, 6, 6, 3, seed=1) // 2 + 40,
        "train_labels": np.arange(50) % 5,
        "test_images": images(10, 6, 6, 3, seed=2),
        "test_labels": np.arange(10) % 5,
    }
    return arrays.make(data.defaults(), raw)


@jax.jit
def crops(x, keys, fill=0.0):
    return augment(x, keys, pad=2, flip=True, fill=fill)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_channel_gives_mean_0_and_deviation_1_per_channel(set_):
    x = standardize(jnp.asarray(set_.train_images), statistics(set_, "channel"))
    np.testing.assert_allclose(x.mean((0, 1, 2)), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(x.std((0, 1, 2)), np.ones(3), atol=1e-5)
    assert x.dtype == jnp.float32


def test_pixel_gives_mean_0_everywhere_and_one_deviation(set_):
    constants = statistics(set_, "pixel")
    x = standardize(jnp.asarray(set_.train_images), constants)
    np.testing.assert_allclose(x.mean(0), np.zeros((6, 6, 3)), atol=1e-5)
    np.testing.assert_allclose(x.std(), 1.0, atol=1e-5)
    assert constants.mean.shape == (1, 6, 6, 3) and constants.std.shape == (1, 1, 1, 1)


@pytest.mark.parametrize(("kind", "black", "white"), [("unit", 0, 1), ("lenet", -0.1, 1.175)])
def test_fixed_scales(set_, kind, black, white):
    ends = jnp.asarray([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    x = standardize(ends, statistics(set_, kind))
    np.testing.assert_allclose(x.reshape(2), [black, white], rtol=1e-6)


def test_padding_has_the_value_of_the_background_on_lenets_scale(set_):
    assert statistics(set_, "lenet").fill == np.float32(-0.1)
    assert {statistics(set_, kind).fill.item() for kind in ("channel", "pixel", "unit")} == {0.0}


@pytest.mark.parametrize("kind", ["channel", "unit", "lenet"])
def test_black_padding_is_what_a_crop_of_the_padded_raw_image_shows(set_, kind):
    constants = statistics(set_, kind, "black")
    raw = set_.train_images[:7]
    x = standardize(jnp.asarray(raw), constants)
    out = crops(x, keys(7), constants.fill)
    padded = standardize(jnp.asarray(np.pad(raw, ((0, 0), (2, 2), (2, 2), (0, 0)))), constants)
    again = crops(padded, keys(7))[:, 2:8, 2:8]  # the same crops and flips, of images padded before
    np.testing.assert_allclose(out[:, 2:4, 2:4], again[:, 2:4, 2:4], atol=1e-6)
    np.testing.assert_allclose(out, again, atol=1e-6)


def test_statistics_come_from_the_training_set_alone(set_):
    mean, _ = arrays.channel_statistics(set_.train_images)
    np.testing.assert_allclose(statistics(set_, "channel").mean.reshape(3), 255 * np.array(mean))
    np.testing.assert_allclose(mean, set_.train_images.mean((0, 1, 2)) / 255)


def test_a_constant_channel_does_not_become_nan():
    raw = {
        "train_images": np.full((4, 3, 3, 1), 7, np.uint8),
        "train_labels": np.arange(4) % 2,
        "test_images": np.full((2, 3, 3, 1), 9, np.uint8),
        "test_labels": np.arange(2),
    }
    flat = arrays.make(data.defaults(), raw)
    for kind in ("channel", "pixel"):
        x = standardize(jnp.asarray(flat.train_images), statistics(flat, kind))
        np.testing.assert_allclose(x, np.zeros(x.shape), atol=1e-5)


def test_an_unknown_kind_is_refused(set_):
    with pytest.raises(ValueError, match="choose one of channel, pixel, unit, lenet"):
        statistics(set_, "zca")


def test_a_mean_image_has_no_value_for_a_black_border():
    config = data.defaults()
    config.standardize, config.pad_with = "pixel", "black"
    with pytest.raises(ValueError, match="ends at the border"):
        check(config)


def test_bfloat16_is_the_rounded_float32(set_):
    constants = statistics(set_, "channel")
    x = jnp.asarray(set_.train_images)
    half = standardize(x, constants, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    assert bool((half == standardize(x, constants).astype(jnp.bfloat16)).all())


def test_a_crop_is_a_window_of_the_padded_image_and_all_windows_occur():
    pad, size = 2, 5
    image = np.arange(1, size * size + 1, dtype=np.float32).reshape(size, size, 1)
    batch = jnp.broadcast_to(image, (600, size, size, 1))
    out = np.asarray(crops(batch, keys(600), fill=-3.0))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), constant_values=-3)
    windows = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[top : top + size, left : left + size]
            windows[window.tobytes()] = (top, left, False)
            windows[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (top, left, True)
    drawn = [windows[np.ascontiguousarray(one).tobytes()] for one in out]
    # 600 draws of 50 outcomes: a given one is missed with probability 5e-6.
    assert len(set(drawn)) == 2 * (2 * pad + 1) ** 2
    assert 240 < sum(flipped for *_, flipped in drawn) < 360


def test_nothing_asked_nothing_done(set_):
    x = jnp.asarray(set_.train_images, jnp.float32)
    assert augment(x, keys(50), pad=0, flip=False) is x


def test_an_example_depends_on_its_own_key_only(set_):
    x = jnp.asarray(set_.train_images, jnp.float32)
    whole = crops(x, keys(50))
    part = crops(x[20:30], keys(50)[20:30])
    assert bool((whole[20:30] == part).all())


def test_eight_devices_agree_with_one(set_):
    x, k = jnp.asarray(set_.train_images[:48], jnp.float32), keys(48)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = crops(jax.device_put(x, split), jax.device_put(k, split))
    assert len(spread.sharding.device_set) == 8
    assert bool((np.asarray(spread) == np.asarray(crops(x, k))).all())
