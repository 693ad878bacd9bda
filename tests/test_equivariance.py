"""Moving images: exact where it must be, loops where it need not."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from network_helpers import draw

from resjax import models
from resjax.analysis import plot
from resjax.models.layers import Conv, Dense, Pool
from resjax.models.local import twin
from resjax.models.plain import Classifier, ConvStem, ConvUnit, DenseUnit
from resjax.network import Network, Stack
from resjax.network.initial import variable_shapes
from resjax.report import compare
from resjax.studies import style
from resjax.studies.convolution.equivariance import STUDY, Equivariance, equivariance
from resjax.studies.convolution.moves import DIRECTIONS, total_strides, translate

CLASSES = 4


def chain(*convs, last=(), pool=None):
    """A stem and units of one convolution each, and a classifier."""
    stem, *units = convs
    stacks = [Stack(f"unit{i}", ConvUnit(conv), 1, i) for i, conv in enumerate(units, 1)]
    head = Classifier(CLASSES, models.stem_head.Head.kernel_init)
    return Network(ConvStem(stem, pool), (*stacks, *last), head)


def integers(network, shape):
    """Small whole numbers, of which sums are exact in any order."""
    shapes = variable_shapes(network, shape)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v: rng.integers(-3, 4, v.shape).astype(np.float32), shapes)


def examples(n, shape, margin=0, seed=1):
    """Whole numbers, surrounded by ``margin`` zeros."""
    rng = np.random.default_rng(seed)
    images = rng.integers(-5, 6, (n, *shape)).astype(np.float32)
    inner = np.zeros(shape[:2], bool)
    inner[margin : shape[0] - margin, margin : shape[1] - margin] = True
    return images * inner[None, :, :, None], rng.integers(0, CLASSES, n)


def test_a_valid_convolution_without_bias_is_exactly_equivariant():
    """Zeros all around: a move loses nothing, so not even the border makes a difference."""
    network = chain(Conv(3, padding="VALID"), Conv(2, (3, 2), padding="VALID"))
    images, labels = examples(5, (10, 11, 2), margin=4)
    result = equivariance(network, integers(network, (10, 11, 2)), images, labels, most=1)
    assert result.place == ("stem", "stage1/unit1")
    np.testing.assert_array_equal(result.stride, 1)
    np.testing.assert_array_equal(result.whole, 0)
    assert (result.in_place > 0.5).all()
    assert not result.left_out


def test_padding_changes_nothing_that_no_border_reaches():
    network = chain(Conv(3), Conv(2))
    images, labels = examples(5, (12, 12, 2))
    result = equivariance(network, integers(network, (12, 12, 2)), images, labels, most=1)
    np.testing.assert_array_equal(result.interior, 0)
    assert (result.whole > 0).all()
    # A frame of one pixel, then one more position on each side for each 3×3 window.
    np.testing.assert_allclose(result.interior_share, [8**2 / 12**2, 6**2 / 12**2])


def test_behind_a_stride_only_its_multiples_are_equivariant():
    network = chain(Conv(3, strides=(2, 2)), Conv(2, strides=(1, 2)))
    shape = (16, 16, 2)
    assert total_strides(network, shape) == ((2, 2), (2, 4))
    images, labels = examples(3, shape)
    variables = integers(network, shape)
    result = equivariance(network, variables, images, labels, most=1)
    np.testing.assert_array_equal(result.stride, [2, 4])
    np.testing.assert_array_equal(result.interior, 0)
    # Half a position can't be met: the same network without the stride would be exact there.
    y, moved = (network.run_stem(variables, x)[0] for x in (images, translate(images, 0, 1)))
    assert np.abs(y - moved).max() > 0


def test_a_pooling_counts_as_a_stride():
    network = chain(Conv(3), Conv(2), pool=Pool("max"))
    assert total_strides(network, (8, 8, 1)) == ((2, 2), (2, 2))


def test_equals_a_loop():
    config = models.defaults("resnet", stage_sizes=(2, 1), widths=(4, 8))
    shape = (12, 10, 1)
    network = models.build(config, image_shape=shape, num_classes=CLASSES)
    variables = draw(network, shape)
    images, labels = examples(5, shape)
    result = equivariance(network, variables, images, labels, most=2, batch_size=2)
    np.testing.assert_array_equal(result.stride, [1, 1, 1, 2])

    @jax.jit
    def features(x):
        out = network.apply(variables, x, tap=lambda parts: parts.y)
        maps = [network.run_stem(variables, x)[0]]
        return [*maps, *(y for tap in out.taps.values() for y in tap)], out.logits

    before, logits = features(images)
    for i, stride in enumerate(result.stride):
        sums = np.zeros(4)
        for down, right in DIRECTIONS.values():
            after = features(translate(images, stride * down, stride * right))[0]
            f, g = np.asarray(before[i], np.float64), np.asarray(after[i], np.float64)
            for h, w in np.ndindex(f.shape[1:3]):
                if 0 <= h + down < f.shape[1] and 0 <= w + right < f.shape[2]:
                    old, new = f[:, h, w], g[:, h + down, w + right]
                    sums[:2] += np.square(new - old).sum(), np.square(old).sum()
                    old, new = f[:, h + down, w + right], g[:, h + down, w + right]
                    sums[2:] += np.square(new - old).sum(), np.square(old).sum()
        np.testing.assert_allclose(result.whole[i], np.sqrt(sums[0] / sums[1]), rtol=1e-4)
        np.testing.assert_allclose(result.in_place[i], np.sqrt(sums[2] / sums[3]), rtol=1e-4)
    for pixels in result.shift:
        change = size = 0.0
        for j, (down, right) in enumerate(DIRECTIONS.values()):
            moved = features(translate(images, pixels * down, pixels * right))[1]
            assert result.error[pixels, j] == np.mean(np.argmax(moved, -1) != labels)
            agree = np.mean(np.argmax(moved, -1) == np.argmax(logits, -1))
            assert result.agreement[pixels, j] == agree
            change += np.square(moved - logits).sum()
            size += np.square(logits).sum()
        np.testing.assert_allclose(result.logits[pixels], np.sqrt(change / size), rtol=1e-4)
    assert result.logits[0] == 0
    np.testing.assert_array_equal(result.agreement[0], 1)


def test_a_dense_layer_is_not_equivariant_and_has_no_interior():
    network = twin("dense", image_shape=(12, 12, 1), num_classes=CLASSES)
    images, labels = examples(4, (12, 12, 1), margin=3)
    result = equivariance(network, draw(network, (12, 12, 1)), images, labels, most=1)
    assert np.isnan(result.interior).all()
    assert (result.whole > 0.5).all()


def test_features_that_are_no_map_or_too_small_are_left_out():
    dense = Stack("f", DenseUnit(Dense(5)), 1, 2)
    network = chain(Conv(3), Conv(2, (8, 8), padding="VALID"), last=(dense,))
    images, labels = examples(3, (8, 8, 1))
    seen = []
    result = equivariance(
        network,
        draw(network, (8, 8, 1)),
        images,
        labels,
        most=2,
        progress=lambda *a: seen.append(a),
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert result.left_out == {
        "stage1/unit1": "its map has one position",
        "stage2/unit1": "its features are not a map",
    }
    assert np.isnan(result.whole[1:]).all()
    assert np.isfinite(result.whole[0])
    assert "left out: stage1/unit1" in compare.finding(STUDY, {"net": result}).points[-1]


@settings(max_examples=20, deadline=None)
@given(st.integers(-5, 5), st.integers(-5, 5))
def test_translate_moves_and_repeats_the_edge(down, right):
    image = np.arange(30.0).reshape(1, 6, 5, 1)
    padded = np.pad(image, ((0, 0), (5, 5), (5, 5), (0, 0)), mode="edge")
    expected = padded[:, 5 - down : 11 - down, 5 - right : 10 - right]
    np.testing.assert_array_equal(translate(jnp.asarray(image), down, right), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"most": 8}, "most=8; allowed: 1 … 7"),
        ({"most": 0}, "most=0"),
        ({"images": np.zeros((0, 8, 8, 1), np.float32)}, "no example"),
        ({"labels": np.array([9, 0])}, "labels must lie in"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    network = chain(Conv(3))
    images, labels = examples(2, (8, 8, 1))
    given = {"images": images, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        equivariance(network, draw(network, (8, 8, 1)), **given)


def made(**changes):
    """A result by hand, of two places."""
    values = {
        "place": ("stem", "stage1/unit1"),
        "stride": np.array([1, 2]),
        "whole": np.array([0.1, 0.9]),
        "interior": np.array([1e-7, np.nan]),
        "in_place": np.array([0.8, 0.7]),
        "interior_share": np.array([0.5, 0.0]),
        "left_out": {},
        "shift": np.arange(3),
        "direction": tuple(DIRECTIONS),
        "error": np.array([[0.1] * 4, [0.3] * 4, [0.5] * 4]),
        "agreement": np.array([[1.0] * 4, [0.7] * 4, [0.5] * 4]),
        "logits": np.array([0, 0.5, 1.0]),
        "num_examples": 100,
        "num_classes": 10,
        "choices": {},
    }
    return Equivariance(**{**values, **changes})


def test_json_and_picture():
    back = Equivariance.from_json(json.loads(json.dumps(made().to_json(), allow_nan=False)))
    for field in dataclasses.fields(back):
        np.testing.assert_equal(getattr(back, field.name), getattr(made(), field.name))
    assert isinstance(plot({"a": made(), "b": back}), Figure)
    with style.theme(narrow=True):
        assert isinstance(STUDY.plot({"": made()}), Figure)
