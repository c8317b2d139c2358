"""Masks: laid over each other at every place and scale, and cut out by colour."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.miniature.outline import SCALES, WHOLE, best_overlap, by_colour, distinct, innermost
from layerdiffusion.miniature.world import ANIMALS, HELD_OUT_SEEDS, POSES, draw, silhouette


def test_an_outline_is_found_at_any_place_and_scale_and_mirrored():
    outline = silhouette("rabbit", "standing")
    for scale, (x, y), flip in ((0.2, (10, 60), False), (0.35, (30, 5), True)):
        sized = Image.fromarray(outline).convert("L")
        sized = sized.resize([round(scale * length) for length in sized.size], Image.Resampling.BOX)
        canvas = np.zeros((128, 128), bool)
        pattern = np.asarray(sized) > 127
        canvas[y : y + pattern.shape[0], x : x + pattern.shape[1]] = pattern[:, ::-1] if flip else pattern
        assert best_overlap(canvas, outline) > 0.97


def test_the_overlap_is_the_best_of_all_shifts():
    rng = np.random.default_rng(0)
    outline = rng.random((9, 7)) > 0.4
    mask = np.zeros((24, 24), bool)
    mask[5:14, 8:15] = rng.random((9, 7)) > 0.4
    area = np.sqrt(mask.sum() / outline.sum())
    found = best_overlap(mask, outline)
    brute = 0.0
    for scale in SCALES:
        width, height = (max(1, round(scale * area * length)) for length in (7, 9))
        sized = np.asarray(Image.fromarray(outline).convert("L").resize((width, height), Image.Resampling.BOX)) > 127
        for pattern in (sized, sized[:, ::-1]):
            for y in range(24 - height + 1):
                for x in range(24 - width + 1):
                    layer = np.zeros_like(mask)
                    layer[y : y + height, x : x + width] = pattern
                    brute = max(brute, (layer & mask).sum() / (layer | mask).sum())
    assert found == pytest.approx(brute, abs=1e-5)


def test_a_large_mask_is_compared_at_the_size_of_a_picture():
    cat, dog = (silhouette(animal, "standing") for animal in ("cat", "dog"))
    assert best_overlap(cat, cat) > 0.96
    assert best_overlap(cat, dog) == pytest.approx(best_overlap(cat[::2, ::2], dog), abs=0.02)


def test_an_animals_outline_in_another_pose_does_not_fit():
    for animal in ANIMALS:
        outlines = [silhouette(animal, pose)[::2, ::2] for pose in POSES]
        assert max(best_overlap(one, other) for one, other in combinations(outlines, 2)) < WHOLE, animal


def test_drawn_subjects_fit_their_own_outline():
    scenes = [draw(HELD_OUT_SEEDS + 730_000 + seed) for seed in range(40)]
    found = [
        best_overlap(each.object_mask, silhouette(each.attributes["animal"], each.attributes["pose"]))
        for each in scenes
    ]
    assert np.mean([iou >= WHOLE for iou in found]) >= 0.97, sorted(found)[:3]


def test_an_empty_mask_fits_nothing():
    assert best_overlap(np.zeros((8, 8), bool), silhouette("cat", "lying")) == 0


def test_a_rough_mask_becomes_the_shape_of_one_colour():
    y, x = np.mgrid[:128, :128]
    disc = (x - 60) ** 2 + (y - 70) ** 2 < 30**2
    picture = np.where(disc[..., None], (200, 40, 40), (60, 160, 220)).astype(np.uint8)
    rough = np.zeros((128, 128), bool)
    rough[48:92, 40:84] = True
    found = by_colour(picture, rough, 8)
    assert (found & disc).sum() > 0.97 * (found | disc).sum()


def test_nothing_is_cut_out_of_an_empty_mask():
    assert not by_colour(np.zeros((128, 128, 3), np.uint8), np.zeros((128, 128), bool), 4).any()


def test_the_innermost_pixel_is_in_the_widest_part():
    mask = np.zeros((40, 60), bool)
    mask[19:22, 2:40] = True
    mask[10:31, 40:59] = True
    x, y = innermost(mask)
    assert 46 <= x <= 52 and 18 <= y <= 22


def test_near_copies_of_a_mask_are_left_out():
    first, second = np.zeros((2, 50, 50), bool)
    first[:40], second[:30] = True, True
    copy = first.copy()
    copy[39, :3] = False
    assert len(distinct([first, copy, second])) == 2
