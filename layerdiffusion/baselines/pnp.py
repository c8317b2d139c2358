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
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from layerdiffusion import engine
from layerdiffusion.baselines import SHARE, BaselineOptions, option
from layerdiffusion.cache import Run, Stage, Work, stage
from layerdiffusion.engine import Task, finite
from layerdiffusion.method.sampling import ddim_scheduler, denoise, guided_noise_pred
from layerdiffusion.method.types import NoiseScheduler
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition, Network
from layerdiffusion.models.tuning import with_weights
from layerdiffusion.progress import OnStep, Reporter, Step
from layerdiffusion.settings import SAMPLING, Limit

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models

SELF_ATTENTION = r"up_blocks\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.\d+\.attn1"


@dataclass(frozen=True)
class PnPOptions(BaselineOptions):
    """The shares of the sampling steps, counted from the first, in which the photo's features (0.8) and its
    self-attention (0.5) take the place of the new picture's own.

    `inversion_steps` is about how many steps the photo is inverted in, and at least as many as are sampled; the authors
    take 999. `noise_share` is where seeds come in, see above: at 0, as its authors run it, every seed gives the same
    picture.
    """

    feature_share: float = option(0.8, SHARE)
    attention_share: float = option(0.5, SHARE)
    noise_share: float = option(0.05, SHARE)
    inversion_steps: int = option(200, Limit(1, 1000, 1, whole=True))

    @property
    def source_share(self) -> float:
        """The share of the sampling steps in which the photo is in the batch."""
        return max(self.feature_share, self.attention_share)


Options = PnPOptions


def unsuited(models: Models) -> str | None:
    """Why the method doesn't apply to these models; None where it does."""
    if hasattr(models.unet, "up_blocks"):
        return None
    return f"its features are those of a UNet's decoder, and the network of {models.family.label} is a transformer"


def edit(task: Task, run: Run) -> Stage[list[Image.Image]]:
    """The inversion of the photo, and the sampling."""
    options, settings = task.options, task.settings
    assert isinstance(options, PnPOptions)
    picture, steps = task.picture(options.source), settings.sampling_steps
    inverted = run(
        "inversion",
        invert_picture,
        picture=picture,
        timesteps=ddim_scheduler(task.models.scheduler, steps).timesteps.tolist(),
        steps=steps,
        inversion_steps=options.inversion_steps,
    )
    return run(
        SAMPLING,
        sample_pictures,
        inverted=inverted,
        prompt=task.edit.prompt,
        size=picture.size,
        options=options,
        seeds=settings.seeds,
        steps=steps,
        guidance_scale=settings.guidance_scale,
    )


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
    denoiser: Denoiser,
    scheduler: NoiseScheduler,
    latents: Tensor,
    embedding: Condition,
    *,
    sampling_steps: int,
    inversion_steps: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """DDIM backwards, without guidance: the photo's latents (N, C, h, w) at each of N sampling steps, noisiest first.

    `latents` are the photo's (1, C, h, w), `embedding` its prompt's, by the authors the empty one's. The
    network is asked at the timestep that each step leads to, as diffusers' `DDIMInverseScheduler` has it; that one
    takes evenly spaced steps only, and would miss the sampling's timesteps.
    """
    ddim = ddim_scheduler(scheduler, sampling_steps)
    sampled = ddim.timesteps.tolist()
    ladder = inversion_timesteps(sampled, inversion_steps)
    latents, alpha_cumprod = latents.float(), ddim.final_alpha_cumprod.to(latents.device)
    passed: dict[int, Tensor] = {}
    for index, timestep in enumerate(ladder, 1):
        prediction = denoiser(latents, torch.tensor([timestep], device=latents.device), embedding.float())
        x0, noise = _clean_and_noise(scheduler.config.prediction_type, latents, prediction, alpha_cumprod)
        alpha_cumprod = ddim.alphas_cumprod[timestep].to(latents.device)
        latents = alpha_cumprod.sqrt() * x0 + (1 - alpha_cumprod).sqrt() * noise
        if timestep in sampled:
            passed[timestep] = latents
        if on_step:
            on_step(Step(index, len(ladder)))
    return torch.cat([passed[timestep] for timestep in sampled])


def _clean_and_noise(kind: str, latents: Tensor, prediction: Tensor, alpha_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and ε as the prediction has them, for latents at ᾱ."""
    signal, spread = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
    if kind == "epsilon":
        return (latents - spread * prediction) / signal, prediction
    if kind == "v_prediction":
        return signal * latents - spread * prediction, signal * prediction + spread * latents
    return prediction, (latents - signal * prediction) / spread


def mixed(inverted: Tensor, noise: Tensor, noise_share: float) -> Tensor:
    """Where the seeds start: √(1 − s) · x_T + √s · n for each of `noise` (B, C, h, w), from x_T (1, C, h, w)."""
    return (1 - noise_share) ** 0.5 * inverted + noise_share**0.5 * noise


class Sites(NamedTuple):
    """Names of the modules of a UNet that the photo's features and self-attention are given to."""

    features: str
    attention: tuple[str, ...]


def sites_of(unet: Network) -> Sites:
    """By depth, on any `UNet2DConditionModel`; on SD v1.4 the authors' own, from 16 × 16 cells on.

    SDXL's deepest block has 32 × 32 already, a quarter of its latents' side as SD v1.4's second one has.
    """
    blocks, side = unet.up_blocks, unet.config.sample_size
    deepest = (side if isinstance(side, int) else min(side)) // 2 ** (len(blocks) - 1)
    first = 0 if deepest >= 16 else min(1, len(blocks) - 1)
    layer = min(1, len(blocks[first].resnets) - 1)
    named = [(re.fullmatch(SELF_ATTENTION, name), name) for name, _ in unet.named_modules()]
    places = [(int(found[1]), int(found[2]), name) for found, name in named if found]
    attention = [name for block, number, name in places if block > first or (block == first and number >= layer)]
    return Sites(f"up_blocks.{first}.resnets.{layer}.conv2", tuple(attention))


@dataclass
class Injection:
    """What the network's next pass takes from the first picture of its batch, the source, for all the others."""

    features: bool = False
    attention: bool = False


# (the module, its hidden states (B, tokens, width), and what goes with them) → its output
AttentionProcessor = Callable[..., Tensor]  # type: ignore[explicit-any]


class SourceAttention:
    """Self-attention in which every picture looks around as the source does: the source's q and k, its own v."""

    def __init__(self, original: AttentionProcessor, injection: Injection) -> None:
        self.original, self.injection = original, injection

    def __call__(self, attn: Network, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
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
def injection_into(unet: Network) -> Iterator[Injection]:
    """Make the network listen to the `Injection` it yields; at the end everything in it is as it was."""
    injection, sites = Injection(), sites_of(unet)

    def source_features(module: nn.Module, args: object, output: Tensor) -> Tensor:
        return output[:1].expand_as(output) if injection.features else output

    originals = unet.attn_processors
    injected = {
        f"{name}.processor": SourceAttention(originals[f"{name}.processor"], injection) for name in sites.attention
    }
    hook = unet.get_submodule(sites.features).register_forward_hook(source_features)
    try:
        unet.set_attn_processor(originals | injected)  # which takes a dictionary apart
        yield injection
    finally:
        hook.remove()
        unet.set_attn_processor(originals)


@torch.no_grad()
def plug_and_play(
    denoiser: Denoiser,
    scheduler: NoiseScheduler,
    source: Tensor,
    start: Tensor,
    embedding: Condition,
    negative_prompt_embeds: Condition,
    source_embedding: Condition,
    *,
    feature_share: float,
    attention_share: float,
    guidance_scale: float,
    on_step: OnStep | None = None,
) -> Tensor:
    """Clean latents (B, C, h, w) by DDIM, η = 0, from `start` (B, C, h, w), the photo's features injected.

    `source` (N, C, h, w) is what `invert` returned, one for each of N steps; of each embedding there is one, that of
    the source the one it was inverted with. Features are injected in the first `feature_share` of the steps,
    self-attention in the first `attention_share`. While anything is, each pass has the source beside the pictures,
    with and without their condition.
    """
    steps = len(source)
    ddim = ddim_scheduler(scheduler, steps)
    embedding, negative = embedding.float(), negative_prompt_embeds.float()
    with injection_into(denoiser.unet) as injection:

        def predict_noise(index: int, latents: Tensor, timestep: Tensor) -> Tensor:
            injection.features = index < int(steps * feature_share)
            injection.attention = index < int(steps * attention_share)

            def beside_source(latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
                batch = torch.cat([source[index : index + 1], latents])
                return denoiser(batch, timestep, source_embedding.join(condition))[1:]

            ask = beside_source if injection.features or injection.attention else denoiser
            return guided_noise_pred(ask, latents, timestep, embedding, negative, guidance_scale)

        return denoise(ddim, start.float(), ddim.timesteps, predict_noise, on_step)


@stage(lambda steps, inversion_steps, timesteps, **_: Work(len(inversion_timesteps(timesteps, inversion_steps)), 1))
def invert_picture(
    models: Models, report: Reporter, picture: Image.Image, timesteps: list[int], steps: int, inversion_steps: int
) -> Tensor:
    """What `invert` makes of the picture, (N, C, h, w), in main memory."""
    inverted = invert(
        Denoiser(models.unet, models.profile.weights),  # the most exact: its steps are small, and their errors add up
        models.scheduler,
        models.encode(picture),
        models.embed([None]),
        sampling_steps=steps,
        inversion_steps=inversion_steps,
        on_step=report.step,
    )
    return finite(inverted).cpu()


@stage(lambda steps, seeds, options, **_: Work(steps, 2 * len(seeds) + options.source_share))
def sample_pictures(
    models: Models,
    report: Reporter,
    inverted: Tensor,
    prompt: str,
    size: tuple[int, int],
    options: PnPOptions,
    seeds: tuple[int, ...],
    steps: int,
    guidance_scale: float,
) -> list[Image.Image]:
    """A picture for each seed, the photo's features injected."""
    source, words = inverted.to(models.device), models.embed([prompt, None])
    # Modules of its own around the model's weights: nobody else's pass can meet an injection.
    denoiser = Denoiser(with_weights(models.unet, {}), models.profile.precision)

    def latents_of(noise: Tensor, on_step: OnStep) -> Tensor:
        start = mixed(source[:1], noise, options.noise_share) if options.noise_share else source[:1]
        latents = plug_and_play(
            denoiser,
            models.scheduler,
            source,
            start,
            words[:1],
            words[1:],
            words[1:],
            feature_share=options.feature_share,
            attention_share=options.attention_share,
            guidance_scale=guidance_scale,
            on_step=on_step,
        )
        return latents.expand_as(noise)

    return engine.sampled_pictures(models, report, seeds, size, latents_of)
