"""Three networks on few examples: alike in all but their connections."""

import functools
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from network_helpers import programs

from resjax.models.local import CONNECTIONS
from resjax.studies import style
from resjax.studies.convolution import few_examples, sample_size
from resjax.studies.convolution.few_examples import at_places, draw
from resjax.studies.convolution.sample_size import SETTINGS, SampleSize, difference

SMALL = {"sizes": (4, 24), "seeds": 2, "steps": 80, "batch_size": 8}


def bars(n, seed):
    """4×4 images of a bright row, or of a bright column, on a dark ground."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.normal(0, 0.05, (n, 4, 4, 1)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[(1, slice(None)) if label else (slice(None), 1)] += 2
    images[0, 0, 0] = 0
    return images, labels.astype(np.int32)


@functools.cache
def trained():
    seen = []
    results = sample_size.sample_size(bars(24, 0), bars(10, 1), **SMALL, progress=lambda *a: seen.append(a))
    return results, seen


@pytest.mark.slow
def test_shapes_progress_and_easy_examples_are_learned():
    results, seen = trained()
    assert tuple(results) == CONNECTIONS
    assert seen == [(i, 12) for i in range(13)]
    for result in results.values():
        assert result.test_error.shape == result.train_error.shape == (3, 2, 2)
        assert result.setting == SETTINGS
        np.testing.assert_array_equal(result.train_error[:, 1], 0)
        np.testing.assert_array_equal(result.test_error[0, 1], 0)
        np.testing.assert_array_equal(result.gap, result.test_error - result.train_error)
        # Whole numbers of examples: 10 in one place, 8 and 9 places.
        for setting, places in enumerate((1, 8, 9)):
            counts = result.test_error[setting] * 10 * places
            np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
        # Nothing but the test differs between the first two settings.
        np.testing.assert_array_equal(result.train_error[0], result.train_error[1])
    parameters = [result.parameters for result in results.values()]
    assert parameters == sorted(parameters)


def test_the_seed_decides_everything_in_one_compilation():
    run = functools.partial(sample_size.sample_size, bars(24, 0), bars(10, 1), **SMALL | {"steps": 8})
    results = run()
    before = programs(few_examples._train)
    again, other = run(), run(seed=5)
    assert programs(few_examples._train) == before
    for name in CONNECTIONS:
        np.testing.assert_array_equal(again[name].test_error, results[name].test_error)
    assert any((other[c].test_error != results[c].test_error).any() for c in CONNECTIONS)


def test_places_lose_no_pixel():
    images = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    images[0, 0, 0] = (7, 8)
    field = at_places(images, 2)
    assert field.shape == (9, 3, 8, 9, 2)
    np.testing.assert_array_equal(field[0, :, 2:6, 2:7], images)
    corners = set()
    for copy in field:
        top, left = next(
            (a, b)
            for a in range(5)
            for b in range(5)
            if np.array_equal(copy[:, a : a + 4, b : b + 5], images)
        )
        corners.add((top, left))
        outside = np.ones(copy.shape[1:3], bool)
        outside[top : top + 4, left : left + 5] = False
        assert (copy[:, outside] == (7, 8)).all()
    assert corners == {(a, b) for a in (0, 2, 4) for b in (0, 2, 4)}


def test_samples_are_nested_and_batches_come_from_them():
    few, many = (draw(3, 50, n, True, (40, 8)) for n in (10, 30))
    assert few.chosen.sum() == 10
    assert many.chosen.sum() == 30
    assert (few.chosen <= many.chosen).all()
    assert few.chosen[few.rows].all()
    assert len(np.unique(few.rows)) == 10
    np.testing.assert_array_equal(few.place, many.place)
    assert set(np.unique(few.place)) <= set(range(9))
    np.testing.assert_array_equal(draw(3, 50, 10, False, (40, 8)).place, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (4, 25)}, r"sizes=\(4, 25\); allowed: one or more of 1 … 24"),
        ({"sizes": ()}, "one or more"),
        ({"seeds": 1}, "seeds from 2"),
        ({"margin": 0}, "margins from 1"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sample_size.sample_size(bars(24, 0), bars(10, 1), **{**SMALL, **change})


def test_images_of_a_wrong_form_are_refused():
    images, labels = bars(24, 0)
    with pytest.raises(ValueError, match="standardized"):
        sample_size.sample_size(((255 * images).astype(np.uint8), labels), bars(10, 1), **SMALL)


def made(*errors):
    """By hand: test errors [setting] at both sizes, over four seeds that differ a little."""
    spread = np.array([0.0, 0.01, 0.0, 0.01])
    test = np.array(errors)[:, None, None] + np.zeros((1, 2, 1)) + spread
    return SampleSize(
        size=np.array([50, 100]),
        setting=SETTINGS,
        train_error=np.zeros((3, 2, 4)),
        test_error=test,
        parameters=10,
        num_test=100,
        num_classes=10,
        choices={},
    )


def test_differences_are_paired():
    a, b = made(0.1, 0.2, 0.3), made(0.2, 0.2, 0.1)
    mean, low, high = difference(a, b)
    np.testing.assert_allclose(mean, [[-0.1] * 2, [0] * 2, [0.2] * 2], atol=1e-12)
    # The seeds differ alike in both, so nothing is left of their spread.
    np.testing.assert_allclose(low, mean, atol=1e-12)
    np.testing.assert_allclose(high, mean, atol=1e-12)


def test_sizes_are_counted_by_the_side_of_their_interval():
    dense = made(0.2, 0.25, 0.3)
    mixed = dict(zip(SETTINGS, [(2, 0), (0, 0), (2, 0)], strict=True))
    assert sample_size.compare(made(0.1, 0.25, 0.1), dense) == mixed
    assert sample_size.compare(made(0.5, 0.5, 0.5), dense) == dict.fromkeys(SETTINGS, (0, 2))


def test_json_and_picture():
    result = made(0.1, 0.2, 0.3)
    back = SampleSize.from_json(json.loads(json.dumps(result.to_json())))
    np.testing.assert_array_equal(back.test_error, result.test_error)
    assert back.setting == SETTINGS
    figure = sample_size.plot({"a": result, "b": back})
    assert isinstance(figure, Figure)
    assert [ax.get_title() for ax in figure.axes] == list(SETTINGS)
    with style.theme(narrow=True):
        assert isinstance(sample_size.plot({"": result}), Figure)
