"""Toybench is balanced, the same everywhere, drawn apart from all else, and its edits are what they say they are."""

from argparse import ArgumentTypeError
from collections import Counter

import numpy as np
import pytest

from layerdiffusion.commands.evaluate.toybench import edit_counts
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import (
    BENCH_SEED,
    BENCH_TUNING_SEED,
    FULL,
    JUDGED,
    KINDS,
    LOOKS,
    MOST_EDITS,
    POSE_REFERENCES,
    POSE_SEED,
    POSE_TUNING_SEED,
    REFERENCES,
    toybench,
    tuning_edits,
)
from layerdiffusion.images.layers import lay_out
from layerdiffusion.miniature.world import PAINTS, SIZES


@pytest.fixture(scope="module")
def bench():
    return toybench(60)


def changes(edit) -> set[str]:
    return {name for name in JUDGED if edit.wanted[name] != edit.photo.attributes[name]}


def test_sixty_edits_are_ten_of_each_kind_with_names_of_their_own(bench):
    assert Counter(edit.kind for edit in bench) == dict.fromkeys(KINDS, 10)
    assert len({edit.id for edit in bench}) == len({edit.edit.fingerprint() for edit in bench}) == 60


def test_a_short_bench_is_the_beginning_of_a_long_one_and_has_every_kind(bench):
    short = toybench(12)
    assert [edit.id for edit in short] == [edit.id for edit in bench[:12]]
    assert [edit.edit for edit in short] == [edit.edit for edit in bench[:12]]
    assert Counter(edit.kind for edit in short) == dict.fromkeys(KINDS, 2)


def test_kinds_may_have_each_their_own_number_of_edits_and_the_whole_bench_has_more_of_the_papers_kind(bench):
    some = toybench({"pose": 2, "both": 1})
    assert [edit.id for edit in some] == ["pose-00", "both-00", "pose-01"]
    by_id = {edit.id: edit for edit in bench}
    assert all(edit.edit == by_id[edit.id].edit and edit.wanted == by_id[edit.id].wanted for edit in some)
    assert {kind: 30 if kind == "both" else 20 for kind in KINDS} == FULL
    with pytest.raises(EditError, match="no kind 'hat'; choose from background, pose"):
        toybench({"hat": 1})
    assert edit_counts("pose=2, both=1") == {"pose": 2, "both": 1} and edit_counts("7") == 7
    with pytest.raises(ArgumentTypeError, match="'pose=' is no number of edits"):
        edit_counts("pose=")


def test_dials_are_chosen_on_other_edits_than_figures_are_reported_on(bench):
    tuning = tuning_edits(12)
    assert Counter(edit.kind for edit in tuning) == dict.fromkeys(KINDS, 2)
    pictures = {edit.edit.object_image.tobytes() for edit in bench}
    assert not pictures & {edit.edit.object_image.tobytes() for edit in tuning}
    assert not {edit.id for edit in bench} & {edit.id for edit in tuning}
    starts = [
        POSE_SEED,
        POSE_SEED + POSE_REFERENCES,
        POSE_TUNING_SEED,
        POSE_TUNING_SEED + POSE_REFERENCES,
        BENCH_SEED,
        BENCH_SEED + REFERENCES,
        BENCH_TUNING_SEED,
        BENCH_TUNING_SEED + REFERENCES,
    ]
    assert min(b - a for a, b in zip(sorted(starts), sorted(starts)[1:], strict=False)) >= MOST_EDITS


def test_each_kind_changes_what_it_says_and_nothing_else(bench):
    expected = {"background": {"place"}, "pose": {"pose"}, "both": {"pose", "place"}, "size": {"size"}}
    expected |= {"attribute": {"paint"}}
    for edit in bench:
        if edit.kind == "kept":
            assert changes(edit) in ({"pose"}, {"paint"})
        else:
            assert changes(edit) == expected[edit.kind]
    assert Counter(min(changes(edit)) for edit in bench if edit.kind == "kept") == {"pose": 5, "paint": 5}


def test_the_prompt_names_what_is_asked_and_not_what_the_photo_has_to_tell(bench):
    for edit in bench:
        words = edit.edit.prompt
        assert edit.wanted["animal"] in words
        assert ("paint" in edit.asked) == any(paint in words.split() for paint in PAINTS)
        assert ("size" in edit.asked) == any(size in words for size in SIZES)
        assert set(edit.asked) >= {"animal", "pose", "place"}
        looks = {name for name in LOOKS if edit.photo.attributes[name]}
        assert set(edit.asked) | set(edit.preserved) == {*JUDGED, *looks} and looks <= set(edit.preserved)
        assert changes(edit) <= set(edit.asked), "nobody can guess a change that the words don't ask for"
        assert words == f"{edit.edit.object_prompt} {edit.edit.background_prompt}"


def test_references_show_the_wanted_place_and_a_stranger_that_the_mask_leaves_out(bench):
    for edit in bench:
        if edit.kind in ("size", "kept"):
            assert edit.edit.background == "keep" and edit.reference is None
            continue
        assert edit.edit.background == "reference"
        assert edit.reference.attributes["place"] == edit.wanted["place"]
        assert edit.reference.attributes["animal"] != edit.wanted["animal"]
        assert (edit.edit.background_mask == edit.reference.object_mask).all()
        empty = np.asarray(edit.reference.background)[~edit.edit.background_mask]
        shown = np.asarray(edit.edit.background_image)[~edit.edit.background_mask]
        assert np.mean(np.abs(shown.astype(float) - empty)) < 6, "only the stranger's shadow may be left"


def test_a_resized_subject_is_of_its_new_size_on_its_old_ground_and_all_in_the_picture():
    for edit in toybench(120):
        if edit.kind != "size":
            continue
        before, after = edit.edit.object_mask, lay_out(edit.edit, (128, 128)).object_mask
        scale = edit.edit.placement.scale
        assert after.sum() == pytest.approx(scale**2 * before.sum(), rel=0.12), edit.id
        bottom = [int(np.flatnonzero(mask.any(axis=1))[-1]) for mask in (before, after)]
        assert abs(bottom[0] - bottom[1]) <= 2, edit.id
        share = scale * np.mean(SIZES[edit.photo.attributes["size"]])
        assert SIZES[edit.wanted["size"]][0] <= share <= SIZES[edit.wanted["size"]][1], edit.id


@pytest.mark.parametrize("count", [0, -1, MOST_EDITS + 1])
def test_a_bench_of_no_edits_or_of_too_many_is_refused(count):
    with pytest.raises(EditError, match=f"{count} edits"):
        toybench(count)
