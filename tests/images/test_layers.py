"""The layered picture: the subject as it is placed, over the background without its own."""

import dataclasses

import numpy as np
import pytest

from layerdiffusion.edit import Placement
from layerdiffusion.images.layers import lay_out


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
