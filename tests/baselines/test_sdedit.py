"""SDEdit is diffusers' image-to-image, latent for latent."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image
from tiny import QUICK

from layerdiffusion.baselines.sdedit import SDEditOptions
from layerdiffusion.editor import Editor
from layerdiffusion.engine import initial_latents
from layerdiffusion.method import sample
from layerdiffusion.method.sampling import taken_steps
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.load import load_models

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


def diffusers_latents(models, picture, prompt, seeds, scheduler=None, **arguments) -> torch.Tensor:
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=models.vae,
        text_encoder=models.family.text_encoder,
        tokenizer=models.family.tokenizer,
        unet=models.unet,
        scheduler=scheduler or models.scheduler.from_config(models.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pictures = picture.expand(len(seeds), -1, -1, -1) if torch.is_tensor(picture) else [picture] * len(seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(
        [prompt] * len(seeds), pictures, generator=generators, eta=0.0, output_type="latent", **arguments
    ).images


def our_latents(models, latents, prompt, seeds, **arguments) -> torch.Tensor:
    words = models.embed([prompt, None])
    noise = initial_latents(seeds, models.latent_shape)
    mine = words[:1], words[:1], words[1:]
    return sample(Denoiser(models.unet), models.scheduler, noise, *mine, start=latents, **arguments)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
@pytest.mark.parametrize("strength", [0.3, 0.58, 0.8, 1.0])
def test_its_latents_are_those_of_diffusers_image_to_image(either_models, edit, strength, solver):
    latents = either_models.encode(edit.object_image.crop((0, 0, 64, 64)))
    dials = {"strength": strength, "guidance_scale": 7.5}
    ours = our_latents(either_models, latents, "a dog", (0, 5), steps=7, solver=solver, **dials)
    scheduler = DPMSolverMultistepScheduler.from_config(either_models.scheduler.config) if solver == "dpmpp" else None
    # Given four channels, the pipeline takes them for latents.
    theirs = diffusers_latents(either_models, latents, "a dog", (0, 5), scheduler, num_inference_steps=7, **dials)
    assert (ours - theirs).abs().max() < 1e-4
    assert (ours - latents).abs().max() > 0.1  # and the two did something
    assert (ours[0] - ours[1]).abs().max() > 0.01


def test_its_latents_are_those_of_diffusers_image_to_image_on_the_miniature():
    models = load_models("miniature", "cpu", "float32")
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((models.size, models.size), Image.Resampling.BICUBIC)
    prompt = "a dog jumping in the forest"
    ours = our_latents(models, models.encode(picture), prompt, (0, 1), strength=0.75, steps=6, guidance_scale=7.5)
    theirs = diffusers_latents(
        models, picture, prompt, (0, 1), strength=0.75, num_inference_steps=6, guidance_scale=7.5
    )
    assert (ours - theirs).abs().max() < 1e-4


def test_strength_is_the_share_of_steps_taken_rounded_down_as_diffusers_does(tiny_models, edit):
    assert [taken_steps(50, strength) for strength in (0.0, 0.5, 0.58, 0.8, 1.0)] == [0, 25, 28, 40, 50]
    seen = []
    Editor(tiny_models).run(
        edit,
        dataclasses.replace(QUICK, sampling_steps=10),
        seen.append,
        method="sdedit",
        options=SDEditOptions(strength=0.4),
    )
    assert [(event.stage, event.step, event.steps) for event in seen] == [("sampling", n, 4) for n in (1, 2, 3, 4)]


def test_at_strength_0_the_photo_comes_back(tiny_models, edit):
    result = Editor(tiny_models).run(edit, QUICK, method="sdedit", options=SDEditOptions(strength=0.0))
    photo = edit.object_image.crop((8, 0, 72, 64))
    expected = np.asarray(tiny_models.decode(tiny_models.encode(photo))[0])
    assert result.stages == {"sampling": "skip"}
    assert [np.asarray(image).tolist() for image in result.images] == [expected.tolist()] * 2
