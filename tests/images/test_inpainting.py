"""A subject is removed with its rim, and the rest of the picture stays."""

import cv2
import numpy as np
import pytest
from pictures import noise, smooth
from PIL import Image

from layerdiffusion.errors import MaskError
from layerdiffusion.images.layers import inpaint
from layerdiffusion.images.masks import grow


def test_painting_out_removes_the_subject_and_its_rim_and_leaves_the_rest():
    mask = cv2.circle(np.zeros((64, 96), np.uint8), (48, 32), 12, 1, -1).astype(bool)
    rim = grow(mask, 1)
    pixels = smooth()
    pixels[rim] = (255, 0, 255)  # a soft edge reaches one pixel beyond the mask
    filled = np.asarray(inpaint(Image.fromarray(pixels), mask, halo=3), int)
    assert np.abs(filled[rim] - smooth()[rim].astype(int)).mean() < 15  # magenta would be 130 off
    far = ~grow(mask, 6)
    assert (filled[far] == smooth()[far]).all()


def test_painting_out_comes_closer_to_the_true_background_than_inpainting_alone():
    from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw

    ours, plain = [], []
    for seed in range(HELD_OUT_SEEDS + 900, HELD_OUT_SEEDS + 924):
        scene = draw(seed)
        inpainted = cv2.inpaint(
            np.asarray(scene.image), grow(scene.object_mask, 1).astype(np.uint8), 3, cv2.INPAINT_TELEA
        )
        for errors, filled in ((ours, inpaint(scene.image, scene.object_mask)), (plain, inpainted)):
            difference = np.asarray(filled, float) - np.asarray(scene.background)
            errors.append(np.square(difference[scene.object_mask]).mean())
    decibels = np.mean(10 * np.log10((np.array(plain) + 1) / (np.array(ours) + 1)))
    assert decibels > 1.5


def test_a_hole_beside_its_like_is_filled_without_a_trace():
    stripes = np.repeat(noise(1, 64, 3), 96, axis=1)  # every row its own colour
    mask = cv2.circle(np.zeros((64, 96), np.uint8), (40, 30), 14, 1, -1).astype(bool)
    spoilt = stripes.copy()
    spoilt[mask] = 255
    assert (np.asarray(inpaint(Image.fromarray(spoilt), mask)) == stripes).all()


def test_a_hole_from_side_to_side_is_still_filled():
    band = np.zeros((64, 96), bool)
    band[20:40] = True
    spoilt = smooth()
    spoilt[band] = (255, 0, 255)
    filled = np.asarray(inpaint(Image.fromarray(spoilt), band), int)
    assert np.abs(filled[band] - smooth()[band]).mean() < 30


def test_painting_out_nothing_changes_nothing_and_everything_is_refused():
    image = Image.fromarray(smooth())
    assert inpaint(image, np.zeros((64, 96), bool)).tobytes() == image.tobytes()
    with pytest.raises(MaskError, match="whole picture"):
        inpaint(image, np.ones((64, 96), bool))
