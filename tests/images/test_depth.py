"""Sixteen bits and floats open as bright as they were taken."""

import io
import struct

import cv2
import numpy as np
import pytest
from pictures import encoded, png_chunk, refusal, smooth
from PIL import Image, ImageOps

from layerdiffusion.images.io import open_image


def deep_file(samples: np.ndarray, kind: str) -> bytes:
    """The samples as a file, by OpenCV, which keeps their depth."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    samples = cv2.cvtColor(samples, order[samples.shape[2]]) if samples.ndim == 3 else samples
    return cv2.imencode(kind, samples)[1].tobytes()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_fewer_bits_in_a_sixteen_bit_file_are_scaled_by_their_own_range(kind, bits, channels):
    white = 2**bits - 1
    levels = np.linspace(0, 0.99 * white, 40 * 32 * channels).astype(np.uint16).reshape(32, 40, channels)
    opened = np.asarray(open_image(deep_file(levels.squeeze(), kind)))
    assert np.abs(opened - levels * (255 / white)).max() <= 1
    assert 100 < opened.mean() < 150  # 7 and less before


def test_sixteen_bit_transparency_is_laid_over_white():
    samples = np.full((32, 40, 4), 0, np.uint16)
    samples[:16] = (4095, 0, 0, 65535)
    opened = np.asarray(open_image(deep_file(samples, ".png")))
    assert (opened[:16] == (255, 0, 0)).all() and (opened[16:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [".png", ".tif"])
def test_sixteen_bit_colours_are_turned_upright(kind, orientation):
    levels = smooth(40, 32).astype(np.uint16) * 257
    levels[:8, :8] = 0
    if kind == ".png":
        file, chunk = deep_file(levels, kind), b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"
        file = file[:33] + png_chunk(b"eXIf", chunk + struct.pack("<HHI", orientation, 0, 0)) + file[33:]
    else:
        file = tiff(levels, 1, orientation)
    eight = Image.fromarray((levels // 257).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(eight, exif=exif.tobytes()))))
    assert np.asarray(open_image(file)).tolist() == np.asarray(expected).tolist()


def tiff(samples: np.ndarray, sample_format: int, orientation: int = 1, photometric: int = 2) -> bytes:
    """An uncompressed little-endian TIFF of samples (H, W, C), 1 unsigned or 3 floats, written tag by tag."""
    height, width, channels = samples.shape
    data = samples.tobytes()
    bits = 8 * samples.itemsize
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, None), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8), (274, 3, 1, orientation), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)),
        (284, 3, 1, 1), (339, 3, channels, None),
    ]  # fmt: skip
    start = 8 + len(data)
    after = start + 2 + 12 * len(tags) + 4
    lists = {258: struct.pack(f"<{channels}H", *[bits] * channels)}
    lists[339] = struct.pack(f"<{channels}H", *[sample_format] * channels)
    directory, tail = struct.pack("<H", len(tags)), b""
    for tag, kind, count, value in tags:
        if value is None:
            value, tail = after + len(tail), tail + lists[tag]
        directory += struct.pack("<HHI", tag, kind, count) + struct.pack("<I", value)
    return b"II*\0" + struct.pack("<I", start) + data + directory + bytes(4) + tail


@pytest.mark.parametrize(
    ("high", "white"), [(0.5, 1), (1, 1), (3.2, 3.2), (200, 255), (255, 255), (4000, 4095), (65535, 65535)]
)
def test_floats_are_scaled_as_the_module_says(high, white):
    samples = np.linspace(0, high, 40 * 32).astype(np.float32).reshape(32, 40)
    samples[0, 0] = -1 if high <= 1 else 0
    opened = np.asarray(open_image(encoded(Image.fromarray(samples), "TIFF")))
    assert np.abs(opened - samples.clip(0)[..., None] * (255 / white)).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_floats_that_are_no_light_are_refused(value):
    samples = np.zeros((32, 40), np.float32)
    samples[0, 0] = value
    assert "can't be shown" in refusal(encoded(Image.fromarray(samples), "TIFF"))


def test_a_colour_that_means_transparent_in_sixteen_bits_opens_all_the_same():
    grey = np.full((32, 40), 40000, np.uint16)
    file = deep_file(grey, ".png")
    file = file[:33] + png_chunk(b"tRNS", struct.pack(">H", 40000)) + file[33:]
    assert np.asarray(open_image(file)).max() == 40000 // 257


def test_sixteen_bit_inks_are_no_transparency():
    inks = np.zeros((32, 40, 4), np.uint16)
    inks[..., 0] = 65535  # cyan
    red, green, blue = np.asarray(open_image(tiff(inks, 1, photometric=5)))[16, 20].astype(int)
    assert red < 80 and green > 150 and blue > 150
