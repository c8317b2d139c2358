"""Plug-and-Play (Tumanyan et al. 2023, https://arxiv.org/abs/2211.12572): the photo inverted, and its features and
self-attention given to the new picture while that is sampled.

Where they go in, by the authors' code for Stable Diffusion (https://github.com/MichalGeyer/pnp-diffusers): the
decoder's blocks but the deepest one. In the first of these, the features are what the second residual layer adds to
its input (`up_blocks[1].resnets[1].conv2`); from that layer on, every self-attention takes the photo's q and k. A
decoder with fewer layers has it in its last layer, and one with a single block in that block.

Seeds. Plug-and-Play samples from the inverted photo, x_T, and has no noise of its own: all its pictures of an edit
are one. For several to choose from, or to measure, `mixed` lays a small share of each seed's noise into x_T:
x_T' = √(1 − s) · x_T + √s · n. The photo's features are injected as before, so that the layout stays; a share of 0 is
the authors' own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerdiffusion.method.objective import OnStep, Step, frozen, predict
from layerdiffusion.method.sampling import ddim_scheduler, guided_prediction


def inversion_timesteps(timesteps: list[int], steps: int) -> list[int]:
    """The rising timesteps of an inversion in about `steps` steps that passes through all sampling `timesteps`."""
    goals = sorted(timesteps)
    between = max(1, steps // len(goals))
    ladder, below = set(goals), 0
    for goal in goals:
        ladder |= {round(below + (goal - below) * step / between) for step in range(1, between)}
        below = goal
    return sorted(ladder - {0} | set(goals))


@torch.no_grad()
def invert(
    unet: nn.Module,
    scheduler: Any,
    latents: Tensor,
    embedding: Tensor,
    *,
    sampling_steps: int,
    inversion_steps: int,
    precision: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Tensor:
    """DDIM backwards, without guidance: the photo's latents (N, C, h, w) at each of N sampling steps, noisiest first.

    `latents` are the photo's (1, C, h, w), `embedding` (1, L, D) its prompt's, by the authors the empty one's. The
    network is asked at the timestep that each step leads to, as diffusers' `DDIMInverseScheduler` has it.
    """
    ddim = ddim_scheduler(scheduler, sampling_steps)
    kept = ddim.timesteps.tolist()
    ladder = inversion_timesteps(kept, inversion_steps)
    latents, level = latents.float(), ddim.final_alpha_cumprod.to(latents.device)
    passed: dict[int, Tensor] = {}
    with frozen(unet):
        for index, timestep in enumerate(ladder, 1):
            at = torch.tensor([timestep], device=latents.device)
            prediction = predict(unet, latents, at, embedding.float(), precision)
            x0, noise = _clean_and_noise(scheduler.config.prediction_type, latents, prediction, level)
            level = ddim.alphas_cumprod[timestep].to(latents.device)
            latents = level.sqrt() * x0 + (1 - level).sqrt() * noise
            if timestep in kept:
                passed[timestep] = latents
            if on_step:
                on_step(Step(index, len(ladder)))
    return torch.cat([passed[timestep] for timestep in kept])


def _clean_and_noise(kind: str, latents: Tensor, prediction: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and ε as the prediction has them, for latents with ᾱ = `level`."""
    signal, spread = level.sqrt(), (1 - level).sqrt()
    if kind == "epsilon":
        return (latents - spread * prediction) / signal, prediction
    if kind == "v_prediction":
        return signal * latents - spread * prediction, signal * prediction + spread * latents
    return prediction, (latents - signal * prediction) / spread


def mixed(inverted: Tensor, noise: Tensor, noise_share: float) -> Tensor:
    """Where the seeds start: √(1 − s) · x_T + √s · n for each of `noise` (B, C, h, w), from x_T (1, C, h, w)."""
    return (1 - noise_share) ** 0.5 * inverted + noise_share**0.5 * noise


@dataclass(frozen=True)
class Sites:
    """Names of the modules of a UNet that the photo's features and self-attention are given to."""

    features: str
    attention: tuple[str, ...]


def sites_of(unet: nn.Module) -> Sites:
    """By depth, on any `UNet2DConditionModel` of the family; on SD v1.4 the authors' own."""
    blocks = unet.up_blocks
    first = min(1, len(blocks) - 1)
    layer = min(1, len(blocks[first].resnets) - 1)
    attention = [
        f"up_blocks.{index}.attentions.{number}.transformer_blocks.{depth}.attn1"
        for index in range(first, len(blocks))
        for number, transformer in enumerate(getattr(blocks[index], "attentions", None) or ())
        for depth, block in enumerate(transformer.transformer_blocks)
        if (index > first or number >= layer) and not block.attn1.is_cross_attention
    ]
    return Sites(f"up_blocks.{first}.resnets.{layer}.conv2", tuple(attention))


@dataclass
class Injection:
    """What the network's next pass takes from the first picture of its batch, the source, for all the others."""

    features: bool = False
    attention: bool = False


class SourceAttention:
    """Self-attention in which every picture looks around as the source does: the source's q and k, its own v."""

    def __init__(self, original: Any, injection: Injection) -> None:
        self.original, self.injection = original, injection

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self.injection.attention:
            return self.original(attn, hidden_states, *args, **kwargs)
        source = hidden_states[:1]
        query, key, value = (  # (B or 1, heads, tokens, width)
            tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for tensor in (attn.to_q(source), attn.to_k(source), attn.to_v(hidden_states))
        )
        query, key = (tensor.expand(len(hidden_states), -1, -1, -1) for tensor in (query, key))
        attended = F.scaled_dot_product_attention(query, key, value, scale=attn.scale).transpose(1, 2).flatten(2)
        for module in attn.to_out:  # the projection, and its dropout
            attended = module(attended)
        return attended


@contextlib.contextmanager
def injection_into(unet: nn.Module) -> Iterator[Injection]:
    """Make the network listen to the `Injection` it yields; at the end everything in it is as it was."""
    injection, sites = Injection(), sites_of(unet)

    def source_features(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output[:1].expand_as(output) if injection.features else output

    attentions = [unet.get_submodule(name) for name in sites.attention]
    originals = [attention.processor for attention in attentions]
    hook = unet.get_submodule(sites.features).register_forward_hook(source_features)
    try:
        for attention, original in zip(attentions, originals, strict=True):
            attention.set_processor(SourceAttention(original, injection))
        yield injection
    finally:
        hook.remove()
        for attention, original in zip(attentions, originals, strict=True):
            attention.set_processor(original)


@torch.no_grad()
def plug_and_play(
    unet: nn.Module,
    scheduler: Any,
    source: Tensor,
    start: Tensor,
    embedding: Tensor,
    empty_embedding: Tensor,
    source_embedding: Tensor,
    *,
    feature_share: float,
    attention_share: float,
    guidance_scale: float,
    precision: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Tensor:
    """Clean latents (B, C, h, w) by DDIM, η = 0, from `start` (B, C, h, w), the photo's features injected.

    `source` (N, C, h, w) is what `invert` returned, one for each of N steps; the embeddings are (1, L, D), that of
    the source the one it was inverted with. Features are injected in the first `feature_share` of the steps,
    self-attention in the first `attention_share`. While anything is, each pass has the source beside the pictures,
    with and without their condition.
    """
    steps = len(source)
    ddim = ddim_scheduler(scheduler, steps)
    latents = start.float()
    embedding, empty_embedding = embedding.float(), empty_embedding.float()
    with frozen(unet), injection_into(unet) as injection:
        for index, timestep in enumerate(ddim.timesteps):
            injection.features = index < int(steps * feature_share)
            injection.attention = index < int(steps * attention_share)
            if injection.features or injection.attention:
                batch, words = _beside(latents, embedding, empty_embedding, guidance_scale)
                batch, words = torch.cat([source[index : index + 1], batch]), torch.cat([source_embedding, words])
                prediction = predict(unet, batch, timestep, words, precision)[1:]
                if guidance_scale != 1:
                    without, with_condition = prediction.chunk(2)
                    prediction = without + guidance_scale * (with_condition - without)
            else:
                prediction = guided_prediction(
                    unet, latents, timestep, embedding, empty_embedding, guidance_scale, precision
                )
            moved = ddim.step(prediction, timestep, latents, eta=0.0)
            latents = moved.prev_sample
            if on_step:
                on_step(Step(index + 1, steps, x0=moved.pred_original_sample))
    return latents


def _beside(latents: Tensor, embedding: Tensor, empty: Tensor, guidance_scale: float) -> tuple[Tensor, Tensor]:
    """What classifier-free guidance asks the network: the latents without and with their condition."""
    count = len(latents)
    if guidance_scale == 1:
        return latents, embedding.expand(count, -1, -1)
    return torch.cat([latents] * 2), torch.cat([empty.expand(count, -1, -1), embedding.expand(count, -1, -1)])
