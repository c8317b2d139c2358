"""The editor: three stages, each run once for what it depends on, from pictures, words and settings to a result."""

import dataclasses
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from runs import EVERYTHING, Steps, pixels, quick, same_pictures
from tiny import noise_picture

from layerdiffusion import method
from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.engine import initial_latents, training_generator
from layerdiffusion.errors import EditError, MaskError
from layerdiffusion.images.layers import lay_out
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.tuning import TunedNetwork, with_weights
from layerdiffusion.progress import Cancelled
from layerdiffusion.result import Result

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


@pytest.fixture(scope="module")
def experienced(tiny_v_models, edit) -> tuple[Editor, Result]:
    """An editor and its first edit, for the tests that change one setting each."""
    editor = Editor(tiny_v_models)
    return editor, editor.run(edit, quick())


def test_an_edit_is_the_papers_three_stages_one_after_the_other(either_models, edit):
    """The editor's pictures, from the method's functions and diffusers' parts alone."""
    models, layers = either_models, lay_out(edit, (either_models.size,) * 2)
    small = lambda mask: torch.from_numpy(  # noqa: E731
        np.asarray(Image.fromarray(mask.astype(np.float32)).resize((8, 8), Image.Resampling.BOX)) >= 0.5
    ).float()[None, None]

    embeddings = method.optimize_embeddings(
        Denoiser(models.unet),
        models.scheduler,
        models.encode(layers.inpainted_background),
        small(~layers.background_mask),
        models.embed(["a dog jumps", "on ice"]),
        steps=4,
        lr=1e-2,
        generator=training_generator("embeddings", 0),
    )
    blend = embeddings[:1].map(lambda own, other: 0.7 * own + 0.3 * other, embeddings[1:])
    weights = method.finetune(
        TunedNetwork(models.unet, models.device, optimizer=models.profile.optimizer()),
        models.scheduler,
        method.composite_layers(models.encode(layers.composite), small(layers.object_mask)),
        blend,
        object_weight=2,
        background_weight=1,
        steps=3,
        lr=1e-3,
        generator=training_generator("finetune", 0),
    )
    latents = method.sample(
        Denoiser(with_weights(models.unet, weights)),
        models.scheduler,
        initial_latents((0, 1), models.latent_shape),
        embeddings[:1],
        blend,
        models.embed([""]),
        steps=6,
        guidance_scale=7.5,
    )

    result = Editor(models).run(edit, quick())

    for ours, expected in zip(pixels(result), models.decode(latents), strict=True):
        assert abs(ours.astype(int) - np.asarray(expected, int)).max() <= 1


def test_a_result_says_what_it_is_made_of(editor, edit):
    result = editor.run(edit, quick())
    assert result.seeds == (0, 1)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert not np.array_equal(*pixels(result))
    assert result.stages == EVERYTHING
    assert [len(result.losses[stage]) for stage in ("embeddings", "finetune")] == [4, 3]
    assert result.timings.keys() == {"embeddings", "finetune", "sampling", "total"}
    assert result.timings["total"] >= sum(result.timings.values()) - result.timings["total"]
    assert result.settings.alpha == editor.models.defaults.alpha
    assert result.edit is edit


def test_a_cut_prompt_is_in_the_results_warnings(fast_editor, edit):
    long = dataclasses.replace(edit, background_prompt="on ice " * 20)
    assert len(fast_editor.run(long, quick(embedding_steps=0, finetune_steps=0)).warnings) == 1


def test_a_subject_wider_than_the_window_is_in_the_results_warnings(fast_editor):
    mask = np.zeros((64, 320), bool)
    mask[20:40, 10:310] = True
    wide = Edit(noise_picture(1).resize((320, 64)), mask, prompt="a dog jumps on ice")
    nothing = quick(embedding_steps=0, finetune_steps=0, shape="square")
    warnings = fast_editor.run(wide, nothing).warnings
    assert len(warnings) == 1 and "cuts off 79 % of the subject" in warnings[0]
    assert fast_editor.warnings(wide, nothing) == [*warnings]


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.2},
        {"object_weight": 5},
        {"background_weight": 0},
        {"embedding_steps": 3},
        {"embedding_lr": 1e-1},
        {"finetune_steps": 2},
        {"finetune_lr": 1e-2},
        {"sampling_steps": 5},
        {"guidance_scale": 3},
        {"schedule": "edit"},
        {"schedule": "object"},
        {"seeds": (2, 3)},
        {"training_seed": 1},
        {"noise_offset": 0.5},
        {"tune": "lora"},
        {"draws": 3},
        {"layers": "separate"},
    ],
    ids=str,
)
def test_every_setting_changes_the_pictures_and_the_same_again_does_not(experienced, edit, changes):
    editor, _ = experienced
    plain = editor.run(edit, quick(finetune_lr=1e-2, embedding_lr=3e-2))
    settings = dataclasses.replace(quick(finetune_lr=1e-2, embedding_lr=3e-2), **changes)
    if changes == {"finetune_lr": 1e-2}:
        settings = dataclasses.replace(settings, finetune_lr=3e-3)
    changed = editor.run(edit, settings)
    assert not same_pictures(plain, changed)
    assert changed.edit_id != plain.edit_id
    fresh = Editor(editor.models).run(edit, settings)
    assert same_pictures(changed, fresh)
    assert changed.edit_id == fresh.edit_id


def test_a_second_run_of_a_recipe_takes_no_step_and_gives_the_same_pixels(editor, edit):
    first = editor.run(edit, quick())
    steps = Steps()
    assert editor.plan(edit, quick()) == dict.fromkeys(EVERYTHING, "reuse")

    second = editor.run(edit, quick(), on_progress=steps)

    assert same_pictures(first, second)
    assert first.edit_id == second.edit_id
    assert steps.taken == {}
    assert [(event.stage, event.reused) for event in steps.events] == [(stage, True) for stage in EVERYTHING]
    assert second.reused == tuple(EVERYTHING)
    assert second.losses == first.losses
    assert second.timings["total"] < 0.2 * first.timings["total"]


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"seeds": (7, 8, 9)}, {"sampling": 6}),
        ({"sampling_steps": 9}, {"sampling": 9}),
        ({"guidance_scale": 2}, {"sampling": 6}),
        ({"schedule": "edit"}, {"sampling": 6}),
        ({"object_weight": 3}, {"finetune": 3, "sampling": 6}),
        ({"alpha": 0.5}, {"finetune": 3, "sampling": 6}),
        ({"tune": "lora"}, {"finetune": 3, "sampling": 6}),
        ({"embedding_lr": 1e-4}, {"embeddings": 4, "finetune": 3, "sampling": 6}),
        ({"noise_offset": 0.3}, {"embeddings": 4, "finetune": 3, "sampling": 6}),
        ({"training_seed": 1}, {"embeddings": 4, "finetune": 3, "sampling": 6}),
    ],
    ids=str,
)
def test_a_changed_setting_runs_only_the_stages_that_depend_on_it(experienced, edit, changes, taken):
    editor, first = experienced
    steps, settings = Steps(), quick(**changes)
    plan = editor.plan(edit, settings)
    result = editor.run(edit, settings, on_progress=steps)
    assert steps.taken == taken
    assert result.stages == plan
    assert plan == {stage: "run" if stage in taken else "reuse" for stage in EVERYTHING}
    for stage in result.reused:
        assert result.timings[stage] < 0.5 * first.timings[stage]


def test_what_an_edit_says_decides_what_is_run_again(fast_editor, edit):
    fast_editor.run(edit, quick())
    same = dataclasses.replace(edit, prompt="whatever the whole prompt is, the stages read its parts")
    moved = dataclasses.replace(edit, placement=Placement(dx=0.2))
    reworded = dataclasses.replace(edit, background_prompt="on grass")
    assert fast_editor.plan(same, quick()) == dict.fromkeys(EVERYTHING, "reuse")
    # Stage 1 looks at the background alone, wherever the subject is laid.
    assert fast_editor.plan(moved, quick()) == EVERYTHING | {"embeddings": "reuse"}
    assert fast_editor.plan(reworded, quick()) == EVERYTHING
    assert fast_editor.plan(edit.swapped(), quick()) == EVERYTHING


def test_another_mask_on_the_same_picture_is_tuned_again(fast_editor, edit):
    keep = Edit(edit.object_image, edit.object_mask, object_prompt="a dog jumps", background_prompt="on ice")
    settings = quick(embedding_steps=0)
    fast_editor.run(keep, settings)
    more = keep.object_mask.copy()
    more[8:16, 24:56] = True
    assert fast_editor.plan(dataclasses.replace(keep, object_mask=more), settings)["finetune"] == "run"


def test_zero_steps_of_a_training_stage_are_legal_and_skip_it(editor, edit):
    steps = Steps()
    result = editor.run(edit, quick(embedding_steps=0, finetune_steps=0), on_progress=steps)
    assert steps.taken == {"sampling": 6}
    assert result.stages == {"embeddings": "skip", "finetune": "skip", "sampling": "run"}
    assert result.losses == {"embeddings": [], "finetune": []}
    # Without training the pictures in the edit have no say.
    other = dataclasses.replace(edit, object_image=noise_picture(9))
    assert editor.plan(other, quick(embedding_steps=0, finetune_steps=0))["sampling"] == "reuse"


def test_both_weights_zero_tune_nothing(fast_editor, edit):
    settings = quick(object_weight=0, background_weight=0)
    assert fast_editor.run(edit, settings).stages["finetune"] == "skip"


def test_a_picture_handed_out_can_be_drawn_on_without_spoiling_the_cache(fast_editor, edit):
    first = fast_editor.run(edit, quick())
    before = pixels(first)[0].copy()
    first.images[0].paste("black", (0, 0, 64, 64))
    first.losses["finetune"].clear()
    again = fast_editor.run(edit, quick())
    assert np.array_equal(pixels(again)[0], before)
    assert len(again.losses["finetune"]) == 3


def test_with_no_room_in_the_cache_every_run_is_whole_and_the_pictures_are_the_same(tiny_v_models, edit):
    editor = Editor(tiny_v_models, cache_limit=0)
    first, steps = editor.run(edit, quick()), Steps()
    second = editor.run(edit, quick(), on_progress=steps)
    assert steps.taken == {"embeddings": 4, "finetune": 3, "sampling": 6}
    assert editor.cache_size == 0
    assert same_pictures(first, second)


def test_a_limit_bounds_what_many_edits_leave_behind(tiny_v_models, edit):
    limit = 600_000  # a tuned network takes about 200 kB
    editor = Editor(tiny_v_models, cache_limit=limit)
    for weight in range(1, 8):
        editor.run(edit, quick(object_weight=weight))
        assert editor.cache_size <= limit
    assert editor.plan(edit, quick(object_weight=7))["finetune"] == "reuse"
    assert editor.plan(edit, quick(object_weight=1))["finetune"] == "run"
    assert editor.plan(edit, quick(object_weight=1))["embeddings"] == "reuse"
    editor.clear_cache()
    assert editor.cache_size == 0


def test_the_photo_keeps_its_own_background_where_no_other_is_given(fast_editor, edit):
    keep = Edit(edit.object_image, edit.object_mask, prompt="a dog jumping")
    layers = fast_editor.layers(keep)
    assert np.array_equal(layers.background_mask, layers.object_mask)
    assert np.array_equal(np.asarray(layers.composite), np.asarray(layers.object_image))
    moved = fast_editor.layers(dataclasses.replace(keep, placement=Placement(dx=0.25)))
    assert np.array_equal(moved.background_mask, layers.background_mask)  # what is missing is where the subject was
    assert not np.array_equal(moved.object_mask, layers.object_mask)
    assert fast_editor.run(keep, quick()).stages == EVERYTHING


def test_swapped_roles_are_the_same_code_with_the_pictures_swapped(fast_editor, edit):
    by_hand = Edit(
        edit.background_image,
        edit.background_mask,
        edit.object_image,
        edit.object_mask,
        prompt=edit.prompt,
        object_prompt=edit.object_prompt,
        background_prompt=edit.background_prompt,
    )
    swapped = fast_editor.run(edit.swapped(), quick())
    assert not same_pictures(swapped, fast_editor.run(edit, quick()))
    assert fast_editor.run(by_hand, quick()).reused == tuple(EVERYTHING)


def test_a_generated_background_is_painted_by_the_untouched_model_and_used(fast_editor, edit, weights_before_v):
    generated = Edit(
        edit.object_image, edit.object_mask, prompt="a dog on ice", background="generate", background_seed=1
    )
    models = fast_editor.models
    assert fast_editor.plan(generated, quick()) == {"background": "run", **EVERYTHING}
    assert fast_editor.layers(generated) is None
    steps = Steps()
    result = fast_editor.run(generated, quick(), on_progress=steps)
    assert steps.taken == {"background": 6, "embeddings": 4, "finetune": 3, "sampling": 6}
    assert result.stages == {"background": "run", **EVERYTHING}

    words, empty = models.embed(["on ice"]), models.embed([None])
    start = initial_latents([1], models.latent_shape)
    latents = method.sample(
        Denoiser(models.unet),
        models.scheduler,
        start,
        words,
        words,
        empty,
        steps=6,
        guidance_scale=7.5,
        schedule="edit",
    )
    expected = np.asarray(models.decode(latents)[0])
    assert np.array_equal(np.asarray(result.layers.background_image), expected)

    assert fast_editor.plan(generated, quick()) == dict.fromkeys(["background", *EVERYTHING], "reuse")
    assert same_pictures(result, fast_editor.run(generated, quick()))


def test_of_several_generated_backgrounds_the_chosen_seed_is_the_one_an_edit_gets(fast_editor, edit):
    steps = Steps()
    candidates = fast_editor.generate_backgrounds("on ice", (4, 5, 6), quick(), on_progress=steps)
    assert [event.step for event in steps.events] == list(range(1, 19))
    assert steps.events[-1].steps == 18
    chosen = Edit(edit.object_image, edit.object_mask, prompt="a dog on ice", background="generate", background_seed=5)
    assert fast_editor.plan(chosen, quick())["background"] == "reuse"
    result = fast_editor.run(chosen, quick())
    assert np.array_equal(np.asarray(result.layers.background_image), np.asarray(candidates[1]))
    alone = Editor(fast_editor.models).run(chosen, quick())
    assert same_pictures(result, alone)


def test_generating_from_no_words_or_when_cancelled_is_an_edit_error(fast_editor):
    with pytest.raises(EditError, match="describe the place"):
        fast_editor.generate_backgrounds(" ")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        fast_editor.generate_backgrounds("on ice", (0,), quick(), cancel=cancel)


def test_a_subject_too_small_for_the_latent_grid_is_said_to_be(fast_editor, edit):
    speck = np.zeros((64, 80), bool)
    speck[30:32, 40:42] = True
    with pytest.raises(MaskError, match="too small"):
        fast_editor.run(dataclasses.replace(edit, object_mask=speck), quick())


@pytest.mark.parametrize("layers", ["composite", "separate"])
@pytest.mark.parametrize("background", ["reference", "keep"])
def test_a_background_too_small_to_see_names_the_mask_that_leaves_it(fast_editor, edit, layers, background):
    subject = np.ones((64, 64), bool)
    subject[:3, :3] = False  # less than half of an 8 × 8 cell
    if background == "reference":
        tight = dataclasses.replace(edit, background_image=noise_picture(1, 64, 64), background_mask=subject)
        words = "what background_mask leaves of the reference is too small .* mark less of it as its own subject"
    else:
        tight = Edit(noise_picture(0, 64, 64), subject, object_prompt="a dog", background_prompt="on ice")
        words = "what object_mask leaves of the photo is too small .* mark less of it as the subject"
    for settings in (quick(layers=layers), quick(layers="separate", embedding_steps=0)):
        with pytest.raises(MaskError, match=words):
            fast_editor.run(tight, settings)
