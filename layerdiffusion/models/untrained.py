"""Networks of Stable Diffusion v1.4's and SAM ViT-H's architecture with seeded random weights, to be measured alone.

Each comes tiny as well, of the same parts, so that what measures them can be tested.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.family import Network, StableDiffusion
from layerdiffusion.models.parts import BUILDING, Parts

TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 4,
}
BLOCK = 2**20  # as much noise as is drawn for all weights, over and over: a minute is spared


def untrained_parts(tokenizer: Any, tiny: bool = False) -> Parts:
    """The parts of a Stable Diffusion 1.x, float32 on the CPU; the same ones every time."""
    ensure_torchvision()
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = TINY_UNET if tiny else {"sample_size": 64, "cross_attention_dim": 768}
    width, heads, layers = (12, 2, 1) if tiny else (768, 12, 12)
    words = CLIPTextConfig(
        vocab_size=len(tokenizer) if tiny else 49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vae = {
        "block_out_channels": (4, 4, 8, 8) if tiny else (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1 if tiny else 2,
        "norm_num_groups": 2 if tiny else 32,
        "sample_size": 64 if tiny else 512,
    }
    with BUILDING, torch.device("meta"):
        networks = UNet2DConditionModel(**unet), AutoencoderKL(**vae), CLIPTextModel(words)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    unet, vae, text_encoder = map(_filled, networks)
    return Parts(unet, vae, StableDiffusion(text_encoder, tokenizer), scheduler)


def untrained_sam(tiny: bool = False) -> Any:
    """SAM, ViT-H, in eval mode on the CPU."""
    from layerdiffusion.models.sam import SamConfig, build_sam

    large = SamConfig(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31))
    small = SamConfig(
        image_size=64, patch_size=8, embed_dim=16, depth=2, num_heads=2, window_size=0, out_chans=32, mask_in_chans=4
    )
    with BUILDING, torch.device("meta"):
        sam = build_sam(small if tiny else large)
    sam = _filled(sam)
    for name in ("pixel_mean", "pixel_std"):  # no weights, but constants of the config
        getattr(sam, name).copy_(torch.tensor(getattr(large, name)).view(-1, 1, 1))
    return sam


def _filled(network: Network) -> Network:
    """The network of the meta device with weights of the size that keeps a trained one's activations in bounds."""
    noise = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))
    network.to_empty(device="cpu")
    for module in network.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            _fill(module, name, tensor, noise)
    return network.requires_grad_(False).eval()


@torch.no_grad()
def _fill(module: nn.Module, name: str, tensor: Tensor, noise: Tensor) -> None:
    if not tensor.is_floating_point():  # positions of words
        tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
    elif tensor.dim() < 2:
        tensor.fill_(float(name == "weight"))
    else:
        fan_in = tensor[0].numel() if name == "weight" else 2500  # other tables, of positions, are about 0.02
        for row in tensor.view(-1).split(BLOCK):
            row.copy_(noise[: len(row)] * 0.7 * fan_in**-0.5)
