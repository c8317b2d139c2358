"""Small random SAMs, and pictures to click on."""

import numpy as np
import torch

from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.sam import SamConfig, build_sam

ensure_torchvision()


SMALL = SamConfig(
    image_size=64,
    patch_size=8,
    embed_dim=32,
    depth=3,
    num_heads=2,
    mlp_ratio=2.0,
    window_size=3,
    global_attn_indexes=(1,),
    out_chans=32,
    mask_in_chans=8,
    decoder_depth=1,
    decoder_num_heads=2,
    decoder_mlp_dim=48,
    iou_head_depth=2,
    iou_head_hidden_dim=24,
)


def random_sam(config: SamConfig = SMALL, seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam(config)
        for parameter in sam.parameters():  # fresh relative positions are zero, which would hide a mistake in them
            torch.nn.init.normal_(parameter, std=0.15)
    return sam


def picture(width: int = 80, height: int = 56, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
