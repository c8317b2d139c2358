"""The measures of what the eye sees: they tell drawn subjects from broken ones, one from two, and like from unlike."""

import numpy as np
import pytest
import torch
from PIL import Image

from layerdiffusion.miniature import broken, fidelity, quality
from layerdiffusion.miniature.data import scenes
from layerdiffusion.miniature.outline import SCALES, best_overlap
from layerdiffusion.miniature.world import ANIMALS, HELD_OUT_SEEDS, POSES, draw, silhouette
from layerdiffusion.models.load import MINIATURE

DRAWN = [draw(HELD_OUT_SEEDS + 700_000 + seed) for seed in range(12)]


@pytest.fixture(scope="module")
def measure():
    return quality.shape_measure(MINIATURE)


def wrecks():
    found = [broken.break_scene(scene, np.random.default_rng(i)) for i, scene in enumerate(DRAWN)]
    return [(wreck, scene) for wreck, scene in zip(found, DRAWN, strict=True) if "shape" in wreck.attributes]


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


def test_the_outline_of_another_animal_or_pose_does_not_fit():
    standing = {animal: silhouette(animal, "standing") for animal in ANIMALS}
    for animal, outline in standing.items():
        mask = outline[::4, ::4]  # as large as a subject in a picture
        assert max(best_overlap(mask, other) for name, other in standing.items() if name != animal) < 0.92
    assert best_overlap(silhouette("car", "standing"), silhouette("car", "lying")) < 0.6


def test_an_empty_mask_fits_nothing():
    assert best_overlap(np.zeros((8, 8), bool), silhouette("cat", "lying")) == 0


@pytest.mark.slow
def test_drawn_subjects_are_whole_and_broken_ones_are_not(measure):
    found = measure([scene.image for scene in DRAWN], [scene.attributes for scene in DRAWN])
    assert np.mean([shape.whole for shape in found]) >= 0.95
    for scene, seen in zip(DRAWN, found, strict=True):
        mask = scene.object_mask
        assert (seen.mask & mask).sum() > 0.7 * (seen.mask | mask).sum()
    pairs = wrecks()
    found = measure([wreck.image for wreck, _ in pairs], [scene.attributes for _, scene in pairs])
    assert np.mean([shape.whole for shape in found]) <= 0.1


def test_a_subject_in_another_pose_than_asked_for_is_not_whole(measure):
    """But for those that look alike both ways, as a snail upside down."""
    turned = [{**scene.attributes, "pose": POSES[(POSES.index(scene.attributes["pose"]) + 2) % 4]} for scene in DRAWN]
    found = measure([scene.image for scene in DRAWN[:8]], turned[:8])
    assert np.mean([shape.whole for shape in found]) <= 0.25


def test_an_empty_place_has_no_subject_to_measure(measure):
    empty = [draw(HELD_OUT_SEEDS + seed, subjects=0, place="sea").image for seed in range(3)]
    assert all(s.iou < 0.6 for s in measure(empty, [{"animal": "cat", "pose": "standing"}] * 3))


def test_broken_subjects_are_broken_by_their_outline_and_keep_their_place():
    pairs = wrecks()
    assert len(pairs) >= 0.8 * len(DRAWN)
    for wreck, scene in pairs:
        outline = silhouette(scene.attributes["animal"], scene.attributes["pose"])
        assert best_overlap(wreck.object_mask, outline) <= broken.BROKEN
        assert wreck.attributes["animal"] is None and wreck.attributes["place"] == scene.attributes["place"]
        outside = ~(wreck.object_mask | scene.object_mask)
        changed = np.abs(np.asarray(wreck.image, int) - np.asarray(scene.image, int)).max(-1) > 60
        assert (changed & outside).mean() < 0.02


@pytest.mark.parametrize("way", broken.WAYS)
def test_each_way_of_breaking_changes_the_outline(way):
    scene = draw(HELD_OUT_SEEDS + 5, animal="horse", pose="standing", size="big", position="centre")
    layer = np.dstack([np.asarray(scene.image), np.where(scene.object_mask, 255, 0)]).astype(np.uint8)
    mask = way(layer, np.random.default_rng(3), 1.0)[..., 3] > 127
    assert mask.any()
    assert (mask & scene.object_mask).sum() < 0.93 * (mask | scene.object_mask).sum()


def test_two_drawn_subjects_apart_are_two(measure):
    pairs = scenes(24, HELD_OUT_SEEDS + 900_000, subjects=2, unseen=None)
    far = [image for image, masks in zip(pairs.images, pairs.masks, strict=True) if quality.apart(masks)]
    assert len(far) >= 3
    assert np.mean(quality.one_subject(measure.judge, far)) <= 0.25
    assert np.mean(quality.one_subject(measure.judge, [scene.image for scene in DRAWN])) >= 0.9


def test_subjects_apart_are_counted():
    mask = np.zeros((128, 128), bool)
    assert quality.count_subjects(mask) == 0
    mask[16:56, 16:56] = True
    assert quality.count_subjects(mask) == 1
    mask[80:88, 80:88] = True  # one cell of the judge's: a speck
    assert quality.count_subjects(mask) == 1
    mask[64:104, 72:112] = True
    assert quality.count_subjects(mask) == 2


def test_agreement_is_chance_for_an_answer_that_never_changes():
    whole = [True, True, True, False]
    assert quality.agreement(whole, whole) == 1
    assert quality.agreement(whole, [True] * 4) == 0.5
    assert quality.agreement(whole, [False] * 3 + [True]) == 0
    assert np.isnan(quality.agreement([True] * 4, [True] * 4))


def test_kid_is_nothing_for_one_world_and_much_for_another():
    torch.manual_seed(0)
    network = fidelity.Features().eval()
    images = scenes(48, HELD_OUT_SEEDS + 800_000, unseen=None).images
    other = np.roll(images, 40, -1) // 2
    near, floor = quality.kid_over_floor(network, images[:24], images)
    far, _ = quality.kid_over_floor(network, other[:24], images)
    assert 0 < floor < 0.1 * far
    assert near < 3 * floor
    assert (near, floor) == quality.kid_over_floor(network, images[:24], images)


def test_kid_is_torchmetrics_own():
    kernel_inception = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance
    torch.manual_seed(0)
    network = fidelity.Features().eval()
    rng = np.random.default_rng(0)
    images, others = (rng.integers(0, high, (14, 128, 128, 3), dtype=np.uint8) for high in (256, 180))
    metric = kernel_inception(feature=network, subsets=1, subset_size=14)
    for pictures, real in ((others, True), (images, False)):
        metric.update(torch.from_numpy(pictures).permute(0, 3, 1, 2), real=real)
    ours = fidelity.kid(*(fidelity.features(network, each) for each in (images, others)))
    assert ours == pytest.approx(float(metric.compute()[0]), rel=1e-2)


def test_the_feature_network_comes_back_from_its_folder(tmp_path):
    network = fidelity.Features().eval()
    fidelity.save(network, tmp_path)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    torch.testing.assert_close(fidelity.load(tmp_path)(images), network(images), rtol=2e-2, atol=2e-2)
