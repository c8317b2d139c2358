"""The model card says what was measured, what was missed, what was tried, and what is missing."""

import json

from layerdiffusion.__main__ import main
from layerdiffusion.miniature import measures
from layerdiffusion.miniature.card import write
from layerdiffusion.miniature.measures import Figure
from layerdiffusion.miniature.parts import PARTS


def test_the_card_has_what_was_not_measured_and_what_was_tried(tmp_path):
    figures = [Figure("diffusion", "subject whole", None, 0.85), Figure("diffusion", "one", 0.5, 0.97)]
    measures.record(figures, tmp_path, ["diffusion"])
    notes = {"trials": [{"what": "guidance 6", "pictures": 48, "whole": 0.25}], "not_tried": ["Nothing else."]}
    (tmp_path / "notes.json").write_text(json.dumps(notes))
    assert main(["train-miniature", "card", "--out", str(tmp_path.parent)]) == 2  # there is no folder `miniature` in it
    text = write(tmp_path).read_text(encoding="utf-8")
    assert "| diffusion | subject whole | – | ≥ 85.0 % | not measured |" in text
    assert "| diffusion | one | 50.0 % | ≥ 97.0 % | **missed** |" in text
    assert "1 of 2 figures miss their bar." in text
    assert "| guidance 6 | 48 | 25.0 % |" in text and "- Nothing else." in text


def test_the_card_of_an_empty_folder_names_every_part_as_missing(tmp_path):
    text = write(tmp_path).read_text(encoding="utf-8")
    for name, part in PARTS.items():
        assert name == "decoder" or f"| {name} (`{part.folder}/`) | {part.what} | – | missing | – | – |" in text
    assert (
        "Not measured yet" in text and "What was tried" not in text and "curve" not in text.split("## Training it")[0]
    )
    assert "twelve" not in text and "12 animals: dog, cat, horse" in text


def test_the_card_shows_the_curve_and_the_share_of_whole_subjects(tmp_path):
    measures.add_point(tmp_path, 1_200_000, 0.5)
    measures.record([Figure("diffusion", "subject whole", 0.875, 0.85)], tmp_path, ["diffusion"])
    text = write(tmp_path).read_text(encoding="utf-8")
    assert "| 1,200,000 | 50.0 % |" in text
    assert "- 87.5 % of its subjects have the outline that their words name." in text
    assert "No measured figure misses its bar." in text
