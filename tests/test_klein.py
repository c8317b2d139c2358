"""A whole edit on FLUX.2 klein base, what is refused on it, and a kept subject in diffusers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from safetensors.torch import load_file
from tiny import QUICK

from layerdiffusion.editor import Editor
from layerdiffusion.engine import initial_latents
from layerdiffusion.errors import SettingsError
from layerdiffusion.models.load import load_models
from layerdiffusion.settings import Settings
from layerdiffusion.subject import load_subject

FEW = replace(QUICK, tune=None, guidance_scale=None, finetune_lr=2e-5)


@pytest.fixture
def editor(tiny_klein_models) -> Editor:
    return Editor(tiny_klein_models)


def pixels(result) -> np.ndarray:
    return np.stack([np.asarray(image, float) for image in result.images])


def test_an_edit_runs_all_three_stages_and_leaves_the_model_as_it_was(editor, edit):
    before = {name: weight.clone() for name, weight in editor.models.unet.state_dict().items()}
    result = editor.run(edit, FEW)
    assert set(result.stages.values()) == {"run"} and not result.warnings
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert (result.settings.tune, result.settings.guidance_scale) == ("lora", 4.0)
    assert {name: len(losses) for name, losses in result.losses.items()} == {"embeddings": 4, "finetune": 3}
    assert all(torch.equal(weight, before[name]) for name, weight in editor.models.unet.state_dict().items())
    again = editor.run(edit, replace(FEW, seeds=(1, 5)))
    assert again.stages == {"embeddings": "reuse", "finetune": "reuse", "sampling": "run"}
    assert np.abs(pixels(again)[0] - pixels(result)[1]).max() <= 1


def test_the_dials_do_what_they_do_on_stable_diffusion(editor, edit):
    """α = 1 leaves only the subject's words, weights of 0 their term out, and each changes the pictures."""
    usual = pixels(editor.run(edit, FEW))
    alpha_1 = editor.run(edit, replace(FEW, alpha=1.0))
    assert alpha_1.stages["embeddings"] == "reuse" and alpha_1.stages["finetune"] == "run"
    one_word = editor.run(edit, replace(FEW, alpha=1.0, schedule="object"))
    assert np.array_equal(pixels(alpha_1), pixels(one_word)) and not np.array_equal(pixels(alpha_1), usual)
    unweighted = editor.run(edit, replace(FEW, object_weight=0.0, background_weight=0.0))
    untuned = editor.run(edit, replace(FEW, finetune_steps=0))
    assert np.array_equal(pixels(unweighted), pixels(untuned))
    for change in ({"object_weight": 0.0}, {"background_weight": 0.0}, {"layers": "separate"}, {"draws": 2}):
        assert not np.array_equal(pixels(editor.run(edit, replace(FEW, **change))), usual)


def test_photos_of_another_shape_and_generated_backgrounds(editor, edit):
    settings = replace(FEW, shape="photo", seeds=(0,))
    generated = replace(edit, background="generate", background_image=None, background_mask=None)
    result = editor.run(generated, settings)
    (width, height) = result.images[0].size
    assert width % 16 == height % 16 == 0 and width > height
    assert result.stages["background"] == "run"


def test_all_weights_are_refused_with_the_gigabytes_they_take(editor, edit):
    with pytest.raises(SettingsError, match=r"tune is “full”: .* FLUX.2 klein base .* about \d+ GB; choose “lora”"):
        editor.run(edit, replace(FEW, tune="full"))
    with pytest.raises(SettingsError, match="solver is “dpmpp”: .* choose “ddim”"):
        editor.run(edit, replace(FEW, solver="dpmpp"))


def test_a_kept_lora_opens_in_diffusers_and_makes_the_same_picture_there(
    editor, tiny_klein_models, tiny_klein_folder, edit, tmp_path
):
    settings = replace(FEW, schedule="edit", finetune_lr=4e-4, finetune_steps=6)
    path = editor.subject(edit, settings).save(tmp_path / "dog", tiny_klein_models)
    assert all(name.startswith("transformer.") for name in load_file(path))
    words, none = load_file(path.with_suffix(".embeddings.safetensors")), tiny_klein_models.embed([None])
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_klein_folder)
    pipeline.set_progress_bar_config(disable=True)
    made = {
        "prompt_embeds": words["edit.prompt_embeds"][None],
        "negative_prompt_embeds": none.prompt_embeds,
        "latents": initial_latents([0], (16, 4, 4)),
        "height": 64,
        "width": 64,
        "num_inference_steps": settings.sampling_steps,
        "guidance_scale": 4.0,
        "output_type": "np",
    }
    untuned = pipeline(**made).images[0]
    pipeline.load_lora_weights(str(path))
    ours = np.asarray(editor.run(edit, settings).images[0]) / 255
    assert np.abs(pipeline(**made).images[0] - ours).max() < 2 / 255 < 4 / 255 < np.abs(untuned - ours).max()


def test_a_kept_subject_is_taken_up_again_and_as_a_lora_on_top(
    editor, tiny_klein_models, tiny_klein_folder, edit, tmp_path
):
    settings = replace(FEW, seeds=(0,), finetune_lr=4e-4)
    result = editor.run(edit, settings)
    path = editor.subject(edit, settings).save(tmp_path / "dog", tiny_klein_models)
    again = Editor(tiny_klein_models).run(edit, settings, subject=load_subject(path))
    assert np.abs(pixels(again) - pixels(result)).max() <= 1
    untrained = Settings(**{**settings.to_dict(), "embedding_steps": 0, "finetune_steps": 0})
    plain, on_top = (
        pixels(Editor(load_models(tiny_klein_folder, "cpu", "float32", loras=files)).run(edit, untrained))
        for files in ([], [str(path)])
    )
    assert not np.array_equal(plain, on_top)


def test_memory_saving_gives_the_same_pictures(tiny_klein_folder, edit, editor):
    saving = Editor(load_models(tiny_klein_folder, "cpu", "float32", low_memory=True))
    assert saving.models.profile.checkpointing
    assert np.abs(pixels(saving.run(edit, FEW)) - pixels(editor.run(edit, FEW))).max() <= 1


def test_adapters_beside_the_weights_share_the_networks_memory_and_say_what_merged_ones_do(editor, edit):
    from layerdiffusion.engine import sampling_denoiser
    from layerdiffusion.models.tuning import with_weights

    models = editor.models
    weights = editor.subject(edit, replace(FEW, finetune_lr=4e-4)).weights
    beside, merged = sampling_denoiser(models, weights).unet, with_weights(models.unet, weights)
    own = {parameter.data_ptr() for parameter in models.unet.parameters()}
    assert {p.data_ptr() for name, p in beside.named_parameters() if ".lora_" not in name} == own
    assert not any(parameter.requires_grad for parameter in beside.parameters()) and not beside.training
    condition, latents = models.embed(["a dog"]), torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        ours, theirs, untuned = (
            condition.ask(network, latents, torch.tensor(300)) for network in (beside, merged, models.unet)
        )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert (ours - untuned).abs().max() > 1e-3
