"""Pictures of any shape: which sizes a model makes, and every method from layers to results in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import QUICK, noise_picture

from layerdiffusion import method
from layerdiffusion.baselines import OWN, PAPERS, options_for
from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.images.layers import lay_out
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.parts import window_size
from layerdiffusion.recipe import load_recipe, save_recipe
from layerdiffusion.settings import Settings

FEW_STEPS = {
    "sdedit": {},
    "imagic": {"embedding_steps": 2, "finetune_steps": 2},
    "pnp": {"inversion_steps": 3, "noise_share": 0.2},
}
ONE = dataclasses.replace(
    QUICK, shape="photo", embedding_steps=2, finetune_steps=2, sampling_steps=3, seeds=(3,)
)  # what has to be seen of a shape, and no more
SHAPES = {(96, 64): (80, 48), (64, 96): (48, 80), (128, 96): (64, 48), (160, 80): (96, 48), (300, 60): (96, 48)}


def photo_edit(size: tuple[int, int], **changes) -> Edit:
    """A subject in the right half of a photo; the reference has another shape."""
    width, height = size
    mask, stranger = np.zeros((height, width), bool), np.zeros((70, 90), bool)
    mask[height // 4 : -height // 4, width // 2 : width // 2 + height // 2] = True
    stranger[:20, :30] = True
    words = {"object_prompt": "a dog jumps", "background_prompt": "on ice"}
    given = {"background_image": noise_picture(1, 90, 70), "background_mask": stranger, **changes}
    return Edit(noise_picture(0, width, height), mask, **words, **given)


@pytest.mark.parametrize(
    ("shape", "size"),
    [("square", (512, 512)), ("1:1", (512, 512)), ("5:4", (576, 448)), ("4:3", (576, 448)), ("3:2", (576, 384)),
     ("16:9", (704, 384)), ("2:1", (768, 384)), ("9:16", (384, 704)), ("3:4", (448, 576))],
)  # fmt: skip
def test_stable_diffusions_sizes_have_the_shape_and_about_the_squares_area(shape, size):
    assert window_size(shape, (1, 1), 512, 64) == size
    wide, high = (1, 1) if shape == "square" else map(int, shape.split(":"))
    assert window_size("photo", (400 * wide, 400 * high), 512, 64) == size
    assert abs(size[0] / size[1] / (wide / high) - 1) < 0.04 and abs(size[0] * size[1] / 512**2 - 1) < 0.16


def test_a_panorama_gets_the_longest_size_there_is():
    assert window_size("photo", (4000, 600), 512, 64) == (768, 384) == window_size("2:1", (600, 4000), 512, 64)
    assert window_size("photo", (600, 4000), 128, 32) == (96, 192)


@pytest.mark.parametrize("step", [16, 32, 64])
@pytest.mark.parametrize("native", [64, 128, 512, 1024])
def test_every_photo_gets_a_size_a_model_can_make(native, step):
    for width in range(20, 100, 7):
        size = window_size("photo", (width, 50), native, step)
        assert all(side % step == 0 for side in size) and max(size) <= 2 * min(size)
        turned = window_size("photo", (50, width), native, step)
        assert sorted(turned) == sorted(size)
    assert window_size("photo", (50, 50), native, step) == (native, native)


@pytest.mark.parametrize("photo", SHAPES)
def test_layers_have_the_photos_shape_and_its_subject(photo):
    size = SHAPES[photo]
    edit = photo_edit(photo)
    layers = lay_out(edit, size)
    assert {layers.object_image.size, layers.background_image.size, layers.composite.size} == {size}
    assert layers.object_mask.shape == layers.background_mask.shape == size[::-1]
    scale = min(photo[0] / size[0], photo[1] / size[1])
    assert abs(layers.object_mask.sum() * scale**2 / edit.object_mask.sum() - 1) < 0.15  # not cut off, and no bars


def test_a_placement_means_the_same_share_of_each_side():
    edit = photo_edit((160, 80))
    still = lay_out(edit, (96, 48))
    moved = lay_out(dataclasses.replace(edit, placement=Placement(dx=-0.25, dy=0.125)), (96, 48))
    turned = lay_out(dataclasses.replace(edit, placement=Placement(rotation=90)), (96, 48))
    flipped = lay_out(dataclasses.replace(edit, placement=Placement(flip=True)), (96, 48))
    centre = lambda layers: np.argwhere(layers.object_mask).mean(0)[::-1]  # noqa: E731
    assert np.abs(centre(moved) - centre(still) - (-0.25 * 96, 0.125 * 48)).max() < 0.6
    for other in (turned, flipped):
        assert abs(other.object_mask.sum() / still.object_mask.sum() - 1) < 0.1
        assert np.abs(centre(other) - centre(still)).max() < 1


def test_windows_lie_where_they_are_put_and_are_remembered(tmp_path):
    edit = dataclasses.replace(photo_edit((96, 64)), background_window=(0, 1), object_window=[1.0, 0.5])
    layers = lay_out(edit, (48, 80))
    photo, reference = (np.asarray(image) for image in (edit.object_image, edit.background_image))
    for layer, window in ((layers.object_image, photo[:, 58:]), (layers.background_image, reference[:, :42])):
        resized = Image.fromarray(window).resize((48, 80), Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(layer, int) - np.asarray(resized, int)).max() <= 1
    save_recipe(edit, Settings(), tmp_path)
    assert load_recipe(tmp_path).edit == edit != photo_edit((96, 64))
    assert edit.swapped().object_window == (0.0, 1.0) and edit.swapped().swapped() == edit
    with pytest.raises(EditError, match="nothing of the subject"):
        lay_out(dataclasses.replace(edit, object_window=(0, 0)), (48, 80))
    with pytest.raises(EditError, match="object_window"):
        dataclasses.replace(edit, object_window=(0, 1.5))


@pytest.mark.parametrize("name", [OWN, *PAPERS])
def test_every_method_makes_pictures_of_the_photos_shape(tiny_v_models, name):
    edit, previews = photo_edit((96, 64), placement=Placement(dx=-0.1)), []
    options = options_for(name, tiny_v_models, **FEW_STEPS[name]) if name in FEW_STEPS else None

    def look(progress) -> None:
        if progress.preview is not None:
            previews.append(progress.preview)

    result = Editor(tiny_v_models).run(edit, ONE, look, method=name, options=options)
    assert {image.size for image in (*result.images, *previews)} == {(80, 48)} and previews
    assert result.layers.composite.size == (80, 48)


def test_a_shape_is_sampled_from_noise_of_that_shape_as_diffusers_draws_it(tiny_v_models):
    edit = photo_edit((64, 96), background_image=None, background_mask=None, background="generate")
    result = Editor(tiny_v_models).run(edit, ONE)
    words, empty = tiny_v_models.embed(["on ice"]), tiny_v_models.embed([None])
    start = torch.randn((1, 4, 10, 6), generator=torch.Generator().manual_seed(0))
    latents = method.sample(
        Denoiser(tiny_v_models.unet), tiny_v_models.scheduler, start, words, words, empty, steps=3, guidance_scale=7.5,
        schedule="edit",
    )  # fmt: skip
    assert result.layers.background_image.tobytes() == tiny_v_models.decode(latents)[0].tobytes()
    assert result.layers.background_image.size == result.images[0].size == (48, 80)


def test_another_shape_of_one_photo_is_another_edit_and_the_same_one_is_not(tiny_v_models):
    editor, edit = Editor(tiny_v_models), photo_edit((96, 64))
    first = editor.run(edit, ONE)
    assert set(editor.plan(edit, dataclasses.replace(ONE, shape="16:9")).values()) == {"reuse"}  # the same window
    assert "run" in editor.plan(edit, dataclasses.replace(ONE, shape="square")).values()
    square = editor.run(edit, dataclasses.replace(ONE, shape="square"))
    assert square.images[0].size == (64, 64) and first.images[0].size == (80, 48)
    assert square.edit_id != first.edit_id


def test_a_saved_result_of_any_shape_is_replayed_to_the_same_pixels(tiny_v_models, tmp_path):
    result = Editor(tiny_v_models).run(photo_edit((64, 96)), ONE)
    result.save(tmp_path)
    with Image.open(tmp_path / "contact.png") as sheet:
        assert sheet.size == (3 * (48 + 4) + 4, 2 * (80 + 16 + 4) + 4)
    recipe = load_recipe(tmp_path)
    assert recipe.settings.shape == "photo"
    again = Editor(tiny_v_models).run(recipe.edit, recipe.settings)
    assert again.images[0].tobytes() == result.images[0].tobytes()
    assert Settings.from_dict(recipe.settings.to_dict()) == result.settings
