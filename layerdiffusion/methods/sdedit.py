"""SDEdit (Meng et al. 2022, https://arxiv.org/abs/2108.01073): noise the photo, denoise it with the prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerdiffusion.method.objective import OnStep, Step, frozen
from layerdiffusion.method.sampling import ddim_scheduler, guided_prediction


def taken_steps(steps: int, strength: float) -> int:
    """How many of `steps` sampling steps are taken at `strength`, as diffusers' image-to-image counts them."""
    return min(int(steps * strength), steps)


@torch.no_grad()
def sdedit(
    unet: nn.Module,
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    embedding: Tensor,
    empty_embedding: Tensor,
    *,
    strength: float,
    steps: int,
    guidance_scale: float,
    precision: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Tensor:
    """Clean latents (B, C, h, w) by DDIM, η = 0, from the photo's `latents` (1, C, h, w) under `noise` (B, C, h, w).

    The embeddings are (1, L, D). Of `steps` steps the last `taken_steps` are taken; with none, the photo comes back.
    """
    ddim = ddim_scheduler(scheduler, steps)
    taken = taken_steps(steps, strength)
    latents = latents.float().expand_as(noise)
    timesteps = ddim.timesteps[steps - taken :]
    if taken:
        latents = ddim.add_noise(latents, noise, timesteps[:1].to(latents.device))
    with frozen(unet):
        for index, timestep in enumerate(timesteps, 1):
            prediction = guided_prediction(
                unet, latents, timestep, embedding.float(), empty_embedding.float(), guidance_scale, precision
            )
            moved = ddim.step(prediction, timestep, latents, eta=0.0)
            latents = moved.prev_sample
            if on_step:
                on_step(Step(index, taken, x0=moved.pred_original_sample))
    return latents
