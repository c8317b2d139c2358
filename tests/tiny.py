"""A seeded random Stable Diffusion of a few thousand parameters, as a diffusers folder, in both kinds of prediction."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.settings import Settings

ensure_torchvision()  # before diffusers and transformers

TOKENS = 24
WIDTH = 12
XL_WIDTH, XL_POOLED = 16, 20  # of the second encoder

# What a test needs to see every stage at work, in well under a second.
QUICK = Settings(
    embedding_steps=4,
    embedding_lr=1e-2,
    finetune_steps=3,
    finetune_lr=1e-3,
    sampling_steps=6,
    seeds=(0, 1),
    shape="square",
)

# A test's `either_models` are both Stable Diffusion 1.x and SDXL.
every_family = pytest.mark.parametrize("either_models", ["tiny", "tiny_v", "tiny_xl"], indirect=True)


def tiny_unet(**changes):
    from diffusers import UNet2DConditionModel

    config = dict(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
    )
    return UNet2DConditionModel(**{**config, **changes})


def tiny_vae(kind: str):
    from diffusers import AutoencoderKL, AutoencoderTiny

    if kind == "AutoencoderTiny":
        return AutoencoderTiny(
            latent_channels=4,
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=0.18215,
    )


def tiny_tokenizer():
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *string.digits, ",", ".", "-", "'"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=TOKENS)


def stable_diffusion_scheduler(prediction_type: str = "epsilon"):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
    )


def save_tiny_model(folder: Path, prediction_type: str = "epsilon", vae: str = "AutoencoderKL") -> Path:
    """Write a random model as `StableDiffusionPipeline.save_pretrained` does; the same one every time."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                projection_dim=WIDTH,
                bos_token_id=len(tokenizer) - 2,
                eos_token_id=len(tokenizer) - 1,
            )
        )
        StableDiffusionPipeline(
            vae=tiny_vae(vae),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=tiny_unet(),
            scheduler=stable_diffusion_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def save_tiny_clip(folder: Path) -> Path:
    """Add a random CLIP to a model's folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TOKENS,
        "bos_token_id": len(tokenizer) - 2,
        "eos_token_id": len(tokenizer) - 1,
    }
    pictures = {**sizes, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(text_config={**sizes, **words}, vision_config=pictures, projection_dim=8))
    clip.save_pretrained(folder / "clip")
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer).save_pretrained(folder / "clip")
    return folder


def save_tiny_xl(folder: Path, **index) -> Path:
    """Write a random SDXL as `StableDiffusionXLPipeline.save_pretrained` does; `index` changes its model_index.json."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def words(width: int) -> CLIPTextConfig:
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": XL_POOLED}
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
            **sizes,
        )

    tokenizer, second = tiny_tokenizer(), tiny_tokenizer()
    second.pad_token = "'"  # SDXL's pads with another token than the first
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionXLPipeline(
            vae=tiny_vae("AutoencoderKL"),
            text_encoder=CLIPTextModel(words(WIDTH)),
            text_encoder_2=CLIPTextModelWithProjection(words(XL_WIDTH)),
            tokenizer=tokenizer,
            tokenizer_2=second,
            unet=tiny_unet(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                cross_attention_dim=WIDTH + XL_WIDTH,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + XL_POOLED,
            ),
            scheduler=stable_diffusion_scheduler(),
        )
        pipeline.register_to_config(**index)
        pipeline.save_pretrained(folder)
    return folder


def noise_picture(seed: int, width: int = 80, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def edit_of_noise(side: int) -> Edit:
    """Two square pictures of noise, the subject in the middle of one and around it in the other."""
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    photo, reference = (noise_picture(seed, side, side) for seed in range(2))
    return Edit(photo, mask, reference, ~mask, object_prompt="a dog jumps", background_prompt="on ice")
