"""Stable Diffusion v1.4's architecture at its true size, and the models of it on whatever device there is."""

from pathlib import Path
from typing import Any

import torch
from tiny import tiny_tokenizer

from layerdiffusion.models.family import Network, StableDiffusion
from layerdiffusion.models.load import assemble
from layerdiffusion.models.models import Models
from layerdiffusion.models.parts import Parts
from layerdiffusion.models.profile import Profile

# The configs that CompVis/stable-diffusion-v1-4 is published with, less what is the same in every release.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def stable_diffusion(profile: Profile, size: int = 512) -> Models:
    """The models as the loader places them, of fake tensors; to be called while there is a `fake_card`."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(UNET), AutoencoderKL.from_config(VAE)
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
    family = StableDiffusion(placed(text_encoder), true_tokenizer())
    scheduler = DDIMScheduler.from_config({**SCHEDULER, "clip_sample": False})
    parts = Parts(placed(unet), placed(vae), family, scheduler)
    return assemble("stable-diffusion", parts, Path("/nowhere"), profile, size)


def placed(network: Network) -> Network:
    """The network of the meta device as a loaded one is: on the CPU, frozen, in eval mode."""
    return network.to_empty(device="cpu").requires_grad_(False).eval()


def true_tokenizer() -> Any:
    """A tokenizer whose prompts have CLIP's length; its few ids are among the 49,408."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 77
    return tokenizer
