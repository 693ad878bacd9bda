"""The edge detector: printed numbers to the last digit, and which way the filter lies."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.signal import convolve2d, correlate2d

from resjax.analysis import plot
from resjax.report import compare
from resjax.studies import style
from resjax.studies.convolution import edges
from resjax.studies.convolution.edges import FILTERS, STUDY, EdgeMaps
from resjax.studies.options import ClaimOptions


def by_name(result):
    return dict(zip(result.filter, result.output, strict=True))


def test_the_lecture_example_is_exact():
    result = edges.edges(edges.LECTURE_IMAGE, expected=edges.LECTURE_RESULT)
    assert result.filter[0] == "vertical"
    np.testing.assert_array_equal(result.kernel[0], [[1, 0, -1]] * 3)
    printed = [[-5, -4, 0, 8], [-10, -2, 2, 3], [0, -2, -4, -7], [-3, -2, -3, -16]]
    np.testing.assert_array_equal(result.output[0], printed)
    assert result.exact


def test_an_edge_answers_30_and_its_mirror_image_minus_30():
    step = np.repeat([[10.0, 0.0]], 3, axis=1).repeat(6, axis=0)
    bright_first, dark_first = edges.edges(step), edges.edges(step[:, ::-1])
    for name, height in (("vertical", 30), ("Sobel", 40), ("Scharr", 160), ("horizontal", 0)):
        rows = np.tile([0, height, height, 0], (4, 1))
        np.testing.assert_array_equal(by_name(bright_first)[name], rows)
        np.testing.assert_array_equal(by_name(dark_first)[name], -rows)
    np.testing.assert_array_equal(step, edges.STEP_IMAGE)


def test_filters_are_those_of_the_books():
    np.testing.assert_array_equal(FILTERS["Sobel"], [[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    np.testing.assert_array_equal(FILTERS["Scharr"], [[3, 0, -3], [10, 0, -10], [3, 0, -3]])
    np.testing.assert_array_equal(FILTERS["horizontal"], FILTERS["vertical"].T)


def test_the_layer_correlates_and_does_not_convolve():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 9, (7, 5)).astype(float)
    kernel = rng.integers(-4, 5, (3, 3)).astype(float)  # without any symmetry
    result = edges.edges(image, {"any": kernel})
    np.testing.assert_array_equal(result.output[0], correlate2d(image, kernel, "valid"))
    np.testing.assert_array_equal(result.flipped[0], convolve2d(image, kernel, "valid"))
    assert not np.array_equal(result.output, result.flipped)


@pytest.mark.parametrize(
    ("image", "filters", "message"),
    [
        (np.zeros((6, 6, 1)), None, r"image must be \[H, W\]"),
        (np.zeros((2, 6)), None, "3×3 pixels or more"),
        (np.zeros((6, 6)), {"wide": np.zeros((5, 5))}, r"filters must be \[3, 3\]"),
    ],
)
def test_other_forms_are_refused(image, filters, message):
    with pytest.raises(ValueError, match=message):
        edges.edges(image, filters)


def test_the_claim_gives_the_expected_maps():
    results = STUDY.measure(ClaimOptions(smoke=True), None)
    assert [r.exact for r in results.values()] == [True, True, True, False]
    said = compare.finding(STUDY, results)
    assert "does not flip" in said.headline
    assert len(compare.table(STUDY, results).rows) == 4 * (4 + 4 + 4 + 6)


def test_json_and_picture():
    results = STUDY.measure(ClaimOptions(smoke=True, seed=3), None)
    for result in results.values():
        back = EdgeMaps.from_json(json.loads(json.dumps(result.to_json())))
        np.testing.assert_array_equal(back.output, result.output)
        assert back.exact == result.exact
    assert isinstance(edges.plot(results), Figure)
    with style.theme(narrow=True):
        assert len(edges.plot(results).axes) == 3 * len(results)
    assert isinstance(plot(results["lecture"]), Figure)
