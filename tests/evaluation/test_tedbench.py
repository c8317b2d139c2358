"""A folder laid out as TEdBench becomes a bench: subjects by clicks, prompts split, scenes kept, nothing done twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.tedbench import read_points, tedbench
from layerdiffusion.evaluation.records import Records
from layerdiffusion.images.masks import open_mask
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw
from layerdiffusion.models.load import MINIATURE

pytestmark = pytest.mark.skipif(not (MINIATURE / "sam").is_dir(), reason="the miniature is not in this checkout")

WISHES = [
    ("dog.png", "a dog jumping on the beach"),
    ("cat.jpg", "a cat lying down"),
    ("dog.png", "a red dog on the beach"),
]


@pytest.fixture(scope="module")
def scenes():
    """A subject in the middle of its picture, and two side by side."""
    return {
        "dog.png": draw(HELD_OUT_SEEDS + 4_000_003, subjects=2, animal="dog", size="medium", place="beach"),
        "cat.jpg": draw(HELD_OUT_SEEDS + 4_000_001, animal="cat", size="big", position="centre", place="beach"),
    }


@pytest.fixture
def folder(tmp_path, scenes) -> Path:
    folder = tmp_path / "tedbench"
    (folder / "originals").mkdir(parents=True)
    for name, scene in scenes.items():
        scene.image.resize((256, 256)).save(folder / "originals" / name)
    wishes = [{"img_name": name, "target_text": text} for name, text in WISHES]
    (folder / "input_list.json").write_text(json.dumps(wishes))
    return folder


@pytest.fixture(scope="module")
def segmenter():
    from layerdiffusion.models.sam import load_sam
    from layerdiffusion.models.segmenter import Segmenter

    return Segmenter(load_sam("miniature"))


def middle(mask: np.ndarray) -> list[int]:
    """A pixel well inside the subject, in the picture of twice the size: (x, y)."""
    rows, columns = np.nonzero(mask)
    at = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return [2 * int(columns[at]), 2 * int(rows[at])]


def points_file(folder: Path, clicks) -> Path:
    path = folder / "points.json"
    path.write_text(json.dumps(clicks))
    return path


def iou(found: np.ndarray, mask: np.ndarray) -> float:
    drawn = mask.repeat(2, 0).repeat(2, 1)
    return (found & drawn).sum() / (found | drawn).sum()


def test_each_entry_is_an_edit_that_keeps_its_scene_with_its_prompt_split(folder, tmp_path, segmenter):
    edits = tedbench(folder, lambda: segmenter, tmp_path / "masks")
    assert [edit.id for edit in edits] == ["000-dog", "001-cat", "002-dog"]
    assert [edit.edit.prompt for edit in edits] == [text for _, text in WISHES]
    assert (edits[0].edit.object_prompt, edits[0].edit.background_prompt) == ("a dog jumping", "on the beach")
    assert (edits[1].edit.object_prompt, edits[1].edit.background_prompt) == ("a cat lying down", "")
    assert all(edit.edit.background == "keep" and edit.reference is None and not edit.wanted for edit in edits)
    assert edits[0].edit.object_image == edits[2].edit.object_image != edits[1].edit.object_image
    assert [edit.id for edit in tedbench(folder, lambda: segmenter, tmp_path / "masks", count=2)] == [
        "000-dog",
        "001-cat",
    ]


def test_a_subject_in_the_middle_needs_no_click_and_of_two_it_is_the_clicked_one(folder, tmp_path, segmenter, scenes):
    plain = tedbench(folder, lambda: segmenter, tmp_path / "plain")
    assert iou(plain[1].edit.object_mask, scenes["cat.jpg"].object_mask) > 0.8
    for index, mask in enumerate(scenes["dog.png"].masks):
        points = read_points(points_file(folder, {"dog.png": [middle(mask)]}))
        clicked = tedbench(folder, lambda: segmenter, tmp_path / f"clicked-{index}", points)
        assert iou(clicked[0].edit.object_mask, mask) > 0.8
        assert iou(clicked[0].edit.object_mask, scenes["dog.png"].masks[1 - index]) < 0.1
        assert np.array_equal(clicked[0].edit.object_mask, clicked[2].edit.object_mask)
        assert np.array_equal(clicked[1].edit.object_mask, plain[1].edit.object_mask)


def test_masks_are_kept_and_found_again_without_the_segmenter(folder, tmp_path, segmenter):
    masks = tmp_path / "masks"
    first = tedbench(folder, lambda: segmenter, masks)

    def none():
        raise AssertionError("every mask is there already")

    again = tedbench(folder, none, masks)
    assert [edit.edit for edit in again] == [edit.edit for edit in first]
    drawn = open_mask(masks / "dog.png.png", (256, 256))
    assert np.array_equal(drawn, first[0].edit.object_mask)


@pytest.mark.parametrize(
    ("clicks", "word"),
    [
        ({"dog.png": [[999, 10]]}, "not on the picture"),
        ({"horse.png": [[9, 10]]}, "horse.png"),
        ({"dog.png": [9, 10]}, "unclear about dog.png"),
        ({"dog.png": {"clicks": [[9, 10]]}}, "unclear about dog.png"),
        ([[9, 10]], "holds no points"),
    ],
)
def test_clicks_that_make_no_sense_are_refused_by_name(folder, tmp_path, segmenter, clicks, word):
    with pytest.raises(EditError, match=word):
        tedbench(folder, lambda: segmenter, tmp_path / "masks", read_points(points_file(folder, clicks)))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[]", "no list of edits"),
        ("{", "can't be read as JSON"),
        ('[{"img_name": "dog.png"}]', "Entry 0"),
        ('[{"img_name": "../dog.png", "target_text": "a dog"}]', "must be a file in originals"),
        ('[{"img_name": "gone.png", "target_text": "a dog"}]', "gone.png"),
        ('[{"img_name": "dog.png", "target_text": ""}]', "prompt is empty"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_entry(folder, tmp_path, segmenter, text, word):
    (folder / "input_list.json").write_text(text)
    with pytest.raises(EditError, match=word):
        tedbench(folder, lambda: segmenter, tmp_path / "masks")


def test_no_folder_no_bench(tmp_path, segmenter):
    with pytest.raises(EditError, match="There is no .*input_list.json"):
        tedbench(tmp_path / "nowhere", lambda: segmenter, tmp_path / "masks")


@pytest.mark.slow
def test_the_command_edits_measures_and_goes_on_where_it_was(folder, tmp_path, measured_folder):
    from layerdiffusion.__main__ import main

    out = tmp_path / "out"
    command = ["evaluate", "tedbench", "--data", str(folder), "--out", str(out), "--model", str(measured_folder)]
    command += ["--sam", "miniature", "--device", "cpu", "--methods", "ours,sdedit", "--seeds", "0", "--json"]
    for setting in ("embedding_steps=1", "finetune_steps=1", "sampling_steps=2"):
        command += ["--set", setting]
    assert main([*command, "--edits", "1"]) == 0
    (first,) = out.glob("records/*/ours.json")
    written = first.stat().st_mtime_ns
    assert main(command) == 0
    records = Records(out).read()
    assert sorted((one["edit"], one["variant"]) for one in records) == sorted(
        (edit, variant) for edit in ("000-dog", "001-cat", "002-dog") for variant in ("ours", "sdedit")
    )
    assert first.stat().st_mtime_ns == written, "a finished record is not made again"
    for record in records:
        (measured,) = record["measures"]
        assert measured["clip_score"] is not None and measured["background_psnr"] is not None
        assert "satisfied" not in measured, "nobody can judge a photograph"
