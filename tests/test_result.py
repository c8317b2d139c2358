"""What an edit gives back: the background's own detail, folders of pictures, and what stands in the way of saving."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage
from runs import quick, same_pictures
from tiny import noise_picture

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError, ModelError, SavedElsewhere
from layerdiffusion.images.detail import bring_detail
from layerdiffusion.recipe import load_recipe, recipe_from_dict

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


def test_a_detailed_result_has_the_photos_own_pixels_and_size(fast_editor, edit, monkeypatch):
    asked = []

    def find_again(models, image, words, near, segmenter):
        asked.append((words, segmenter.name))
        return ~near if np.array_equal(image, small.images[0]) else near

    photo = edit.object_image.resize((300, 300))
    large = Edit(photo, np.asarray(Image.fromarray(edit.object_mask).resize((300, 300))), prompt=edit.prompt)
    small = fast_editor.run(large, quick())
    monkeypatch.setattr("layerdiffusion.editor.find_again", find_again)
    segmenter = SimpleNamespace(name="SAM")
    monkeypatch.setattr(fast_editor.models, "segmenter", lambda name: segmenter, raising=False)
    monkeypatch.setattr(fast_editor.models, "clip", lambda: None, raising=False)
    detailed = small.detailed()
    near, subjects = small.layers.object_mask, small.layers.subjects
    for image, own, mask in zip(detailed.images, small.images, (~near, near), strict=True):
        assert np.array_equal(image, bring_detail(own, photo, subjects, mask))
    small.detailed()
    assert asked == [("a dog", "SAM"), ("a dog", "SAM")] and not detailed.warnings
    assert all(image.size == (300, 300) for image in detailed.images)
    assert detailed.contact_sheet().size == small.contact_sheet().size

    def no_clip():
        raise ModelError("There is no CLIP.")

    monkeypatch.setattr(fast_editor.models, "clip", no_clip)
    other = fast_editor.run(large, quick(seeds=(2, 3)))
    without = other.detailed()
    assert np.array_equal(without.images[0], bring_detail(other.images[0], photo, subjects))
    assert "can't be looked for: There is no CLIP." in without.warnings[0]


def test_a_generated_background_has_no_other_pixels_and_its_layered_files_keep_the_models_size(
    fast_editor, edit, tmp_path
):
    alone = Edit(edit.object_image, edit.object_mask, prompt="a dog on ice", background="generate")
    detailed = fast_editor.run(alone, quick(seeds=(4,))).detailed()
    detailed.save_layers(tmp_path)
    psd = PSDImage.open(tmp_path / "layers.psd")
    assert psd.size == detailed.images[0].size == detailed.layers.composite.size
    assert [[layer.name for layer in group] for group in psd] == [["background", "subject"], ["place"]]
    assert np.array_equal(psd[0][0].topil().convert("RGB"), detailed.layers.inpainted_background)


def test_a_saved_result_holds_its_pictures_and_a_recipe_that_replays(fast_editor, edit, tmp_path):
    result = fast_editor.run(dataclasses.replace(edit, placement=Placement(scale=1.2, flip=True)), quick())
    folder = result.save(tmp_path / "out")

    for seed, image in zip(result.seeds, result.images, strict=True):
        with Image.open(folder / f"seed-{seed}.png") as saved:
            assert np.array_equal(np.asarray(saved), np.asarray(image))
            assert saved.text["seed"] == str(seed)
            carried = recipe_from_dict(json.loads(saved.text["layerdiffusion"]))
            assert carried.edit == result.seen and carried.model == result.model
            assert carried.settings == dataclasses.replace(result.settings, seeds=(seed,))
    with Image.open(folder / "contact.png") as sheet:
        assert sheet.width > 3 * 64
        assert sheet.height > 2 * 64

    recipe = load_recipe(folder)
    assert recipe.model == fast_editor.models.name
    assert recipe.settings == result.settings
    replayed = Editor(fast_editor.models).run(recipe.edit, recipe.settings)
    assert replayed.edit_id == result.edit_id
    assert same_pictures(replayed, result)


def test_a_full_disk_is_one_sentence(fast_editor, edit, tmp_path, monkeypatch, full_disk):
    result = fast_editor.run(edit, quick())
    full_disk(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(EditError, match="No space left") as error:
        result.save(tmp_path / "out")
    assert "\n" not in str(error.value) and not isinstance(error.value, SavedElsewhere)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing half-done elsewhere
    (tmp_path / "file").write_text("")
    with pytest.raises(EditError):
        result.save(tmp_path / "file")


def test_a_folder_used_again_holds_this_runs_pictures_alone(fast_editor, edit, tmp_path):
    fast_editor.run(edit, quick(seeds=(0, 1, 12))).save(tmp_path)
    noise_picture(5).save(tmp_path / "seed-5.png")  # somebody's own
    (tmp_path / "seed-6.png").write_text("notes")
    fast_editor.run(edit, quick(seeds=(1, 3))).save(tmp_path)
    assert {path.name for path in tmp_path.glob("seed-*")} == {f"seed-{seed}.png" for seed in (1, 3, 5, 6)}


def test_pictures_that_do_not_fit_on_the_disk_are_saved_elsewhere(fast_editor, edit, tmp_path, monkeypatch, full_disk):
    result, target, spare = fast_editor.run(edit, quick()), tmp_path / "full", tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    full_disk(target)
    with pytest.raises(SavedElsewhere, match=r"\(No space left on device\), so everything is in") as error:
        result.save(target)
    assert str(error.value.folder) in str(error.value) and "\n" not in str(error.value)
    assert error.value.folder.parent == spare and load_recipe(error.value.folder).edit == edit
    for seed, image in zip(result.seeds, result.images, strict=True):
        assert np.array_equal(Image.open(error.value.folder / f"seed-{seed}.png"), image)
