"""The miniature's text encoder and UNet, trained together on the latents of drawn scenes and their captions."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from layerdiffusion.miniature import tokenizer as words
from layerdiffusion.miniature.autoencoder import encode
from layerdiffusion.miniature.captions import training_caption
from layerdiffusion.miniature.training import Plan, Rates, fit
from layerdiffusion.miniature.world import Scene, draw, held_out

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

BATCH = 128
NO_CAPTION = 0.1  # the share of pictures trained with "", for classifier-free guidance
SNR_CLAMP = 5.0
SUBJECT_WEIGHT = 5.0  # of the loss where the subject is, to 1 elsewhere: a tenth of the picture, and all its detail
RATES = Rates(lr=2.5e-3, ema=0.999, cooldown=0.35, muon=True)
EMPTY = 0.08  # the share of scenes with nobody in them
FRESH = 4  # scenes drawn anew for a step: what drawing and encoding cost is a small part of it
FRESH_FROM, SEEDS_A_SCENE = 100_000_000, 16
SHARD = "9MB"  # a Space takes no file over 10 MB without LFS

LATENT_SIDE = 16
UNET = dict(
    sample_size=LATENT_SIDE,
    block_out_channels=(64, 128, 192),
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
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = words.build()
    special = words.special_tokens(tokenizer)
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
    from diffusers import StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.unet.set_attn_processor(AttnProcessor())
    return pipeline


def snr_weight(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Roots of the v-prediction loss's Min-SNR weights (Hang et al. 2023, https://arxiv.org/abs/2303.09556), (T,).

    Without the root, the noisiest two fifths of the steps, where outlines are decided, have a fiftieth of the weight.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return (snr.clamp(max=SNR_CLAMP) / (snr + 1)).sqrt()


def subject_weights(masks: np.ndarray, side: int) -> torch.Tensor:
    """The loss's weights by place, (2, N, 1, side, side) for scenes and their mirror images, from masks (N, K, H, W).

    A weight by place leaves the best prediction what it is: it only says where the error counts.
    """
    anybody = torch.from_numpy(masks.any(1)).float()[:, None]
    share = nn.functional.adaptive_max_pool2d(anybody, side)
    weights = 1 + (SUBJECT_WEIGHT - 1) * share
    return torch.stack([weights, weights.flip(-1)])


class Pool:
    """The scenes that a step draws its batch from, a window that moves on with the steps.

    At step s they are fresh scenes s × `FRESH` to s × `FRESH` + `size`, whenever training was stopped and resumed.
    `latents`: float32 (2, size, C, h, w), of the scenes and of their mirror images; `places`: (2, size, 1, h, w),
    see `subject_weights`; `attributes`: `size` dicts.
    """

    def __init__(self, vae: AutoencoderTiny, size: int):
        self.vae, self.size, self.end = vae, size, 0
        side = LATENT_SIDE
        self.latents = torch.empty(2, size, vae.config.latent_channels, side, side)
        self.places = torch.empty(2, size, 1, side, side)
        self.attributes: list[dict[str, str | None]] = [{}] * size

    def move(self, step: int) -> None:
        """Draw and encode what the window of `step` has that the window before it had not."""
        end = step * FRESH + self.size
        for start in range(max(self.end, end - self.size), end, 64):
            numbers = range(start, min(start + 64, end))
            scenes = [fresh_scene(number) for number in numbers]
            images = np.stack([np.asarray(scene.image) for scene in scenes])
            masks = np.stack([scene.object_mask for scene in scenes])[:, None]
            mirrored = np.ascontiguousarray(images[:, :, ::-1])
            slots = [number % self.size for number in numbers]
            for side, pictures in enumerate((images, mirrored)):
                self.latents[side, slots] = encode(self.vae, pictures, dtype=torch.float32)
            self.places[:, slots] = subject_weights(masks, self.places.shape[-1])
            for slot, scene in zip(slots, scenes, strict=True):
                self.attributes[slot] = scene.attributes
        self.end = end


def fresh_scene(number: int) -> Scene:
    """Training scene `number` of an endless row: never a held-out combination, `EMPTY` of them with nobody in."""
    seed = FRESH_FROM + SEEDS_A_SCENE * number
    subjects = int(np.random.default_rng([seed, 99]).random() >= EMPTY)
    drawn = (draw(seed + i, subjects=subjects) for i in range(SEEDS_A_SCENE))
    return next(scene for scene in drawn if not held_out(scene.attributes))


def train(
    pipeline: StableDiffusionPipeline,
    pool: Pool,
    plan: Plan,
    rates: Rates | None = None,
    batch: int = BATCH,
) -> StableDiffusionPipeline:
    """Train the text encoder and the UNet of `pipeline` in place for `plan.minutes`; the averaged weights."""
    unet, text_encoder, tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
    modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).to(plan.device)
    alphas = pipeline.scheduler.alphas_cumprod.to(plan.device)
    weights = snr_weight(alphas)

    def loss_of(step: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        pool.move(step)
        chosen = rng.integers(pool.size, size=batch)
        mirrored = rng.integers(2, size=batch)
        x0 = pool.latents[mirrored, chosen].to(plan.device)
        captions = ["" if rng.random() < NO_CAPTION else training_caption(pool.attributes[i], rng) for i in chosen]
        embeddings = text_encoder(words.encode(tokenizer, captions).to(plan.device)).last_hidden_state
        # Stratified over the batch: every step sees the whole range of noise.
        t = ((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * len(alphas)).long()
        t = t.to(plan.device)
        noise = torch.randn(x0.shape, generator=generator).to(plan.device)
        alpha, sigma = (a.view(-1, 1, 1, 1) for a in (alphas[t].sqrt(), (1 - alphas[t]).sqrt()))
        v = alpha * noise - sigma * x0
        predicted = unet(alpha * x0 + sigma * noise, t, embeddings).sample.float()
        where = pool.places[mirrored, chosen].to(plan.device)
        error = (where * (predicted - v).square()).mean((1, 2, 3))
        return (weights[t] * error).mean() / (weights.mean() * pool.places.mean())

    fit("diffusion", modules, loss_of, plan, rates or RATES)
    return pipeline


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline as a diffusers folder: float16 safetensors, every file under 10 MB.

    The text encoder's config asks for float32 all the same: transformers loads what the config says, diffusers the
    other networks in float32 unless told otherwise, and a pipeline of two dtypes draws nothing.
    """
    half = pipeline.to(dtype=torch.float16)
    for name in ("vae", "unet", "text_encoder"):
        for old in (folder / name).glob("*.safetensors*"):
            old.unlink()
    half.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    pipeline.to(dtype=torch.float32)
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config[next((key for key in ("dtype", "torch_dtype") if key in config), "dtype")] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
