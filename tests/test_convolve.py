"""One convolution layer: sizes, costs and output, counted by hand and computed window by window."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resjax.convolve import as_text, convolve, measure, plot, read
from resjax.studies.convolution.edges import FILTERS, LECTURE_RESULT

EXAMPLE = read("example", "", 0)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("sides", "size", "stride", "padding"),
    [((6, 6), 3, 1, 0), ((7, 10), 3, 2, 1), ((5, 8), 4, 3, 2), ((4, 4), 1, 1, 0), ((3, 5), 3, 1, 2)],
)
def test_the_output_is_the_sum_over_each_window(sides, size, stride, padding):
    image, kernel = noise((*sides, 2)), noise((size, size, 2, 3), 1)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    places = [range(0, n + 2 * padding - size + 1, stride) for n in sides]
    wanted = [
        [np.einsum("hwc,hwco->o", padded[y : y + size, x : x + size], kernel) for x in places[1]]
        for y in places[0]
    ]
    output = convolve(image, kernel, stride=stride, padding=padding)
    assert output.shape == (len(places[0]), len(places[1]), 3)
    np.testing.assert_allclose(output, wanted, atol=1e-5)


def test_the_example_of_the_lecture_comes_out():
    done = measure(EXAMPLE, "vertical")
    np.testing.assert_array_equal(done.output[..., 0], LECTURE_RESULT)
    facts = done.facts
    assert (facts.parameters, facts.multiply_adds, facts.connections) == (10, 4 * 4 * 9, 9)
    assert (facts.locally_connected, facts.dense) == (160, 37 * 16)
    lines = as_text(done).splitlines()
    assert "4×4×1 = 16 numbers; ⌊(6 + 2·0 − 3)/1⌋ + 1 = 4" in lines[2]
    assert lines[-4:] == [
        " -5   -4    0    8",
        "-10   -2    2    3",
        "  0   -2   -4   -7",
        " -3   -2   -3  -16",
    ]


def test_costs_of_a_larger_layer():
    """32×32×3 with six 5×5 filters, and a layer whose parameters do not depend on the size of the image."""
    facts = measure(noise((32, 32, 3)), 6, size=5).facts
    assert (facts.parameters, facts.multiply_adds) == (456, 28 * 28 * 6 * 75)
    assert (facts.locally_connected, facts.dense) == (28 * 28 * 456, 14_450_688 + 4_704)
    assert [measure(noise((n, n, 3)), 10).facts.parameters for n in (6, 60)] == [280, 280]


def test_stride_and_padding_change_sizes_as_the_formula_says():
    image = noise((39, 40, 3))
    assert measure(image, 2, size=5, stride=3).output.shape == (12, 12, 2)
    assert measure(image, 2, size=5, padding="same").output.shape == (39, 40, 2)
    assert measure(image, 2, size=5, padding="same", stride=2).output.shape == (20, 20, 2)


def test_pixels_that_no_window_reaches_are_counted():
    assert "1 of 39 rows and 2 of 40 columns" in as_text(measure(noise((39, 40, 3)), 2, size=5, stride=3))
    # Windows of two pixels at 0, 3, 6 leave out 2 and 5.
    assert "2 of 8 rows and 2 of 8 columns" in as_text(measure(noise((8, 8, 1)), 1, size=2, stride=3))
    assert "not seen" not in as_text(measure(noise((8, 8, 1)), 1, stride=2, padding=1))


def test_a_named_filter_is_the_same_in_each_channel():
    image = noise((5, 6, 3))
    output = measure(image, "Sobel,horizontal").output
    for i, name in enumerate(("Sobel", "horizontal")):
        gray = convolve(image.sum(-1, keepdims=True), FILTERS[name][..., None, None].astype(np.float32))
        np.testing.assert_allclose(output[..., i], gray[..., 0], atol=1e-4)


def test_random_filters_depend_on_the_seed_and_keep_the_size_of_numbers():
    image = noise((64, 64, 8))
    first, again, other = (measure(image, 16, seed=seed).output for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # He-normal weights: variance 2 from inputs of variance 1.
    assert np.mean(np.square(first)) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 5}, "vertical is 3×3"),
        ({"filters": 1, "size": 9}, r"does not fit into 6×6 pixels with 0 zeros on each side; .* up to 6"),
        ({"filters": 1, "size": 0}, "allowed"),
        ({"filters": 0}, "filters=0; allowed: 1 or more"),
        ({"filters": "round"}, "filters=round; allowed: vertical, Sobel"),
        ({"stride": 0}, "stride=0; allowed: 1 or more"),
        ({"padding": 3}, r"padding=3; allowed: 0 … 2"),
        ({"padding": "-1"}, "padding=-1; allowed: same"),
        ({"padding": "same", "filters": 1, "size": 2}, "allowed: odd sizes"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        measure(EXAMPLE, **change)


def test_images_from_files_and_shapes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    np.testing.assert_allclose(read(str(tmp_path / "colour.png"), "", 0), pixels / 255, rtol=1e-6)
    assert read(str(tmp_path / "gray.png"), "", 0).shape == (4, 5, 1)
    assert read("", "3x4x2", 0).shape == (3, 4, 2)
    assert read("digit", "", 5).shape == (8, 8, 1)
    (tmp_path / "no.png").write_text("text")
    for image, shape, message in (
        ("digit", "3x3x1", "one of them"),
        ("", "3x3", "such as 32x32x3"),
        ("", "0x3x1", "such as 32x32x3"),
        (str(tmp_path / "no.png"), "", "not a readable image"),
    ):
        with pytest.raises(ValueError, match=message):
            read(image, shape, 0)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(str(tmp_path / "none.png"), "", 0)


def test_the_figure_shows_the_image_and_the_first_filters():
    figure = plot(measure(noise((8, 9, 3)), 6))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["8×9×3", *(f"filter {i}, 6×7" for i in (1, 2, 3, 4))]


@pytest.mark.slow
def test_the_command_prints_draws_and_explains_errors(tmp_path):
    command = [sys.executable, "-m", "resjax.convolve"]
    figure = tmp_path / "figure.png"
    done = subprocess.run(
        [*command, "--input=32x32x3", "--filters=6", "--size=5", f"--figure={figure}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "multiply-adds   352,800 = 28·28·6 · 5·5·3" in done.stdout
    assert "(the first 4 of 6 filters)" in done.stdout
    with Image.open(figure) as drawn:
        assert drawn.width > 500
    done = subprocess.run([*command, "--size=5"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: size=5: vertical is 3×3; give a number of filters for other sizes\n"
