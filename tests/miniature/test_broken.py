"""Drawn subjects broken on purpose: by their outline, in their place, with their shadow."""

import numpy as np
import pytest

from layerdiffusion.miniature import broken
from layerdiffusion.miniature.outline import best_overlap
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw, silhouette


def test_broken_subjects_are_broken_by_their_outline_and_keep_their_place():
    drawn = [draw(HELD_OUT_SEEDS + 700_000 + seed) for seed in range(12)]
    wrecks = [broken.break_scene(scene, np.random.default_rng(i)) for i, scene in enumerate(drawn)]
    assert sum("shape" in wreck.attributes for wreck in wrecks) >= 11
    for wreck, scene in zip(wrecks, drawn, strict=True):
        if "shape" not in wreck.attributes:
            continue
        outline = silhouette(scene.attributes["animal"], scene.attributes["pose"])
        assert best_overlap(wreck.object_mask, outline) <= broken.BROKEN
        assert wreck.attributes["animal"] is None and wreck.attributes["place"] == scene.attributes["place"]
        outside = ~(wreck.object_mask | scene.object_mask)
        changed = np.abs(np.asarray(wreck.image, int) - np.asarray(scene.image, int)).max(-1) > 60
        assert (changed & outside).mean() < 0.02


def test_a_broken_subject_keeps_a_shadow_without_a_hole():
    """Where its feet were, the ground is as dark as beside them: the hidden part of the shadow is continued."""
    scene = draw(HELD_OUT_SEEDS + 3, animal="dog", pose="standing", place="beach", size="big", position="centre")
    bare = np.asarray(scene.background, float)
    shade = (broken._without(scene) - bare).mean(-1)
    ys, xs = np.nonzero(scene.object_mask)
    feet = scene.object_mask[ys.max() - 1]
    assert shade[ys.max() - 1][feet].max() < 0.3 * shade[ys.max() + 2, xs.min() : xs.max()].min() < 0
    assert np.abs(shade[ys.min() + 5, xs.min() : xs.max()]).max() < 2


@pytest.mark.parametrize("way", broken.WAYS)
def test_each_way_of_breaking_changes_the_outline(way):
    scene = draw(HELD_OUT_SEEDS + 5, animal="horse", pose="standing", size="big", position="centre")
    layer = np.dstack([np.asarray(scene.image), np.where(scene.object_mask, 255, 0)]).astype(np.uint8)
    mask = way(layer, np.random.default_rng(3), 1.0)[..., 3] > 127
    assert mask.any()
    assert (mask & scene.object_mask).sum() < 0.93 * (mask | scene.object_mask).sum()
