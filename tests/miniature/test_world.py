"""The toybox: the same seed gives the same pixels, and a scene is what its masks, attributes and captions say."""

from itertools import combinations

import numpy as np
import pytest

from layerdiffusion.miniature.captions import join, phrase, training_caption
from layerdiffusion.miniature.card import contact_sheet
from layerdiffusion.miniature.outline import best_overlap
from layerdiffusion.miniature.tokenizer import build
from layerdiffusion.miniature.world import (
    ACCENTS,
    ANIMALS,
    PAINTS,
    PLACES,
    POSES,
    SIZES,
    draw,
    draw_attributes,
    held_out,
    silhouette,
)

SEEDS = range(12)


@pytest.mark.parametrize("subjects", [0, 1, 2])
def test_a_seed_drawn_twice_is_the_same_scene(subjects):
    for seed in SEEDS:
        first, second = (draw(seed, subjects=subjects) for _ in range(2))
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.object_mask, second.object_mask)
        assert (first.caption, first.attributes) == (second.caption, second.attributes)


def test_other_seeds_are_other_scenes():
    pictures = {draw(seed).image.tobytes() for seed in range(40)}
    assert len(pictures) == 40


def test_the_mask_is_where_the_subject_hides_its_place():
    for seed in SEEDS:
        scene = draw(seed)
        image, place = np.asarray(scene.image, int), np.asarray(scene.background, int)
        differs = np.abs(image - place).max(-1) > 8
        mask = scene.object_mask
        assert mask.any()
        assert differs[mask].mean() > 0.85
        # Outside of it there is nothing new but a shadow and the subject's soft edge: never brighter by much.
        brighter = (image - place).max(-1) > 60
        edge = mask.copy()
        for axis in (0, 1):
            edge |= np.roll(edge, 1, axis) | np.roll(edge, -1, axis)
        assert not (brighter & ~edge).any()


def test_an_empty_scene_is_its_place_alone():
    scene = draw(3, subjects=0)
    assert np.array_equal(scene.image, scene.background)
    assert not scene.object_mask.any()
    assert scene.attributes["animal"] is None
    assert scene.object_caption == ""
    assert scene.caption == scene.background_caption != ""


def test_two_subjects_have_masks_that_do_not_meet():
    for seed in SEEDS:
        scene = draw(seed, subjects=2)
        first, second = scene.masks
        assert not (first & second).any()
        assert np.array_equal(first, scene.object_mask)


@pytest.mark.parametrize(
    ("key", "value"),
    [("pose", "lying"), ("paint", "purple"), ("animal", "giraffe"), ("facing", "left"), ("marking", "socks")],
)
def test_fixing_one_attribute_of_the_subject_leaves_the_rest(key, value):
    for seed in SEEDS:
        plain, fixed = draw(seed), draw(seed, **{key: value})
        assert fixed.attributes[key] == value
        assert np.array_equal(plain.background, fixed.background)
        # Where a wider subject would leave the picture, it is moved, and an accent has to show on its paint.
        rest = [k for k in plain.attributes if k not in (key, "position", "accent")]
        assert [plain.attributes[k] for k in rest] == [fixed.attributes[k] for k in rest]


def test_fixing_the_place_leaves_the_subject():
    for seed in SEEDS:
        plain, moon = draw(seed), draw(seed, place="moon")
        assert moon.attributes == {**plain.attributes, "place": "moon"}


def test_poses_are_made_by_joints_not_by_turning_the_subject():
    for animal in ANIMALS:
        shapes = {pose: silhouette(animal, pose)[::4, ::4] for pose in POSES}
        for pose in ("jumping", "lying", "sitting"):
            turned = [np.rot90(shapes["standing"], turns) for turns in range(4)]
            assert max(best_overlap(shapes[pose], other) for other in turned) < 0.85, (animal, pose)


def test_a_lying_subject_is_lower_and_a_jumping_one_is_off_the_ground():
    for seed in SEEDS:
        standing, lying, jumping = (
            draw(seed, animal="horse", pose=pose).object_mask for pose in ("standing", "lying", "jumping")
        )
        assert np.ptp(np.nonzero(lying)[0]) < 0.8 * np.ptp(np.nonzero(standing)[0])
        assert np.nonzero(jumping)[0].max() < np.nonzero(standing)[0].max()


def test_hardly_any_outline_passes_for_another_animals():
    for pose in POSES:
        shapes = [silhouette(animal, pose)[::4, ::4] for animal in ANIMALS]
        assert np.mean([best_overlap(a, b) >= 0.85 for a, b in combinations(shapes, 2)]) <= 0.05


def test_a_figure_is_never_cut_by_the_edge_of_the_picture():
    for seed, animal in enumerate(ANIMALS):
        for pose in POSES:
            mask = draw(seed, animal=animal, pose=pose, size="big").object_mask
            assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()), (animal, pose)


def test_a_marking_moves_with_the_pose():
    for marking in ("spots", "saddle", "socks", "scarf"):
        counts = []
        for pose in POSES:
            plain, marked = (
                np.asarray(draw(7, animal="dog", pose=pose, marking=kind, size="big").image, int)
                for kind in ("none", marking)
            )
            counts.append((np.abs(plain - marked).max(-1) > 40).sum())
        assert min(counts) > 60, (marking, counts)


def test_a_figure_is_drawn_at_any_resolution():
    small, large = (np.asarray(draw(5, side=side).image.resize((64, 64)), int) for side in (128, 512))
    assert np.abs(small - large).mean() < 6


def test_sizes_can_be_told_apart():
    for seed in SEEDS:
        areas = [draw(seed, size=size).object_mask.sum() for size in SIZES]
        assert areas == sorted(areas)
        assert areas[2] > 1.5 * areas[1] > 2 * areas[0]


def test_the_accent_is_the_colour_that_the_marking_is_drawn_in():
    for seed in SEEDS:
        plain = draw(seed, marking="none")
        assert plain.attributes["accent"] is None
        marked = draw(seed, marking="saddle")
        accent = np.array(ACCENTS[marked.attributes["accent"]], float)
        pixels = np.asarray(marked.image, float)[marked.object_mask & plain.object_mask]
        others = [colour for name, colour in ACCENTS.items() if name != marked.attributes["accent"]]
        changed = (np.asarray(marked.image) != np.asarray(plain.image)).any(-1)[marked.object_mask & plain.object_mask]
        nearest = [np.linalg.norm(pixels[changed] - colour, axis=1).min() for colour in (accent, *others)]
        assert nearest[0] == min(nearest)


def test_unknown_attributes_and_values_are_refused_by_name():
    with pytest.raises(ValueError, match="wings"):
        draw(0, wings="two")
    with pytest.raises(ValueError, match="zebra"):
        draw(0, animal="zebra")


def test_a_share_of_the_combinations_is_held_out_and_every_value_is_still_seen():
    rng = np.random.default_rng(0)
    drawn = [draw_attributes(rng, rng, str(rng.choice(PLACES)), {}) for _ in range(4000)]
    share = np.mean([held_out(attributes) for attributes in drawn])
    assert 0.1 < share < 0.4
    seen = [attributes for attributes in drawn if not held_out(attributes)]
    for key, values in {"animal": ANIMALS, "paint": PAINTS, "pose": POSES, "size": SIZES, "place": PLACES}.items():
        assert {attributes[key] for attributes in seen} == set(values)


def test_the_complete_caption_says_every_attribute_and_has_both_parts():
    said = {"lying": ("lying", "lies"), "jumping": ("jump", "leap"), "standing": ("stand",), "sitting": ("sit",)}
    for seed in range(60):
        scene = draw(seed)
        caption, attributes = scene.caption, scene.attributes
        assert scene.object_caption in caption
        assert scene.background_caption in caption
        assert attributes["animal"] in scene.object_caption
        assert attributes["paint"] in scene.object_caption
        assert any(word in scene.object_caption for word in said.get(attributes["pose"], (attributes["pose"],)))


def test_captions_come_in_several_wordings_and_with_parts_left_out():
    attributes = draw(5).attributes
    rng = np.random.default_rng(0)
    captions = {training_caption(attributes, rng) for _ in range(200)}
    assert len(captions) > 40
    assert any(attributes["paint"] not in caption for caption in captions)
    assert all(attributes["animal"] in caption for caption in captions)


def test_the_plain_wording_is_always_the_same():
    thing, place = phrase({"animal": "elephant", "size": None, "pose": "jumping", "place": "beach"})
    assert join(thing, place) == "an elephant jumping on the beach"


def test_any_text_encodes_and_no_caption_is_cut():
    tokenizer = build()
    for text in ("a red cat jumping on the beach", "Ünïcode 🐱 — «quotes», 漢字", "zyxwv"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id == tokenizer.eos_token_id or tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(" ", "")
    longest = max(len(tokenizer(draw(seed).caption).input_ids) for seed in range(100))
    assert longest <= tokenizer.model_max_length


def test_the_contact_sheet_shows_every_scene():
    sheet = contact_sheet(range(6), columns=3, side=64)
    assert sheet.size == (3 * 70, 2 * 100)
    assert np.array_equal(np.asarray(sheet)[:64, :64], draw(0, side=64).image)
