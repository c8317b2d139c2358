"""Imagic (Kawar et al. 2023, https://arxiv.org/abs/2210.09276): the whole prompt and the whole network fitted to
the photo, then sampled between what the words mean and what the photo made of them.

Its two fits are stages 1 and 2 of ours with a single embedding, a single picture and no mask. Of diffusers' community
pipeline it keeps the arithmetic, without its two traps: gradients that stay scaled, and noise that no seed governs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image
from torch import Tensor

from layerdiffusion import engine
from layerdiffusion.baselines import BaselineOptions, option
from layerdiffusion.cache import Run, Stage, Work, stage
from layerdiffusion.engine import FittedEmbeddings, Task, TunedWeights, finite, training_generator
from layerdiffusion.method.embeddings import optimize_embeddings
from layerdiffusion.method.finetune import composite_layers, finetune
from layerdiffusion.method.sampling import sample
from layerdiffusion.models.family import Condition
from layerdiffusion.models.tuning import TunedNetwork, Weights
from layerdiffusion.progress import OnStep, Reporter
from layerdiffusion.settings import EMBEDDINGS, FINETUNE, SAMPLING, Limit, Settings, setting_table

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models

FINETUNE_FACTOR = 4  # its steps of step B to ours of stage 2


LIMITS = {name: cast(Limit, entry.limit) for name, entry in setting_table().items()}


@dataclass(frozen=True)
class ImagicOptions(BaselineOptions):
    """`alpha` is Imagic's η: 0 samples at the optimised embedding, 1 at the prompt's own, more goes beyond it.

    Steps and learning rates left at None follow the model's own: those of our stages, and 4 times the steps of
    stage 2. On SD v1.4 these are the published 500 at 1e-3 and 1000 at 2e-6.
    """

    alpha: float = option(0.7, Limit(0.0, 2.0, 0.05))  # the middle of the paper's 0.6 to 0.8
    embedding_steps: int | None = option(None, LIMITS["embedding_steps"])
    embedding_lr: float | None = option(None, LIMITS["embedding_lr"])
    finetune_steps: int | None = option(None, LIMITS["finetune_steps"])
    finetune_lr: float | None = option(None, LIMITS["finetune_lr"])

    def resolve(self, defaults: Settings) -> ImagicOptions:
        own = {name: getattr(defaults, name) for name in ("embedding_steps", "embedding_lr", "finetune_lr")}
        own["finetune_steps"] = min(FINETUNE_FACTOR * defaults.finetune_steps, int(LIMITS["finetune_steps"].high))
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})


Options = ImagicOptions


def edit(task: Task, run: Run) -> Stage[list[Image.Image]]:
    """Steps A and B, the fits, and step C, the sampling at an interpolation of both embeddings."""
    options, settings, prompt = task.options, task.settings, task.edit.prompt
    assert isinstance(options, ImagicOptions)
    picture = task.picture(options.source)
    fitted = run(
        EMBEDDINGS,
        fit_embedding,
        prompt=prompt,
        picture=picture,
        steps=options.embedding_steps,
        lr=options.embedding_lr,
        seed=settings.training_seed,
    )
    tuned = run(
        FINETUNE,
        tune_network,
        picture=picture,
        fitted=fitted,
        steps=options.finetune_steps,
        lr=options.finetune_lr,
        tune=settings.tune,
        seed=settings.training_seed,
    )
    return run(
        SAMPLING,
        sample_pictures,
        prompt=prompt,
        fitted=fitted,
        tuned=tuned,
        alpha=options.alpha,
        size=picture.size,
        seeds=settings.seeds,
        steps=settings.sampling_steps,
        guidance_scale=settings.guidance_scale,
    )


def interpolated(target: Condition, optimized: Condition, weight: float) -> Condition:
    """ē = η · e_tgt + (1 − η) · e_opt (§3.2, step C); `weight` is η, `target` the words' own embedding.

    Both hold the same tensors of the same shapes; 0 is `optimized`, 1 `target`, and more goes beyond the words.
    """
    return target.map(lambda own, fitted: weight * own + (1 - weight) * fitted, optimized)


@stage(lambda steps, **_: Work(steps, 2), remedy="lower embedding_lr")
def fit_embedding(
    models: Models, report: Reporter, prompt: str, picture: Image.Image, steps: int, lr: float, seed: int
) -> FittedEmbeddings:
    """Step A, text embedding optimisation: e_opt, from the prompt's own embedding with the model frozen."""
    latents = models.encode(picture)
    embedding = optimize_embeddings(
        engine.frozen_denoiser(models),
        models.scheduler,
        latents,
        _everywhere(latents),
        models.embed([prompt]),
        steps=steps,
        lr=lr,
        generator=training_generator(EMBEDDINGS, seed),
        on_step=report.step,
    )
    return FittedEmbeddings(embedding.map(finite).to("cpu"), report.losses)


@stage(lambda steps, **_: Work(steps, 3), remedy="lower finetune_lr")
def tune_network(
    models: Models,
    report: Reporter,
    picture: Image.Image,
    fitted: FittedEmbeddings,
    steps: int,
    lr: float,
    tune: str,
    seed: int,
) -> TunedWeights:
    """Step B, model fine-tuning: the weights that denoise the photo best at e_opt."""
    if not steps:
        return TunedWeights({}, [])
    latents = models.encode(picture)

    def train(network: TunedNetwork) -> Weights:
        return finetune(
            network,
            models.scheduler,
            composite_layers(latents, _everywhere(latents)),
            fitted.embeddings.to(models.device),
            object_weight=1.0,
            background_weight=0.0,
            steps=steps,
            lr=lr,
            generator=training_generator(FINETUNE, seed),
            on_step=report.step,
        )

    adapters = training_generator(FINETUNE, seed).initial_seed()
    return engine.tuned_weights(models, report, train, tune=tune, seed=adapters)


@stage(lambda steps, seeds, **_: Work(steps, 2 * len(seeds)))
def sample_pictures(
    models: Models,
    report: Reporter,
    prompt: str,
    fitted: FittedEmbeddings,
    tuned: TunedWeights,
    alpha: float,
    size: tuple[int, int],
    seeds: tuple[int, ...],
    steps: int,
    guidance_scale: float,
) -> list[Image.Image]:
    """Step C: a picture for each seed, at the interpolated embedding."""
    words = models.embed([prompt, None])
    embedding = interpolated(words[:1], fitted.embeddings.to(models.device), alpha)
    denoiser = engine.sampling_denoiser(models, tuned.weights)

    def latents_of(noise: Tensor, on_step: OnStep) -> Tensor:
        return sample(
            denoiser,
            models.scheduler,
            noise,
            embedding,
            embedding,
            words[1:],
            steps=steps,
            guidance_scale=guidance_scale,
            schedule="edit",
            on_step=on_step,
        )

    return engine.sampled_pictures(models, report, seeds, size, latents_of)


def _everywhere(latents: Tensor) -> Tensor:
    return torch.ones_like(latents[:, :1])
