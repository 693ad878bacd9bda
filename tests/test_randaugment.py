"""RandAugment: each operation against PIL, and what is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from resjax.data.randaugment import OPERATIONS, operate, randaugment

FILL = 100
HEIGHT, WIDTH = 23, 31


def picture(channels):
    """Gray levels 40 to 179, so that contrast and histogram can be stretched; with smooth parts."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 180, (4, 5, channels)).repeat(8, 0).repeat(8, 1)
    image = coarse[:HEIGHT, :WIDTH].astype(np.uint8)
    image[:10] = rng.integers(60, 120, (10, WIDTH, channels))
    return image


def by_pil(image, name, m, sign):
    pil = Image.fromarray(image.squeeze())
    fill = FILL if pil.mode == "L" else (FILL,) * 3

    def affine(*matrix):
        return pil.transform(
            pil.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill
        )

    s = sign * m
    done = {
        "identity": lambda: pil,
        "autocontrast": lambda: ImageOps.autocontrast(pil),
        "equalize": lambda: ImageOps.equalize(pil),
        "rotate": lambda: pil.rotate(30 * s, Image.Resampling.NEAREST, fillcolor=fill),
        "solarize": lambda: ImageOps.solarize(pil, 256 * (1 - m)),
        "color": lambda: ImageEnhance.Color(pil).enhance(1 + 0.9 * s),
        "posterize": lambda: ImageOps.posterize(pil, 8 - round(4 * m)),
        "contrast": lambda: ImageEnhance.Contrast(pil).enhance(1 + 0.9 * s),
        "brightness": lambda: ImageEnhance.Brightness(pil).enhance(1 + 0.9 * s),
        "sharpness": lambda: ImageEnhance.Sharpness(pil).enhance(1 + 0.9 * s),
        "shear_x": lambda: affine(1, 0.3 * s, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, 0.3 * s, 1, 0),
        "translate_x": lambda: affine(1, 0, 150 / 331 * WIDTH * s, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, 150 / 331 * HEIGHT * s),
    }[name]()
    return np.asarray(done).reshape(image.shape).astype(int)


@functools.cache
def by_jax(channels, m, sign):
    """All operations on one picture, by one program."""
    image, fill = jnp.asarray(picture(channels)), jnp.full(channels, float(FILL))
    run = jax.jit(jax.vmap(lambda kind: operate(image, kind, m, jnp.float32(sign), fill)))
    return np.asarray(run(jnp.arange(len(OPERATIONS)))).astype(int)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_pil(name):
    changed = []
    for channels, m, sign in ((3, 0.45, 1), (3, 1.0, -1), (1, 0.8, -1)):
        image = picture(channels)
        found = by_jax(channels, m, sign)[OPERATIONS.index(name)]
        expected = by_pil(image, name, m, sign)
        # PIL computes coordinates with other digits, so some pixels come from the neighbor.
        moves = name == "rotate" or name.startswith(("shear", "translate"))
        away = np.abs(found - expected).max(-1)
        assert (away > 1).mean() <= (0.02 if moves else 0), (name, channels, m, sign)
        changed.append(np.abs(found - image).mean() > 1)
    assert changed[1] == (name != "identity")


def batch(count=6):
    images = np.random.default_rng(1).integers(0, 256, (count, 8, 9, 3), np.uint8)
    return jnp.asarray(images), jax.random.split(jax.random.key(0), count)


@functools.partial(jax.jit, static_argnames=("operations", "magnitude", "probability"))
def run(images, keys, **how):
    return randaugment(images, keys, fill=jnp.zeros(3), **how)


def test_an_example_depends_on_its_own_key_only():
    images, keys = batch()
    how = {"operations": 2, "magnitude": 9.0, "probability": 0.9}
    whole = run(images, keys, **how)
    assert whole.dtype == jnp.uint8 and not np.array_equal(whole, images)
    np.testing.assert_array_equal(run(images[2:4], keys[2:4], **how), whole[2:4])


def test_eight_devices_agree_with_one():
    images, keys = batch(8)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    how = {"operations": 1, "magnitude": 9.0}
    given = jax.device_put(images, split), jax.device_put(keys, split)
    program = run.lower(*given, **how).compile()
    assert "all-gather" not in program.as_text()  # no device needs the images of others
    spread = program(*given)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(spread, run(images, keys, **how))


def test_nothing_is_done_without_operations_or_with_probability_0():
    images, keys = batch(3)
    assert randaugment(images, keys, operations=0, magnitude=9.0, fill=jnp.zeros(3)) is images
    np.testing.assert_array_equal(run(images, keys, operations=1, magnitude=9.0, probability=0.0), images)
