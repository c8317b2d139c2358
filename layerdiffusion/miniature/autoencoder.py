"""The miniature's autoencoder: diffusers' AutoencoderTiny, 128 × 128 pixels to 16 × 16 × 16 latents.

Little work at full resolution, residual branches that start at zero, and latents made easy for a diffusion model:
zero mean and unit deviation over all channels together, noise added in training so that detail worth little takes
little of the scale, and (now and then) a half-size latent decoded to the half-size picture, so that latents are smooth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from layerdiffusion.miniature.data import Scenes, to_tensor
from layerdiffusion.miniature.training import Plan, Rates, autocast, fit

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

CONFIG = dict(
    latent_channels=16,
    encoder_block_out_channels=(64, 64, 64, 64),
    num_encoder_blocks=(0, 0, 3, 2),
    decoder_block_out_channels=(64, 64, 64, 64),
    num_decoder_blocks=(2, 4, 1, 0),
    scaling_factor=1.0,
)
CROP, BATCH = 64, 24
LATENT_NOISE = 0.08
RATES = Rates(lr=2e-3, weight_decay=0.0, cooldown=0.3, muon=True)


def build() -> AutoencoderTiny:
    """A fresh autoencoder whose residual branches start at zero."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(**CONFIG)
    for name, module in vae.named_modules():
        if name.endswith("conv.4"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return vae


def crops(scenes: Scenes, rng: np.random.Generator, count: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops (N, 3, CROP, CROP), two in three of them on the subject, and their masks (N, 1, CROP, CROP)."""
    side = scenes.images.shape[1]
    images, masks = [], []
    for i in rng.integers(len(scenes), size=count):
        mask = scenes.masks[i, 0]
        corner = rng.integers(0, side - CROP + 1, 2)
        if rng.random() < 0.67 and mask.any():
            ys, xs = np.nonzero(mask)
            at = int(rng.integers(len(ys)))
            corner = np.clip(np.array([ys[at], xs[at]]) - rng.integers(8, CROP - 8, 2), 0, side - CROP)
        y, x = corner
        turn = slice(None, None, -1 if rng.random() < 0.5 else 1)
        images.append(scenes.images[i, y : y + CROP, x : x + CROP][:, turn])
        masks.append(mask[y : y + CROP, x : x + CROP][:, turn])
    return to_tensor(np.stack(images)), torch.from_numpy(np.stack(masks))[:, None].float()


def reconstruction_loss(decoded: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L1, squared error and difference of gradients, the subject counting three times."""
    weight = (1 + 2 * mask) / (1 + 2 * mask.mean())
    error = decoded.float() - wanted
    loss = (weight * error.abs()).mean() + 2 * (weight * error.square()).mean()
    for axis in (2, 3):
        loss = loss + 0.5 * error.diff(dim=axis).abs().mean()
    return loss


def train(scenes: Scenes, plan: Plan, rates: Rates | None = None, start: AutoencoderTiny | None = None):
    """Train on crops of `scenes` for `plan.minutes`; the averaged weights, an `AutoencoderTiny` in float32.

    `start`: a trained one, of which the decoder alone is trained on: latents stay what they are, and so does every
    diffusion model that was trained on them.
    """
    torch.manual_seed(plan.seed)
    vae = (build() if start is None else start).to(plan.device)

    def loss_of(step: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        wanted, mask = (x.to(plan.device) for x in crops(scenes, rng))
        with torch.set_grad_enabled(start is None):
            latents = vae.encoder(wanted.contiguous(memory_format=torch.channels_last)).float()
        spread = latents.square().mean().sqrt()
        regular = latents.mean((0, 2, 3)).square().mean() + (spread - 1).square()
        noise = torch.randn(latents.shape, generator=generator).to(plan.device)
        if step % 5 == 4 and start is None:
            latents, wanted, mask = (F.avg_pool2d(x, 2) for x in (latents, wanted, mask))
            noise = noise[..., ::2, ::2]
        noisy = latents + LATENT_NOISE * spread.detach() * noise
        return reconstruction_loss(vae.decoder(noisy), wanted, mask) + 0.05 * regular

    if start is None:
        fit("vae", nn.ModuleDict({"vae": vae}), loss_of, plan, rates or RATES)
    else:
        fit(
            "decoder",
            nn.ModuleDict({"decoder": vae.decoder.requires_grad_(True)}),
            loss_of,
            plan,
            rates or RATES.continued(),
        )
    return vae


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: np.ndarray, batch: int = 64, dtype=torch.bfloat16) -> torch.Tensor:
    """uint8 (N, H, W, 3) to scaled latents (N, C, H/8, W/8) in `dtype`, on the CPU."""
    vae = vae.eval()
    latents = []
    for part in torch.from_numpy(images).split(batch):
        pixels = to_tensor(part.numpy()).to(vae.device, memory_format=torch.channels_last)
        with autocast(vae.device):
            latents.append((vae.encode(pixels).latents * vae.config.scaling_factor).to("cpu", dtype))
    return torch.cat(latents)
