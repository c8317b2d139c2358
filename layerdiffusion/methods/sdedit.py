"""SDEdit (Meng et al. 2022, https://arxiv.org/abs/2108.01073): noise the photo, denoise it with the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from layerdiffusion.method.objective import OnStep, frozen
from layerdiffusion.method.sampling import ddim_scheduler, denoise, guided_noise_pred
from layerdiffusion.method.types import NoiseScheduler
from layerdiffusion.methods.options import SDEditOptions
from layerdiffusion.methods.stages import Task, pictures
from layerdiffusion.models.family import Condition
from layerdiffusion.progress import Reporter
from layerdiffusion.runtime import Stage
from layerdiffusion.settings import SAMPLING, Settings

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models


def taken_steps(steps: int, strength: float) -> int:
    """How many of `steps` sampling steps are taken at `strength`, as diffusers' image-to-image counts them."""
    return min(int(steps * strength), steps)


@torch.no_grad()
def sdedit(
    unet: nn.Module,
    scheduler: NoiseScheduler,
    latents: Tensor,
    noise: Tensor,
    embedding: Condition,
    negative_prompt_embeds: Condition,
    *,
    strength: float,
    steps: int,
    guidance_scale: float,
    precision: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Tensor:
    """Clean latents (B, C, h, w) by DDIM, η = 0, from the photo's `latents` (1, C, h, w) under `noise` (B, C, h, w).

    Of each embedding there is one. Of `steps` steps the last `taken_steps` are taken; with none, the photo comes back.
    """
    ddim = ddim_scheduler(scheduler, steps)
    taken = taken_steps(steps, strength)
    latents = latents.float().expand_as(noise)
    timesteps = ddim.timesteps[steps - taken :]
    if taken:
        latents = ddim.add_noise(latents, noise, timesteps[:1].to(latents.device))
    embedding, negative = embedding.float(), negative_prompt_embeds.float()

    def predict_noise(index: int, latents: Tensor, timestep: Tensor) -> Tensor:
        return guided_noise_pred(unet, latents, timestep, embedding, negative, guidance_scale, precision)

    with frozen(unet):
        return denoise(ddim, latents, timesteps, predict_noise, on_step)


def stages(task: Task) -> list[Stage[object]]:
    """One stage: the sampling."""
    options = task.options
    assert isinstance(options, SDEditOptions)
    picture = task.picture(options.source)
    inputs = {
        "picture": picture,
        "prompt": task.edit.prompt,
        "strength": options.strength,
        "settings": task.settings.of(SAMPLING),
    }
    steps = taken_steps(task.settings.sampling_steps, options.strength)
    return [Stage(SAMPLING, None if picture is None else inputs, *task.sampling(steps), sample_pictures)]


def sample_pictures(
    models: Models, report: Reporter, picture: Image.Image, prompt: str, strength: float, settings: Settings
) -> list[Image.Image]:
    """A picture for each seed."""
    latents, words = models.encode(picture), models.embed([prompt, None])

    def latents_of(noise: Tensor, on_step: OnStep) -> Tensor:
        return sdedit(
            models.unet,
            models.scheduler,
            latents,
            noise,
            words[:1],
            words[1:],
            strength=strength,
            steps=settings.sampling_steps,
            guidance_scale=settings.guidance_scale,
            precision=models.profile.precision,
            on_step=on_step,
        )

    return pictures(models, report, settings.seeds, latents.shape[1:], latents_of)
