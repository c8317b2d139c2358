"""Whether a picture is of the toybox, by how well the embedded model denoises it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

from layerdiffusion.images.geometry import fit_window
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models

TIMESTEP = 0.3  # of the noise schedule: enough to hide detail, too little to hide what is there
NOISES = 2
SCENES = 16  # drawn scenes that show what the model is used to


@torch.no_grad()
def ood_score(models: Models, image: Image.Image) -> float:
    """The mean squared error of the predicted latents, without words, at one noise level; the same every time."""
    latents = models.encode(fit_window(image.size, (models.size, models.size)).image(image)).expand(NOISES, -1, -1, -1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    time = int(TIMESTEP * models.scheduler.config.num_train_timesteps)
    steps = torch.full((NOISES,), time, device=latents.device)
    noisy = models.scheduler.add_noise(latents, noise, steps)
    prediction = models.unet(noisy, steps, **models.embed([None] * NOISES).arguments(noisy)).sample.float()
    alpha_cumprod = models.scheduler.alphas_cumprod[time].item()
    if models.scheduler.config.prediction_type == "v_prediction":
        found = alpha_cumprod**0.5 * noisy - (1 - alpha_cumprod) ** 0.5 * prediction
    else:
        found = (noisy - (1 - alpha_cumprod) ** 0.5 * prediction) / alpha_cumprod**0.5
    return float((found - latents).square().mean())


def ood_threshold(models: Models) -> float:
    """The most that any of `SCENES` drawn scenes has: what lies above is not from the toybox."""
    return max(ood_score(models, draw(HELD_OUT_SEEDS + seed).image) for seed in range(SCENES))
