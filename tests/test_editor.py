"""The editor: three stages, each run once for what it depends on, seen, stopped and never left half done."""

import copy
import dataclasses
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import QUICK, noise_picture

from layerdiffusion import method, progress
from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.engine import initial_latents, training_generator
from layerdiffusion.errors import EditError, MaskError, ModelError, SavedElsewhere
from layerdiffusion.images.detail import bring_detail
from layerdiffusion.images.layers import lay_out
from layerdiffusion.lru import LRU
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.load import load_models
from layerdiffusion.models.oom import OutOfMemory
from layerdiffusion.models.tuning import TunedNetwork, with_weights
from layerdiffusion.progress import Cancelled
from layerdiffusion.recipe import load_recipe, recipe_from_dict
from layerdiffusion.result import Result
from layerdiffusion.settings import Settings

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")

EVERYTHING = {"embeddings": "run", "finetune": "run", "sampling": "run"}


@pytest.fixture
def editor(either_models) -> Editor:
    return Editor(either_models)


@pytest.fixture
def fast_editor(tiny_v_models) -> Editor:
    return Editor(tiny_v_models)


@pytest.fixture(scope="module")
def experienced(tiny_v_models, edit) -> tuple[Editor, Result]:
    """An editor and its first edit, for the tests that change one setting each."""
    editor = Editor(tiny_v_models)
    return editor, editor.run(edit, quick())


def quick(**changes) -> Settings:
    return dataclasses.replace(QUICK, **changes)


def pixels(result) -> list[np.ndarray]:
    return [np.asarray(image) for image in result.images]


def same_pictures(first, second) -> bool:
    return len(first.images) == len(second.images) and all(map(np.array_equal, pixels(first), pixels(second)))


class Steps:
    """Writes down each event, and calls `then` on it."""

    def __init__(self, then=lambda event: None):
        self.events, self.then = [], then

    def __call__(self, event):
        self.events.append(event)
        self.then(event)

    @property
    def taken(self) -> dict[str, int]:
        stages = [event.stage for event in self.events if not event.reused]
        return {stage: stages.count(stage) for stage in dict.fromkeys(stages)}


@pytest.fixture
def weights_before(either_models):
    """Every bit of the pristine model, compared after the test."""
    unet = either_models.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    yield before
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert not unet.training


# What an edit gives back


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


def test_a_detailed_result_has_the_photos_own_pixels_and_size(fast_editor, edit, monkeypatch):
    asked = []

    def find_again(models, image, words, near, segmenter):
        asked.append((words, segmenter.name))
        return ~near if np.array_equal(image, small.images[0]) else near

    photo = edit.object_image.resize((300, 300))
    large = Edit(photo, np.asarray(Image.fromarray(edit.object_mask).resize((300, 300))), prompt=edit.prompt)
    small = fast_editor.run(large, quick())
    monkeypatch.setattr("layerdiffusion.cut_outs.find_again", find_again)
    segmenter = SimpleNamespace(name="SAM", prepare=lambda images: asked.append(len(images)))
    monkeypatch.setattr(fast_editor.models, "segmenter", lambda name: segmenter, raising=False)
    monkeypatch.setattr(fast_editor.models, "clip", lambda: None, raising=False)
    detailed = small.detailed()
    near, subjects = small.layers.object_mask, small.layers.subjects
    for image, own, mask in zip(detailed.images, small.images, (~near, near), strict=True):
        assert np.array_equal(image, bring_detail(own, photo, subjects, mask))
    small.detailed()
    assert asked == [2, ("a dog", "SAM"), ("a dog", "SAM")] and not detailed.warnings
    assert all(image.size == (300, 300) for image in detailed.images)
    assert detailed.contact_sheet().size == small.contact_sheet().size

    def no_clip():
        raise ModelError("There is no CLIP.")

    monkeypatch.setattr(fast_editor.models, "clip", no_clip)
    other = fast_editor.run(large, quick(seeds=(2, 3)))
    without = other.detailed()
    assert np.array_equal(without.images[0], bring_detail(other.images[0], photo, subjects))
    assert "can't be looked for: There is no CLIP." in without.warnings[0]


def test_a_cut_prompt_is_in_the_results_warnings(fast_editor, edit):
    long = dataclasses.replace(edit, background_prompt="on ice " * 20)
    assert len(fast_editor.run(long, quick(embedding_steps=0, finetune_steps=0)).warnings) == 1


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


# The cache


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


def test_the_cache_keeps_to_its_limit_and_drops_what_was_unused_longest():
    cache = LRU(1000)
    for key in "abc":
        cache.put(key, torch.zeros(100))  # 400 bytes each
        if key == "b":
            assert cache.get("a") is not None
    assert "b" not in cache
    assert "a" in cache
    assert "c" in cache
    assert cache.size == 800
    cache.put("large", torch.zeros(1000))
    assert "large" not in cache
    assert cache.size == 800


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


# Progress, cancel, and what goes wrong


def test_every_step_is_reported_with_its_loss_and_the_time_left(editor, edit):
    steps = Steps()
    result = editor.run(edit, quick(), on_progress=steps)
    assert [(event.stage, event.step, event.steps) for event in steps.events] == [
        *(("embeddings", step, 4) for step in range(1, 5)),
        *(("finetune", step, 3) for step in range(1, 4)),
        *(("sampling", step, 6) for step in range(1, 7)),
    ]
    losses = [event.loss for event in steps.events]
    assert losses == [*result.losses["embeddings"], *result.losses["finetune"], *[None] * 6]
    assert all(event.seconds_left > 0 for event in steps.events[:-1])
    assert steps.events[-1].seconds_left == 0
    previews = [event.preview for event in steps.events if event.preview]
    assert 3 <= len(previews) <= 6
    assert previews[0].size == (64, 64)


def test_the_time_left_counts_the_stages_to_come(fast_editor, edit, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    steps = Steps(lambda event: clock.append(clock.pop() + 1))  # a second each
    settings = quick(embedding_steps=10, finetune_steps=10, sampling_steps=10)
    fast_editor.run(edit, settings, on_progress=steps)
    steps.events.clear()
    fast_editor.run(edit, dataclasses.replace(settings, training_seed=1), on_progress=steps)
    assert steps.events[4].seconds_left == pytest.approx(25, rel=0.25)


@pytest.mark.parametrize("stage", ["embeddings", "finetune", "sampling"])
def test_cancel_stops_within_a_step_and_keeps_the_finished_stages(editor, edit, weights_before, stage):
    cancel = threading.Event()
    steps = Steps(lambda event: cancel.set() if (event.stage, event.step) == (stage, 2) else None)
    with pytest.raises(Cancelled) as error:
        editor.run(edit, quick(), on_progress=steps, cancel=cancel)
    assert isinstance(error.value, EditError)
    assert steps.events[-1].stage == stage
    assert steps.events[-1].step == 2

    finished = list(EVERYTHING)[: list(EVERYTHING).index(stage)]
    assert editor.plan(edit, quick()) == EVERYTHING | dict.fromkeys(finished, "reuse")
    cancel.clear()
    resumed = editor.run(edit, quick(), cancel=cancel)
    assert same_pictures(resumed, Editor(editor.models).run(edit, quick()))


def test_an_edit_cancelled_beforehand_takes_no_step(fast_editor, edit):
    cancel, steps = threading.Event(), Steps()
    cancel.set()
    with pytest.raises(Cancelled):
        fast_editor.run(edit, quick(), on_progress=steps, cancel=cancel)
    assert steps.events == []


@pytest.mark.parametrize("how", ["full", "lora"])
def test_the_pristine_model_survives_success_exceptions_and_no_memory(editor, edit, weights_before, how):
    class Interrupted(Exception):
        pass

    def fail(error):
        def on_progress(event):
            if (event.stage, event.step) == ("finetune", 2):
                raise error

        return on_progress

    settings = quick(tune=how)
    with pytest.raises(Interrupted):
        editor.run(edit, settings, on_progress=fail(Interrupted()))
    with pytest.raises(OutOfMemory, match="memory") as error:
        editor.run(edit, settings, on_progress=fail(MemoryError()))
    assert isinstance(error.value, EditError) and "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="shapes"):
        editor.run(edit, settings, on_progress=fail(RuntimeError("shapes differ")))
    assert editor.plan(edit, settings) == EVERYTHING | {"embeddings": "reuse"}
    assert same_pictures(editor.run(edit, settings), Editor(editor.models).run(edit, settings))


@pytest.mark.parametrize("step", [1, 3])
def test_a_learning_rate_that_leads_nowhere_is_one_sentence(fast_editor, edit, weights_before_v, step):
    with pytest.raises(EditError, match="lower finetune_lr") as error:
        fast_editor.run(edit, quick(), on_progress=poison_the_copy_in_training("finetune", step))
    assert "\n" not in str(error.value)


@pytest.fixture
def weights_before_v(tiny_v_models):
    before = copy.deepcopy(tiny_v_models.unet.state_dict())
    yield
    assert all(torch.equal(value, before[name]) for name, value in tiny_v_models.unet.state_dict().items())


def poison_the_copy_in_training(stage, step):
    """Turn the network in training into NaN, as a far too high learning rate would, by way of the frames above."""
    import sys

    def on_progress(event):
        if event.stage == stage and event.step == step:
            frame = sys._getframe()
            while not isinstance(frame.f_locals.get("network"), TunedNetwork):
                frame = frame.f_back
            next(frame.f_locals["network"].unet.parameters()).data.fill_(float("nan"))

    return on_progress


def test_two_threads_take_turns_and_get_what_each_would_get_alone(tiny_v_models, edit):
    shared, edits = Editor(tiny_v_models), [edit, edit.swapped()]
    seen, results = [], {}

    def run(index):
        results[index] = shared.run(edits[index], quick(), on_progress=lambda event: seen.append(index))

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    changes = sum(first != second for first, second in zip(seen, seen[1:], strict=False))
    assert changes == 1  # one after the other, never mixed
    for index in (0, 1):
        assert same_pictures(results[index], Editor(tiny_v_models).run(edits[index], quick()))


def test_whoever_waits_for_a_turn_can_cancel(fast_editor, edit):
    cancel = threading.Event()
    cancel.set()
    caught = []

    def impatient(event):
        if not caught:
            with pytest.raises(Cancelled, match="waited") as error:
                fast_editor.run(edit, quick(), cancel=cancel)
            caught.append(error)

    fast_editor.run(edit, quick(), on_progress=impatient)
    assert caught


# Backgrounds, roles and placement


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


def test_a_larger_subject_is_one_affine_map_of_picture_and_mask(edit):
    plain = lay_out(edit, (64, 64))
    large = lay_out(dataclasses.replace(edit, placement=Placement(scale=1.5)), (64, 64))
    assert large.object_mask.sum() == pytest.approx(2.25 * plain.object_mask.sum(), rel=0.1)
    inside = np.asarray(large.composite)[large.object_mask]
    assert np.array_equal(inside, np.asarray(large.object_image)[large.object_mask])
    outside = ~large.object_mask
    assert np.array_equal(np.asarray(large.composite)[outside], np.asarray(large.inpainted_background)[outside])


def test_the_references_own_subject_is_painted_out_of_the_composite(edit):
    layers = lay_out(edit, (64, 64))
    own = layers.background_mask
    painted, original = np.asarray(layers.inpainted_background), np.asarray(layers.background_image)
    assert not np.array_equal(painted[own], original[own])
    far = ~layers.background_mask
    far[:40, :40] = False
    assert np.array_equal(painted[far], original[far])


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


# Precision, and sampling in parts


def test_seeds_beyond_what_a_device_holds_are_sampled_in_parts_and_are_the_same(tiny_v_models, edit):
    few = dataclasses.replace(tiny_v_models, profile=dataclasses.replace(tiny_v_models.profile, batch=2))
    settings, steps = quick(seeds=(0, 1, 2, 3, 4)), Steps()
    whole = Editor(tiny_v_models).run(edit, settings)
    parts = Editor(few).run(edit, settings, on_progress=steps)
    sampling = [event for event in steps.events if event.stage == "sampling"]
    assert [event.step for event in sampling] == list(range(1, 19))
    for ours, expected in zip(pixels(parts), pixels(whole), strict=True):
        assert abs(ours.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_lower_precision_gives_nearly_the_same_losses_and_whole_pictures(tiny_v_folder, edit, dtype, how):
    settings = quick(tune=how, draws=1)  # where memory is short the default is more
    full = Editor(load_models(tiny_v_folder, "cpu", "float32")).run(edit, settings)
    half = Editor(load_models(tiny_v_folder, "cpu", dtype, low_memory=True)).run(edit, settings)
    assert half.losses != full.losses
    for stage in ("embeddings", "finetune"):
        assert half.losses[stage] == pytest.approx(full.losses[stage], rel=0.05)
    difference = np.abs(np.stack(pixels(half)).astype(int) - np.stack(pixels(full)).astype(int))
    assert difference.mean() < 12


@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_device_that_keeps_weights_in_half_precision_trains_from_the_float32_ones(tiny_v_models, edit, how):
    """As on a CUDA device: the network that runs is float16, the one that stage 2 starts from is float32."""
    half = torch.float16
    profile = dataclasses.replace(
        tiny_v_models.profile, precision=half, training_precision=torch.bfloat16, weights=half
    )
    unet = copy.deepcopy(tiny_v_models.master).to(half)
    before = copy.deepcopy(unet.state_dict())
    models = dataclasses.replace(tiny_v_models, unet=unet, profile=profile)

    editor, settings = Editor(models), quick(tune=how, finetune_steps=8)
    result = editor.run(edit, settings)

    full = Editor(tiny_v_models).run(edit, settings)
    assert result.losses["finetune"][:3] == pytest.approx(full.losses["finetune"][:3], rel=0.05)
    assert not same_pictures(result, editor.run(edit, quick(finetune_steps=0)))
    assert same_pictures(result, Editor(models).run(edit, settings))
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


# What is too small


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


# Saving


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


def test_pictures_that_do_not_fit_are_saved_elsewhere(fast_editor, edit, tmp_path, monkeypatch, full_disk):
    result, target, spare = fast_editor.run(edit, quick()), tmp_path / "full", tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    full_disk(target)
    with pytest.raises(SavedElsewhere, match=r"can't be saved .* \(No space left on device\), so they are in") as error:
        result.save(target)
    assert str(error.value.folder) in str(error.value) and "\n" not in str(error.value)
    assert error.value.folder.parent == spare and load_recipe(error.value.folder).edit == edit
    for seed, image in zip(result.seeds, result.images, strict=True):
        assert np.array_equal(Image.open(error.value.folder / f"seed-{seed}.png"), image)
