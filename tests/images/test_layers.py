"""The layered picture: the subject as it is placed, over the background without its own."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.images.layers import cut_note, lay_out


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
