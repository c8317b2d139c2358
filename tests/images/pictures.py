"""Pictures and files that the tests of pictures share."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.errors import ImageError
from layerdiffusion.images.io import open_image


def noise(width: int = 40, height: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(width: int = 96, height: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1).astype(np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def refusal(source, kind=ImageError) -> str:
    with pytest.raises(kind) as error:
        open_image(source)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 250, text
    return text


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def subject(width: int = 96, height: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[20:36, 30:50] = True
    mask[20:24, 30:40] = False  # so that turning and mirroring show
    return mask


def centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)[::-1]
