"""Latents seen without the autoencoder: a linear map from their channels to colours, fitted to the model's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIDE = 256  # of the picture that it is fitted to, at most: a thousand pixels of latents for five numbers a colour


@torch.no_grad()
def fit_colours(encode: Callable[[Image.Image], Tensor], side: int) -> Tensor:
    """(C + 1, 3): what a latent pixel's channels, and 1, are multiplied by for its red, green and blue, from −1 to 1.

    By least squares on one picture of coarse and fine patches in every colour. `encode` gives the latents (1, C, h, w)
    of a picture, `side` is that of the model's own pictures.
    """
    rng, side = np.random.default_rng(0), min(side, SIDE)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (count, count, 3), dtype=np.uint8)).resize((side, side))
        for count in (4, side // 8)
    )
    image = Image.blend(coarse, fine, 0.4)
    latents = encode(image)[0]
    pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    colours = nn.functional.interpolate(pixels, latents.shape[1:], mode="area")[0].flatten(1).T
    fitted, *_ = np.linalg.lstsq(_with_one(latents).cpu().numpy(), colours.numpy(), rcond=None)
    return torch.from_numpy(fitted).to(latents.device)


@torch.no_grad()
def linear_preview(latents: Tensor, colours: Tensor, factor: int) -> list[Image.Image]:
    """Soft RGB pictures of latents (B, C, h, w), `factor` times as large, by the `colours` of `fit_colours`."""
    pictures = []
    for one in latents.float():
        seen = (_with_one(one) @ colours / 2 + 0.5).clamp(0, 1).view(*one.shape[1:], 3)
        image = Image.fromarray((seen.cpu().numpy() * 255).round().astype(np.uint8))
        size = factor * image.width, factor * image.height
        pictures.append(image.resize(size, Image.Resampling.BICUBIC))
    return pictures


def _with_one(latents: Tensor) -> Tensor:
    """(C, h, w) as (h · w, C + 1)."""
    channels = latents.flatten(1).T
    return torch.cat([channels, torch.ones_like(channels[:, :1])], 1)
