"""The layered picture: the subject as it is placed, over the background without its own."""

import dataclasses

import cv2
import numpy as np
import pytest
from pictures import noise, smooth
from PIL import Image

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import MaskError
from layerdiffusion.images.layers import cut_note, inpaint, lay_out
from layerdiffusion.images.masks import grow


def test_a_larger_subject_is_one_affine_map_of_picture_and_mask(edit):
    plain = lay_out(edit, (64, 64))
    large = lay_out(dataclasses.replace(edit, placement=Placement(scale=1.5)), (64, 64))
    assert large.object_mask.sum() == pytest.approx(2.25 * plain.object_mask.sum(), rel=0.1)
    inside = np.asarray(large.composite)[large.object_mask]
    assert np.array_equal(inside, np.asarray(large.object_image)[large.object_mask])
    outside = ~large.object_mask
    assert np.array_equal(np.asarray(large.composite)[outside], np.asarray(large.inpainted_background)[outside])


def test_the_references_own_subject_is_inpainted_in_the_composite(edit):
    layers = lay_out(edit, (64, 64))
    own = layers.background_mask
    inpainted, original = np.asarray(layers.inpainted_background), np.asarray(layers.background_image)
    assert not np.array_equal(inpainted[own], original[own])
    far = ~layers.background_mask
    far[:40, :40] = False
    assert np.array_equal(inpainted[far], original[far])


@pytest.mark.parametrize(
    ("columns", "window", "share"),
    [((100, 1900), None, 93), ((0, 256), None, 50), ((100, 200), None, None), ((100, 200), (1.0, 0.5), 99)],
)
def test_a_subject_that_the_window_cuts_is_said(columns, window, share):
    mask = np.zeros((64, 2000), bool)
    mask[10:50, slice(*columns)] = True
    note = cut_note(Edit(Image.new("RGB", (2000, 64)), mask, prompt="a snake", object_window=window), (128, 64))
    assert (note is None) == (share is None)
    assert share is None or f"cuts off {share} % of the subject" in note


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
