"""A kept subject opens in diffusers and makes our pictures there, and goes on here without training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import QUICK

from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError, ModelError, RecipeError
from layerdiffusion.images.layers import seen
from layerdiffusion.subject import load_subject

LORA = replace(QUICK, tune="lora", finetune_lr=2e-3, schedule="edit")


@pytest.fixture(scope="module")
def editor(tiny_models) -> Editor:
    return Editor(tiny_models)


@pytest.fixture
def kept(editor, edit, tmp_path):
    return editor.subject(edit, LORA).save(tmp_path / "dog", editor.models)


def test_diffusers_makes_our_pictures_of_a_kept_lora(editor, edit, kept, tiny_folder):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(editor.models.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    embeddings = load_file(kept.with_suffix(".embeddings.safetensors"))
    made = dict(
        prompt_embeds=embeddings["edit.prompt_embeds"][None],
        negative_prompt_embeds=editor.models.embed([None]).prompt_embeds,
        num_inference_steps=LORA.sampling_steps,
        guidance_scale=editor.models.defaults.guidance_scale,
        latents=torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)),
        output_type="np",
    )
    untuned = pipeline(**made).images[0]
    pipeline.load_lora_weights(str(kept))
    theirs = pipeline(**made).images[0]
    ours = np.asarray(editor.run(edit, LORA).images[0]) / 255
    assert np.abs(theirs - ours).max() < 2 / 255
    assert np.abs(untuned - ours).max() > 4 / 255


def test_an_opened_subject_makes_the_same_pictures_and_new_words_without_training(editor, edit, kept):
    with safe_open(kept, "pt") as file:
        assert '"layerdiffusion"' in file.metadata()["layerdiffusion"]
    subject = load_subject(kept)
    assert subject.recipe.edit == seen(edit, (64, 64)) and subject.recipe.settings.finetune_steps == LORA.finetune_steps
    fresh = Editor(editor.models)
    again = fresh.run(subject.recipe.edit, LORA, subject=subject)
    for one, other in zip(again.images, editor.run(edit, LORA).images, strict=True):
        assert np.array_equal(one, other)
    other_words = replace(edit, prompt="a dog sleeps on ice", object_prompt=None, background_prompt=None)
    assert fresh.plan(other_words, LORA, subject=subject) == {
        "embeddings": "skip",
        "finetune": "skip",
        "sampling": "run",
    }
    new = fresh.run(other_words, LORA, subject=subject)
    assert not np.array_equal(new.images[0], again.images[0]) and "kept subject" in " ".join(new.warnings)


def test_training_goes_on_from_where_it_was(editor, edit, kept):
    subject = replace(load_subject(kept), train_on=2)
    further = editor.subject(edit, LORA, subject)
    assert further.recipe.settings.finetune_steps == LORA.finetune_steps + 2
    moved = [(further.weights[name] - weight).abs().max() for name, weight in subject.weights.items()]
    away = [weight.abs().max() for name, weight in further.weights.items() if "lora_B" in name]
    assert 0 < max(moved) <= 2.5 * 2 * 50 * LORA.finetune_lr and min(away) > 0
    assert len(editor.run(edit, LORA, subject=subject).losses["finetune"]) == 2


def test_a_full_edit_is_kept_as_a_folder_with_a_unet(editor, edit, tmp_path):
    from diffusers import UNet2DConditionModel

    settings = replace(LORA, tune="full", finetune_lr=1e-3)
    folder = editor.subject(edit, settings).save(tmp_path / "cat", editor.models)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert not torch.equal(unet.conv_in.weight, editor.models.unet.conv_in.weight)
    again = Editor(editor.models).run(edit, settings, subject=load_subject(folder))
    one, other = (np.asarray(result.images[1], int) for result in (again, editor.run(edit, settings)))
    assert np.abs(one - other).max() <= 1  # a 1 × 1 kernel may lie otherwise in memory, and is summed otherwise then


def test_what_is_no_kept_subject_is_refused_in_a_sentence(editor, tiny_v_models, edit, kept, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "dog.png")
    for path, words in ((tmp_path / "none.safetensors", "no subject at"), (tmp_path / "dog.png", "no complete")):
        with pytest.raises(RecipeError, match=words):
            load_subject(path)
    with pytest.raises(EditError, match="no trained subject"):
        editor.subject(edit, replace(LORA, finetune_steps=0))
    subject = load_subject(kept)
    wrong = replace(subject, weights={name: torch.zeros(3, 5) for name in subject.weights})
    with pytest.raises(ModelError, match="doesn't fit"):
        editor.run(edit, LORA, subject=wrong)
