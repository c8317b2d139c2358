"""Previews of stage 3: of a large autoencoder's latents without it, of a small one's by it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from tiny import noise_picture
from torch import nn


class LinearAutoencoder:
    """Its latents are the colours of 8 × 8 pixels, mixed."""

    config = SimpleNamespace(scaling_factor=0.5, shift_factor=0.25, block_out_channels=(1,) * 4, latent_channels=4)
    dtype = torch.float32

    def __init__(self) -> None:
        self.mixed = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
        self.encoded = 0

    def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
        self.encoded += 1
        latents = torch.einsum("oc,bchw->bohw", self.mixed, nn.functional.avg_pool2d(pixels, 8)) + 0.1
        return SimpleNamespace(latents=latents)


def test_a_large_autoencoders_latents_are_seen_without_it(tiny_models):
    models = replace(tiny_models, vae=LinearAutoencoder(), size=512, _lazy={})
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    latents = models.encode(image.resize((72, 48), Image.Resampling.NEAREST))
    for count in (1, 2):
        *_, seen = models.preview(latents.expand(count, -1, -1, -1))
    assert seen.size == (72, 48) and models.vae.encoded == 2, "one fit, and no decoder"
    wanted = np.asarray(image.resize(seen.size, Image.Resampling.BICUBIC), int)
    assert np.abs(np.asarray(seen, int) - wanted).max() <= 2


def test_a_small_autoencoders_are_decoded(tiny_v_models):
    latents = tiny_v_models.encode(noise_picture(1).resize((64, 64)))
    (seen,), (decoded,) = tiny_v_models.preview(latents), tiny_v_models.decode(latents)
    assert np.array_equal(seen, decoded)
