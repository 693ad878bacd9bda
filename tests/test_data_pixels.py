"""What a picture file shows: every mode against numbers computed by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from data_helpers import images, ramp
from PIL import Image

from resjax import convolve, data
from resjax.data.decode import center_crop, opened, train_crop
from resjax.data.pixels import is_grey, shown, shown_size

LEVELS = [0, 128, 129, 257, 32768, 65535]  # of 16 bits; 128 / 257 = 0.498, 129 / 257 = 0.502
IN_8_BITS = [0, 0, 1, 1, 128, 255]


def saved(picture, form, **more):
    buffer = io.BytesIO()
    picture.save(buffer, form, **more)
    return buffer.getvalue()


def png(rows, depth, colour, transparent=b""):
    """A PNG file of `rows` [H, W] or [H, W, C], big-endian, as Pillow cannot write it; `colour` as in PNG."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    mask = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + mask + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def levels(dtype=np.uint16):
    return np.asarray([LEVELS], dtype)


def pixel(mode, *bands):
    """A picture of one pixel."""
    return Image.merge(mode, [Image.new("L", (1, 1), band) for band in bands])


def palette():
    """Index 0 is transparent, index 1 is red."""
    picture = Image.fromarray(np.asarray([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([0, 0, 255, 200, 10, 10] + 254 * [0, 0, 0])
    return picture


GREY = {
    "PNG of 16 bits": (saved(Image.fromarray(levels()), "PNG"), IN_8_BITS),
    "TIFF of 16 bits": (saved(Image.fromarray(levels()), "TIFF"), IN_8_BITS),
    "TIFF of 32 bits": (saved(Image.fromarray(levels(np.int32)), "TIFF"), IN_8_BITS),
    "PGM of 16 bits": (b"P5 6 1 65535\n" + levels(">u2").tobytes(), IN_8_BITS),
    "TIFF of floats": (saved(Image.fromarray(np.float32([[0, 0.25, 1]])), "TIFF"), [0, 64, 255]),
    "PNG of 1 bit": (saved(Image.fromarray(np.array([[True, False]])), "PNG"), [255, 0]),
    "PNG of 16 bits, one level transparent": (png(levels(">u2"), 16, 0, b"\1\1"), [0, 0, 1, 255, 128, 255]),
    "PNG of 8 bits, one level transparent": (png(np.uint8([[0, 7, 9]]), 8, 0, b"\0\7"), [0, 255, 9]),
    "grey with opacity": (
        saved(Image.fromarray(np.uint8([[[9, 255], [9, 0], [0, 51]]])), "PNG"),
        [9, 255, 204],
    ),
}
COLOUR = {
    "PNG of 16 bits": (png(levels(">u2").reshape(1, 2, 3), 16, 2), [[0, 0, 0], [1, 128, 255]]),
    "opacity": (
        saved(Image.fromarray(np.uint8([[[9, 8, 7, 255], [9, 8, 7, 0], [255, 0, 0, 51]]])), "PNG"),
        [[9, 8, 7], [255, 255, 255], [255, 204, 204]],  # 0.2 · colour + 0.8 · white
    ),
    "palette": (saved(palette(), "PNG"), [[0, 0, 255], [200, 10, 10]]),
    "palette of a PNG, one transparent": (
        saved(palette(), "PNG", transparency=0), [[255, 255, 255], [200, 10, 10]]),
    "palette of a GIF, one transparent": (
        saved(palette(), "GIF", transparency=0), [[255, 255, 255], [200, 10, 10]]),
    "CMYK": (saved(pixel("CMYK", 0, 255, 255, 0), "TIFF"), [[255, 0, 0]]),
    "WebP with opacity": (saved(pixel("RGBA", 0, 0, 0, 0), "WEBP", lossless=True), [[255] * 3]),
}  # fmt: skip


def read(encoded, background="white"):
    with opened(encoded, "a picture") as image:
        return np.asarray(shown(image, 1 if is_grey(image) else 3, background))


@pytest.mark.parametrize("kind", GREY)
def test_grey_stays_grey_and_has_8_bits(kind):
    encoded, expected = GREY[kind]
    assert read(encoded).tolist() == [expected]


@pytest.mark.parametrize("kind", COLOUR)
def test_colour_is_as_shown(kind):
    encoded, expected = COLOUR[kind]
    assert read(encoded).tolist() == [expected]


def test_lab_is_converted_by_its_profile():
    assert read(saved(pixel("LAB", 255, 128, 128), "TIFF")).min() >= 254  # white, but for rounding
    red, green, _ = read(saved(pixel("LAB", 128, 228, 128), "TIFF"))[0, 0]
    assert red > 200 and green < 60  # a* = 100 is far to the red of grey


def test_the_background_can_be_black():
    grey, colour = GREY["grey with opacity"][0], COLOUR["opacity"][0]
    assert read(grey, "black").tolist() == [[9, 0, 0]]
    assert read(colour, "black").tolist() == [[[9, 8, 7], [0, 0, 0], [51, 0, 0]]]


def test_of_several_frames_the_first_is_read():
    first, second = (Image.new("L", (2, 1), level) for level in (7, 99))
    for form in ("GIF", "TIFF", "PNG", "WEBP"):
        frames = saved(
            first,
            form,
            save_all=True,
            append_images=[second],
            **({"lossless": True} if form == "WEBP" else {}),
        )
        assert {*read(frames).flat} == {7}, form


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.int32([[-1, 5]]), r"-1 \.\. 5; needed: whole numbers .* in 0 \.\. 65535"),
        (np.int32([[0, 65536]]), r"0 \.\. 65536"),
        (np.int32([[0, 255]]), r"0 \.\. 255 with 32 bits each, .* Save it with 8 bits, or with 16"),
        (np.float32([[0, 255]]), r"0\.0 \.\. 255\.0; needed: floats in 0 \.\. 1"),
        (np.float32([[0, np.nan]]), "nan"),
    ],
)
def test_levels_without_a_known_range_are_refused_with_the_file(values, found):
    with pytest.raises(ValueError, match=f"a picture: its levels are in .*{found}"):
        read(saved(Image.fromarray(values), "TIFF"))


# A picture as stored, and as shown by EXIF's definition of each orientation.
STORED = np.uint8([[10, 20, 30], [40, 50, 60]])
TURNED = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.T,
    6: STORED[::-1].T,  # clockwise
    7: STORED[::-1, ::-1].T,
    8: STORED[:, ::-1].T,  # counter-clockwise
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_as_shown(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"lossless": True} if form == "WEBP" else {}
    encoded = saved(Image.fromarray(STORED), form, exif=exif, **more)
    turned = TURNED[orientation]
    with opened(encoded, form) as image:
        assert shown_size(image) == turned.shape[::-1]
        np.testing.assert_array_equal(np.asarray(shown(image, 1)), turned)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_changes_nothing(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert read(saved(Image.fromarray(STORED), "PNG", exif=exif)).tolist() == STORED.tolist()


def test_damaged_exif_data_leave_the_picture_readable():
    assert read(saved(Image.fromarray(STORED), "PNG", exif=b"Exif\0\0XX*\0\1")).tolist() == STORED.tolist()


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("crop", ["resize", "inception", "centre"])
def test_crops_are_those_of_the_turned_picture(orientation, crop):
    """Also where a JPEG is decoded at a fraction of its size, whose sides are those as stored."""
    wide = ramp(256, 256).resize((1600, 800), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = saved(wide, "JPEG", quality=95, exif=exif)
    with opened(jpeg, "whole") as image:
        upright = shown(image, 3)
        assert upright.size == ((1600, 800) if orientation < 5 else (800, 1600))

    def cut(picture):
        if crop == "centre":
            return center_crop(picture, 64).astype(int)
        return train_crop(picture, 64, crop, np.random.default_rng(3)).astype(int)

    with opened(jpeg, "to be cropped") as image:
        difference = np.abs(cut(image) - cut(upright))
        drafted = max(image.size) < 1600
    assert drafted == (crop != "centre")
    assert difference.mean() < 1 and difference.max() < 8


def folder_of(path, encoded, suffix):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (path / part / name).mkdir(parents=True)
            (path / part / name / f"0{suffix}").write_bytes(encoded)
    c = data.defaults()
    c.name, c.workers = str(path), 0
    return c


@pytest.mark.parametrize(
    ("encoded", "suffix", "expected"),
    [
        (GREY["PNG of 16 bits"][0], ".png", IN_8_BITS),
        (GREY["TIFF of 16 bits"][0], ".tif", IN_8_BITS),
        (GREY["PGM of 16 bits"][0], ".pgm", IN_8_BITS),
        (GREY["grey with opacity"][0], ".png", [9, 255, 204]),
        (COLOUR["opacity"][0], ".png", COLOUR["opacity"][1]),
    ],
)
def test_a_folder_is_read_by_these_rules(tmp_path, encoded, suffix, expected):
    config = folder_of(tmp_path, encoded, suffix)
    pixels = data.load(config).train_images[0]
    assert pixels.squeeze().tolist() == expected
    assert pixels.shape[-1] == (1 if isinstance(expected[0], int) else 3)


def test_folder_and_stream_take_the_background_of_the_configuration(tmp_path):
    config = folder_of(tmp_path, saved(Image.new("RGBA", (80, 80), (9, 8, 7, 0)), "PNG"), ".png")
    for background, level in (("white", 255), ("black", 0)):
        config.background = background
        config.image_size = 8
        assert {*data.load(config).train_images.flat} == {level}
        config.image_size = 70
        stream = data.load(config)
        assert isinstance(stream, data.Stream)
        assert {*next(stream.train_batches(0, 1))["image"].flat} == {level}
        assert {*next(stream.test_batches(1))["image"].flat} == {level}


def test_a_turned_picture_has_the_shape_as_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    config = folder_of(tmp_path, saved(Image.fromarray(STORED), "PNG", exif=exif), ".png")
    assert data.load(config).train_images[0, ..., 0].tolist() == TURNED[6].tolist()


def test_convolve_reads_pictures_by_these_rules(tmp_path):
    for encoded, expected in (GREY["PNG of 16 bits"], COLOUR["opacity"]):
        (tmp_path / "picture.png").write_bytes(encoded)
        pixels = convolve.read(str(tmp_path / "picture.png"), "", 0)
        np.testing.assert_allclose(255 * pixels.squeeze(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"GIF88 no", "begins with b'GIF88 no'"),
        (saved(Image.fromarray(STORED), "PNG")[:12], "begins as a PNG does, .* cut short at 12 bytes"),
        (saved(Image.fromarray(images(1, 50, 50, 3)[0]), "JPEG")[:700], "truncated"),
    ],
)
def test_what_is_no_picture_is_described(encoded, why):
    with (
        pytest.raises(ValueError, match=f"x/1.jpg is not a readable image .*{why}"),
        opened(encoded, "x/1.jpg") as image,
    ):
        shown(image, 3)


def test_a_picture_larger_than_pillow_allows_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    encoded = saved(Image.fromarray(STORED), "PNG")
    message = r"large\.png has more than 4 pixels; save it smaller, or remove it"
    with pytest.raises(ValueError, match=message), opened(encoded, "large.png"):
        pass
