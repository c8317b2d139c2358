"""SDXL's architecture at its true size, and the models of it on whatever device there is."""

from pathlib import Path
from typing import Any

import torch
from sd14 import TEXT_ENCODER, placed, true_tokenizer
from sd14 import UNET as UNET_OF_SD14
from sd14 import VAE as VAE_OF_SD14

from layerdiffusion.models.family import StableDiffusionXL
from layerdiffusion.models.load import assemble
from layerdiffusion.models.models import Models
from layerdiffusion.models.parts import Parts
from layerdiffusion.models.profile import Profile

# The configs that stabilityai/stable-diffusion-xl-base-1.0 is published with, less what is the same in every release.
UNET = {
    **UNET_OF_SD14,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
VAE = {**VAE_OF_SD14, "force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025}
TEXT_ENCODER_2 = {
    **TEXT_ENCODER,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
# Parameters of the network, the autoencoder and the two encoders.
PARAMETERS = 2_567_463_684, 83_653_863, 123_060_480, 694_659_840


def networks() -> tuple[Any, ...]:
    """The network, the autoencoder and the two encoders, without contents."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        first = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
        second = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_ENCODER_2))
        return UNet2DConditionModel.from_config(UNET), AutoencoderKL.from_config(VAE), first, second


def family_of(first: Any, second: Any) -> StableDiffusionXL:
    return StableDiffusionXL(first, true_tokenizer(), second, true_tokenizer(), zeros_for_none=True, vae_factor=8)


def stable_diffusion_xl(profile: Profile) -> Models:
    """The models as the loader places them, of fake tensors; to be called while there is a `fake_card`."""
    from diffusers import DDIMScheduler

    unet, vae, *encoders = map(placed, networks())
    parts = Parts(unet, vae, family_of(*encoders), DDIMScheduler.from_config(SCHEDULER))
    return assemble("sdxl", parts, Path("/nowhere"), profile)
