"""The layered picture: its subject recoloured in shades of one colour, and the room that it may take."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.images.layers import Layers

RED = (255, 0, 0)


def layers(object_image: np.ndarray) -> Layers:
    """A subject in the middle of a blue background of its size."""
    mask = np.zeros(object_image.shape[:2], bool)
    mask[8:24, 8:24] = True
    blue = np.full_like(object_image, (20, 60, 200))
    return Layers(Image.fromarray(object_image), mask, Image.fromarray(blue), np.zeros_like(mask))


@pytest.fixture
def green_dog() -> np.ndarray:
    shades = np.linspace(60, 200, 32)[:, None] * np.ones((32, 32))
    return np.stack([shades * 0.2, shades, shades * 0.3], axis=-1).astype(np.uint8)


def test_the_subject_takes_the_colour_and_keeps_its_shades(green_dog):
    dressed = layers(green_dog)
    recoloured = np.asarray(dressed.recoloured(RED))[dressed.object_mask]
    hues = [colorsys.rgb_to_hsv(*(pixel / 255))[0] for pixel in recoloured if np.ptp(pixel) > 30]
    assert len(hues) > 0.8 * len(recoloured) and max(min(hue, 1 - hue) for hue in hues) < 0.01
    before = np.asarray(dressed.composite.convert("L"))[dressed.object_mask].astype(int)
    after = np.asarray(Image.fromarray(recoloured[None]).convert("L"))[0].astype(int)
    assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all(), "what was darker is no lighter now"


def test_the_background_and_the_picture_without_a_colour_stay(green_dog):
    dressed = layers(green_dog)
    off = ~dressed.object_mask
    assert (np.asarray(dressed.recoloured(RED))[off] == np.asarray(dressed.composite)[off]).all()
    assert dressed.recoloured(None).tobytes() == dressed.composite.tobytes()


@pytest.mark.parametrize(("shade", "expected"), [(0, (0, 0, 0)), (128, (254, 1, 1)), (255, (255, 255, 255))])
def test_a_subject_of_one_shade_takes_the_colour_in_that_shade(shade, expected):
    dressed = layers(np.full((32, 32, 3), shade, np.uint8))
    recoloured = np.asarray(dressed.recoloured(RED)).astype(int)[dressed.object_mask]
    assert abs(recoloured - expected).max() <= 2


@pytest.mark.parametrize("rows", [(20, 30), (0, 30)])
def test_the_room_of_a_subject_is_its_box_and_a_margin_that_is_largest_where_the_shadow_falls(rows):
    scene = layers(np.zeros((64, 80, 3), np.uint8))
    scene.object_mask[:] = False
    scene.object_mask[rows[0], 40] = scene.object_mask[rows[1], 78] = True  # two corners of its box
    expected = np.zeros((64, 80), bool)
    expected[max(0, rows[0] - 8) : rows[1] + 17, 36:80] = True
    assert (scene.room == expected).all()
