"""The miniature's text encoder and UNet, trained together on the latents of drawn scenes and their captions."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from layerdiffusion.miniature import tokenizer as words
from layerdiffusion.miniature.autoencoder import encode
from layerdiffusion.miniature.data import Scenes
from layerdiffusion.miniature.training import Plan, Rates, fit
from layerdiffusion.miniature.world import training_caption
from layerdiffusion.models._torchvision import ensure_torchvision

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

BATCH = 64
NO_CAPTION = 0.1  # the share of pictures trained with "", for classifier-free guidance
SNR_CLAMP = 5.0
SUBJECT_WEIGHT = 5.0  # of the loss where the subject is, to 1 elsewhere: a tenth of the picture, and all its detail
SHARD = "9MB"  # a Space takes no file over 10 MB without LFS

UNET = dict(
    sample_size=16,
    block_out_channels=(96, 160, 192),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=4,  # diffusers' name for the number of heads
    cross_attention_dim=128,
    use_linear_projection=True,
    resnet_time_scale_shift="scale_shift",
)
TEXT = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, projection_dim=128)
SCHEDULE = dict(  # Stable Diffusion's, but for the prediction
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
    prediction_type="v_prediction",
)


def build(vae: AutoencoderTiny) -> StableDiffusionPipeline:
    """An untrained pipeline around `vae`: its latent channels decide the UNet's."""
    ensure_torchvision()
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = words.build()
    special = dict(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=words.MAX_LENGTH, **TEXT, **special)
    )
    channels = vae.config.latent_channels
    unet = UNet2DConditionModel(in_channels=channels, out_channels=channels, **UNET)
    unet.set_attn_processor(AttnProcessor())  # on a CPU its backward is faster than the fused one's
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        DDIMScheduler(**SCHEDULE),
        None,
        None,
        requires_safety_checker=False,
    )


def load(folder: Path) -> StableDiffusionPipeline:
    """The trained pipeline in `folder` in float32, to train on: where the checkpoint is gone, weights are not."""
    ensure_torchvision()
    from diffusers import StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.unet.set_attn_processor(AttnProcessor())
    return pipeline


def snr_weight(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Min-SNR weights of the v-prediction loss (Hang et al. 2023, https://arxiv.org/abs/2303.09556), (T,)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=SNR_CLAMP) / (snr + 1)


def subject_weights(masks: np.ndarray, side: int) -> torch.Tensor:
    """The loss's weights by place, (2, N, 1, side, side) for scenes and their mirror images, from masks (N, K, H, W).

    A weight by place leaves the best prediction what it is: it only says where the error counts.
    """
    anybody = torch.from_numpy(masks.any(1)).float()[:, None]
    share = nn.functional.adaptive_max_pool2d(anybody, side)
    weights = 1 + (SUBJECT_WEIGHT - 1) * share
    return torch.stack([weights, weights.flip(-1)])


def latents_of(vae: AutoencoderTiny, scenes: Scenes, folder: Path) -> torch.Tensor:
    """Latents of the scenes and of their mirror images, bfloat16 (2, N, C, h, w), kept in `folder` for a resume."""
    sign = hashlib.sha256(scenes.images[:64].tobytes() + str(len(scenes)).encode())
    for weight in vae.state_dict().values():
        sign.update(weight.float().cpu().numpy().tobytes())
    kept = folder / "latents.pt"
    if kept.exists():
        saved = torch.load(kept, weights_only=True)
        if saved["sign"] == sign.hexdigest():
            return saved["latents"]
    mirrored = np.ascontiguousarray(scenes.images[:, :, ::-1])
    latents = torch.stack([encode(vae, scenes.images), encode(vae, mirrored)])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"sign": sign.hexdigest(), "latents": latents}, kept)
    return latents


def train(
    pipeline: StableDiffusionPipeline,
    scenes: Scenes,
    plan: Plan,
    rates: Rates | None = None,
    batch: int = BATCH,
) -> StableDiffusionPipeline:
    """Train the text encoder and the UNet of `pipeline` in place for `plan.minutes`; the averaged weights."""
    latents = latents_of(pipeline.vae, scenes, plan.folder)
    unet, text_encoder, tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
    modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).to(plan.device)
    alphas = pipeline.scheduler.alphas_cumprod.to(plan.device)
    weights = snr_weight(alphas)
    places = subject_weights(scenes.masks, latents.shape[-1])

    def loss_of(step: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        chosen = rng.integers(len(scenes), size=batch)
        mirrored = rng.integers(2, size=batch)
        x0 = latents[mirrored, chosen].float().to(plan.device)
        captions = ["" if rng.random() < NO_CAPTION else training_caption(scenes.attributes[i], rng) for i in chosen]
        embeddings = text_encoder(words.encode(tokenizer, captions).to(plan.device)).last_hidden_state
        # Stratified over the batch: every step sees the whole range of noise.
        t = ((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * len(alphas)).long()
        t = t.to(plan.device)
        noise = torch.randn(x0.shape, generator=generator).to(plan.device)
        alpha, sigma = (a.view(-1, 1, 1, 1) for a in (alphas[t].sqrt(), (1 - alphas[t]).sqrt()))
        v = alpha * noise - sigma * x0
        predicted = unet(alpha * x0 + sigma * noise, t, embeddings).sample.float()
        where = places[mirrored, chosen].to(plan.device)
        error = (where * (predicted - v).square()).mean((1, 2, 3))
        return (weights[t] * error).mean() / (weights.mean() * places.mean())

    fit("diffusion", modules, loss_of, plan, rates or Rates(lr=2e-3, ema=0.9995, cooldown=0.35, muon=True))
    return pipeline


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline as a diffusers folder: float16 safetensors, every file under 10 MB."""
    half = pipeline.to(dtype=torch.float16)
    for name in ("vae", "unet", "text_encoder"):
        for old in (folder / name).glob("*.safetensors*"):
            old.unlink()
    half.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    pipeline.to(dtype=torch.float32)
