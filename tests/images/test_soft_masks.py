"""A soft mask marks what it covers by half, and stays soft where layers are laid over each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import encoded, noise, smooth
from PIL import Image

from layerdiffusion.__main__ import main
from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.images.layers import lay_out
from layerdiffusion.images.masks import lay_over, open_mask, read_mask
from layerdiffusion.recipe import carried_recipe, load_recipe, recipe_from_dict, recipe_to_dict, save_recipe
from layerdiffusion.settings import Settings
from layerdiffusion.ui.api import editing
from layerdiffusion.ui.bundle import open_bundle
from layerdiffusion.ui.marks import MarkedPicture


def feathered(width: int = 64, height: int = 64) -> np.ndarray:
    """A disc whose edge fades over a dozen pixels; uint8."""
    y, x = np.mgrid[:height, :width]
    away = np.hypot(x - width / 2, y - height / 2)
    return np.clip(255 * (height / 4 + 6 - away) / 12, 0, 255).astype(np.uint8)


def soft_edit(**changes) -> Edit:
    photo, beach = Image.fromarray(smooth(64, 64)), Image.fromarray(smooth(64, 64)[::-1, ::-1].copy())
    return Edit(photo, feathered(), beach, prompt="a dog on the beach", **changes)


@pytest.mark.parametrize(
    "source",
    [
        feathered(),
        feathered() / 255,
        Image.fromarray(feathered()),
        encoded(Image.merge("RGB", [Image.fromarray(feathered())] + [Image.new("L", (64, 64))] * 2)),
        encoded(Image.merge("LA", [Image.new("L", (64, 64), 9), Image.fromarray(feathered())])),
    ],
    ids=["integers", "shares", "picture", "red on black", "alpha"],
)
def test_a_soft_mask_is_read_with_its_edge_and_its_threshold_is_named(source):
    opened = read_mask(source, (64, 64), "The mask")
    assert (opened.mask == (feathered() >= 128)).all() and (opened.alpha == feathered()).all()
    assert (
        len(opened.notes) == 1 and "128 of 255" in opened.notes[0] and opened.notes[0].startswith("The mask has soft")
    )
    assert (open_mask(source, (64, 64)) == opened.mask).all()


def test_a_hard_mask_is_none_as_a_jpeg_neither():
    hard = (feathered() >= 128) * np.uint8(255)
    large = np.asarray(Image.fromarray(hard).resize((512, 512), Image.Resampling.NEAREST))
    for source in (hard, hard > 0, hard // 255, encoded(Image.fromarray(hard))):
        assert read_mask(source, (64, 64))[1:] == (None, ())
    assert read_mask(encoded(Image.fromarray(large), "JPEG", quality=92), (512, 512))[1:] == (None, ())


def test_another_size_of_the_same_shape_is_scaled_and_both_sizes_are_named():
    opened = read_mask(feathered(128, 64) >= 128, (256, 128), "The mask")
    assert opened.mask.shape == (128, 256) and opened.mask.mean() == (feathered(128, 64) >= 128).mean()
    assert opened.notes == ("The mask was scaled from 128 × 64 to its picture's 256 × 128 pixels.",)


def test_laying_over_softly_mixes_by_the_share():
    above, below, share = noise(40, 32), smooth(40, 32), noise(40, 32, 1)[..., 0].astype(np.float32) / 255
    mixed = np.asarray(lay_over(Image.fromarray(above), share, Image.fromarray(below)), float)
    expected = share[..., None] * above.astype(float) + (1 - share[..., None]) * below.astype(float)
    assert np.abs(mixed - expected).max() <= 0.51


def test_the_layered_picture_has_the_soft_edge_and_the_losses_a_hard_mask():
    edit = soft_edit()
    layers = lay_out(edit, (64, 64))
    assert layers.object_mask.dtype == bool and (layers.object_mask == (feathered() >= 128)).all()
    share = feathered()[..., None] / 255.0
    expected = share * np.asarray(edit.object_image, float) + (1 - share) * np.asarray(edit.background_image, float)
    assert np.abs(np.asarray(layers.composite, float) - expected).max() <= 0.51


def test_the_soft_edge_travels_with_the_subject():
    still, moved, large = (
        lay_out(soft_edit(placement=placement), (64, 64))
        for placement in (Placement(), Placement(dx=0.125, dy=-0.0625, flip=True), Placement(scale=1.5))
    )
    shifted = np.roll(still.object_alpha[:, ::-1], (-4, 8), (0, 1))
    assert np.abs(moved.object_alpha - shifted).max() < 0.1  # half a pixel of the centre, over a slope of 1/12
    assert (moved.object_mask == (moved.object_alpha >= 0.5)).all()
    grey = lambda layers: ((layers.object_alpha > 0.05) & (layers.object_alpha < 0.95)).sum()  # noqa: E731
    assert grey(large) == pytest.approx(grey(still) * 1.5**2, rel=0.1)


def test_no_ghost_of_a_soft_subject_stays_where_it_was():
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[...] = feathered()[..., None]  # a white subject that fades into black
    edit = Edit(photo, feathered(), prompt="a dog", placement=Placement(scale=0.3))
    hard = dataclasses.replace(edit, object_alpha=None)
    left, ghost = (np.asarray(lay_out(one, (64, 64)).inpainted_background).max() for one in (edit, hard))
    assert left < 60 < ghost


def test_an_edit_keeps_the_edge_through_recipes_and_swaps(tmp_path):
    edit = soft_edit(background_mask=feathered()[::-1])
    save_recipe(edit, Settings(), tmp_path)
    for again in (load_recipe(tmp_path).edit, recipe_from_dict(carried_recipe(edit, Settings())).edit):
        assert again == edit and (again.object_alpha == feathered()).all()
    swapped = edit.swapped()
    assert (swapped.object_alpha == feathered()[::-1]).all() and (swapped.background_alpha == feathered()).all()
    assert swapped.swapped() == edit
    other = dataclasses.replace(edit, object_mask=feathered() >= 200)
    assert other.object_alpha is None and other != edit


def test_a_recipe_from_before_has_hard_edges():
    edit = soft_edit(background_mask=feathered()[::-1])
    before = recipe_from_dict(recipe_to_dict(edit, Settings()) | {"layerdiffusion": 2}).edit
    assert before.object_alpha is before.background_alpha is None
    assert (before.object_mask == edit.object_mask).all() and (before.background_mask == edit.background_mask).all()


def test_a_large_edits_carried_recipe_is_as_soft():
    large = cv2.resize(feathered(), (1800, 1800))
    edit = Edit(smooth(1800, 1800), large, prompt="a dog")
    carried = recipe_from_dict(carried_recipe(edit, Settings())).edit
    assert carried.object_alpha.shape == (1536, 1536)
    assert abs(carried.object_alpha.mean() - large.mean()) < 0.5


def test_on_the_page_the_edge_stays_but_where_the_brush_or_growing_had_the_last_word():
    marked = MarkedPicture()
    marked.show(Image.fromarray(smooth(128, 128)))
    marked.load_mask(png := encoded(Image.fromarray(feathered())))
    board = json.loads(marked.board("The photo."))["readout"]
    assert "scaled from 64 × 64 to its picture's 128 × 128" in board and "128 of 255" in board
    assert marked.opened.alpha.shape == (128, 128) and 0 < marked.opened.alpha[64, 30] < 255
    marked.stroke([[30.0, 64.0]], 6, False)
    assert marked.opened.alpha[64, 30] == 255 and marked.opened.mask[64, 30]
    marked.grow(2)
    assert marked.opened.alpha is None
    marked.load_mask(png)
    marked.clear()
    assert marked.opened.alpha is None


def test_the_api_and_the_command_line_hand_on_the_edge_and_what_is_to_be_known_of_it(tmp_path, tiny_models, capfd):
    Image.fromarray(smooth(128, 128)).save(tmp_path / "photo.png")
    Image.fromarray(feathered()).save(tmp_path / "mask.png")
    few = {"embedding_steps": 0, "finetune_steps": 0, "sampling_steps": 1, "seeds": [0]}

    class Backend:
        @staticmethod
        def run(edit, settings, cancel):
            yield "done", Editor(tiny_models).run(edit, settings)

    files = [(tmp_path / name).read_bytes() for name in ("photo.png", "mask.png")]
    for paths, report in editing(Backend)(*files, "a dog on ice", settings=few):
        assert [words.split(" ", 2)[:2] for words in report["warnings"]] == [["mask", "was"], ["mask", "has"]]
        assert open_bundle(Path(paths[0]).read_bytes()).recipe.edit.object_alpha.shape == (128, 128)

    flags = ["--image", tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "--prompt", "a dog on ice"]
    flags += ["--embedding-steps", 0, "--finetune-steps", 0, "--sampling-steps", 1, "--seeds", 0, "--device", "cpu"]
    assert main(["edit", *map(str, flags), "--model", str(tiny_models.folder), "--out", str(tmp_path / "out")]) == 0
    err = capfd.readouterr().err
    assert "scaled from 64 × 64 to its picture's 128 × 128" in err and "128 of 255" in err
    assert load_recipe(tmp_path / "out").edit.object_alpha.shape == (128, 128)
