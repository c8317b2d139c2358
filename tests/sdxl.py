"""SDXL's architecture at its true size, and the models of it on a card that isn't there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import stable_diffusion_scheduler, tiny_tokenizer

from layerdiffusion.models.family import StableDiffusionXL
from layerdiffusion.models.load import Models, assemble
from layerdiffusion.models.parts import Parts
from layerdiffusion.models.profile import Profile

# The configs that stabilityai/stable-diffusion-xl-base-1.0 is published with, where they are not the classes' own.
UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
    "sample_size": 1024,
}
WORDS: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                         "num_attention_heads": 12, "projection_dim": 768}  # fmt: skip
WORDS_2: dict[str, Any] = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                           "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu"}  # fmt: skip


def sdxl(profile: Profile) -> Models:
    """The models as the loader places them, of fake tensors; to be called while there is a `fake_card`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        networks = (
            UNet2DConditionModel(**UNET),
            AutoencoderKL(**VAE),
            CLIPTextModel(CLIPTextConfig(**WORDS)),
            CLIPTextModelWithProjection(CLIPTextConfig(**WORDS_2)),
        )
    unet, vae, first, second = (each.to_empty(device="cpu").requires_grad_(False).eval() for each in networks)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 77
    family = StableDiffusionXL(first, tokenizer, second, tokenizer, zeros_for_none=True, vae_factor=8)
    return assemble("sdxl", Parts(unet, vae, family, stable_diffusion_scheduler()), Path("/nowhere"), profile)
