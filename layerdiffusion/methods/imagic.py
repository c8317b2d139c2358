"""Imagic (Kawar et al. 2023, https://arxiv.org/abs/2210.09276): the whole prompt and the whole network fitted to
the photo, then sampled between what the words mean and what the photo made of them.

Its two fits are stages 1 and 2 of ours with a single embedding, a single picture and no mask. Of diffusers' community
pipeline it keeps the arithmetic, without its two traps: gradients that stay scaled, and noise that no seed governs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.method.embeddings import interpolated, optimize_embeddings
from layerdiffusion.method.finetune import composite_layers
from layerdiffusion.methods.options import ImagicOptions
from layerdiffusion.methods.stages import (
    FittedEmbeddings,
    Task,
    TunedWeights,
    frozen_network,
    off_device,
    sampled_pictures,
    tuned_network,
    tuned_weights,
)
from layerdiffusion.progress import Reporter
from layerdiffusion.runtime import Stage, finite, training_generator
from layerdiffusion.settings import EMBEDDINGS, FINETUNE, SAMPLING, Settings

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models


def stages(task: Task) -> list[Stage[object]]:
    """Steps A and B, the fits, and step C, the sampling at an interpolation of both embeddings."""
    options, settings = task.options, task.settings
    assert isinstance(options, ImagicOptions)
    picture = task.picture(options.source)

    def known(**inputs: object) -> dict[str, object] | None:
        return None if picture is None else {"prompt": task.edit.prompt, "picture": picture, **inputs}

    seed = settings.training_seed
    inputs = known(steps=options.embedding_steps, lr=options.embedding_lr, seed=seed)
    fit = Stage(EMBEDDINGS, inputs, options.embedding_steps or 0, 2, fit_embedding, "lower embedding_lr")
    inputs = known(fit=fit, steps=options.finetune_steps, lr=options.finetune_lr, tune=settings.tune, seed=seed)
    tuning = Stage(
        FINETUNE, inputs, options.finetune_steps or 0, 3, fit_network, "lower finetune_lr", off_device(task.models)
    )
    inputs = known(fit=fit, tuning=tuning, alpha=options.alpha, settings=settings.of(SAMPLING))
    sampling = Stage(SAMPLING, inputs, *task.sampling(settings.sampling_steps), sample_pictures)
    return [fit, tuning, sampling]


def fit_embedding(
    models: Models, report: Reporter, prompt: str, picture: Image.Image, steps: int, lr: float, seed: int
) -> FittedEmbeddings:
    """Step A, text embedding optimisation: e_opt, from the prompt's own embedding with the model frozen."""
    report.begin(EMBEDDINGS)
    latents = models.encode(picture)
    unet, precision = frozen_network(models)
    embedding = optimize_embeddings(
        unet,
        models.scheduler,
        latents,
        _everywhere(latents),
        models.embed([prompt]),
        steps=steps,
        lr=lr,
        generator=training_generator(EMBEDDINGS, seed),
        precision=precision,
        checkpointing=models.profile.checkpoint_embeddings,
        on_step=report.step,
    )
    return FittedEmbeddings(embedding.map(finite).to("cpu"), report.losses)


def fit_network(
    models: Models,
    report: Reporter,
    prompt: str,
    picture: Image.Image,
    fit: FittedEmbeddings,
    steps: int,
    lr: float,
    tune: str,
    seed: int,
) -> TunedWeights:
    """Step B, model fine-tuning: the weights that denoise the photo best at e_opt."""
    latents = models.encode(picture)
    return tuned_weights(
        models,
        report,
        composite_layers(latents, _everywhere(latents)),
        fit.embeddings.to(models.device),
        tune,
        seed,
        object_weight=1.0,
        background_weight=0.0,
        steps=steps,
        lr=lr,
    )


def sample_pictures(
    models: Models,
    report: Reporter,
    prompt: str,
    picture: Image.Image,
    fit: FittedEmbeddings,
    tuning: TunedWeights,
    alpha: float,
    settings: Settings,
) -> list[Image.Image]:
    """Step C: a picture for each seed, at the interpolated embedding."""
    words = models.embed([prompt, None])
    embedding = interpolated(words[:1], fit.embeddings.to(models.device), alpha)
    unet = tuned_network(models, tuning.weights)
    conditions = embedding, embedding, words[1:]
    return sampled_pictures(models, report, settings, picture.size, unet, conditions, schedule="edit")


def _everywhere(latents: Tensor) -> Tensor:
    return torch.ones_like(latents[:, :1])
