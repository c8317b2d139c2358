"""Photographs with masks, from a folder laid out as PIE-Bench."""

import json

import numpy as np
import pytest
from tiny import noise_picture

from layerdiffusion.__main__ import main
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.pie_bench import SIDE, decode_mask, pie_bench
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.report import markdown, read_measures

POSE, PLACE = "521000000000", "821000000000"


def runs(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [number for y in range(top, bottom) for number in (y * SIDE + left, right - left)]


@pytest.fixture
def data(tmp_path):
    """A jump, another place, and an edit of style, which is not asked for."""
    subject, outside = runs(128, 128, 384, 320), [0, 128 * SIDE, 320 * SIDE, SIDE * SIDE]
    entries = {
        POSE: {"image_path": "5_pose/1_animal/a.jpg", "editing_type_id": "5", "mask": subject,
               "original_prompt": "a dog sitting on the grass", "editing_prompt": "a dog [jumping] on the grass"},
        "921000000000": {"image_path": "9_style/b.jpg", "editing_type_id": "9", "mask": [0, SIDE * SIDE],
                         "original_prompt": "a cat", "editing_prompt": "a [watercolor] of a cat"},
        PLACE: {"image_path": "8_background/a.jpg", "editing_type_id": "8", "mask": outside,
                "original_prompt": "a cat on a sofa", "editing_prompt": "a cat [on the beach]"},
    }  # fmt: skip
    for at, entry in enumerate(entries.values()):
        path = tmp_path / "annotation_images" / entry["image_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_picture(at, 80, 80).save(path)
    (tmp_path / "mapping_file.json").write_text(json.dumps(entries))
    return tmp_path


def test_edits_have_their_prompts_kinds_and_subjects(data):
    pose, place = pie_bench(data)
    assert (pose.id, pose.kind, pose.edit.prompt) == (POSE, "pose", "a dog jumping on the grass")
    assert (pose.edit.object_prompt, pose.edit.background_prompt) == ("a dog jumping", "on the grass")
    wanted = np.zeros((80, 80), bool)
    wanted[20:50, 20:60] = True
    assert pose.edit.background == "keep" and (pose.edit.object_mask == wanted).all()
    assert (place.kind, place.edit.background, place.edit.background_prompt) == (
        "background",
        "generate",
        "on the beach",
    )
    assert place.edit.object_mask[20:50].all() and not place.edit.object_mask[:20].any()
    assert [edit.id for edit in pie_bench(data, ("5", "8"), 1)] == [POSE]
    assert not pose.wanted


def test_a_mask_is_runs_read_row_by_row():
    mask = decode_mask([1, 2, SIDE * 2, SIDE, SIDE * SIDE - 1, 9])
    assert mask.sum() == 2 + SIDE + 1 and mask[0, 1:3].all() and mask[2].all() and mask[-1, -1]
    for bad in ([1], [0, -1], [SIDE * SIDE, 1], "1 2", [0.5, 1], None):
        with pytest.raises(EditError, match="pairs of start and length"):
            decode_mask(bad)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": [1]}, f"The entry {POSE} of .* can't be made an edit: its mask"),
        ({"image_path": "../a.jpg"}, "a picture outside the folder"),
        ({"editing_prompt": None}, "lacks one of image_path, editing_prompt"),
        ({"image_path": "nowhere.jpg"}, f"The entry {POSE}"),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_sentence(data, change, words):
    path = data / "mapping_file.json"
    entries = json.loads(path.read_text())
    entries[POSE] |= change
    path.write_text(json.dumps(entries))
    with pytest.raises(EditError, match=words):
        pie_bench(data)


def test_types_and_numbers_that_are_not_there_are_refused(data, tmp_path):
    for types, count, words in ((["11"], None, "no type 11"), (["5"], 2, "--edits is 2: .* has 1 of the types 5")):
        with pytest.raises(EditError, match=words):
            pie_bench(data, types, count)
    with pytest.raises(EditError, match="There is no "):
        pie_bench(tmp_path / "nowhere")


def test_the_command_measures_photographs_and_no_background_that_is_generated(data, tmp_path, measured_folder, capfd):
    out, sam = tmp_path / "bench", ["--sam", "miniature", "--model", measured_folder, "--device", "cpu"]
    flags = ["pie-bench", "--data", data, "--methods", "sdedit", "--set", "sampling_steps=2", "--seeds", "0-1", *sam]
    assert main(["evaluate", *map(str, flags), "--out", str(out)]) == 0
    assert "background replaced, 1" in capfd.readouterr().out
    records = {one["edit"]: one for one in Records(out).read()}
    assert records.keys() == {POSE, PLACE} and records[POSE]["seeds"] == [0, 1]
    assert "background_psnr" in records[POSE]["measures"][0]
    assert "background_psnr" not in records[PLACE]["measures"][0]
    assert "SDEdit" in markdown(read_measures(out / "measures.csv"))
