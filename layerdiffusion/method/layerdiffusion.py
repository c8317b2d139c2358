"""LayerDiffusion: the paper's three stages in order, and what each of them computes.

`edit` says which stages an edit has and what each depends on; nothing runs in it. The functions after it are the stages
in the same order: they turn pictures and words into tensors, and the section's own functions do the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from layerdiffusion import engine
from layerdiffusion.cache import Run, Stage, Work, stage
from layerdiffusion.engine import FittedEmbeddings, Task, TunedWeights, finite, training_generator
from layerdiffusion.images.masks import LatentMask, Mask, mask_to_latents, too_small
from layerdiffusion.method.embeddings import edit_embedding, optimize_embeddings
from layerdiffusion.method.finetune import composite_layers, finetune, separate_layers
from layerdiffusion.method.objective import off_subject
from layerdiffusion.method.sampling import sample
from layerdiffusion.models.tuning import TunedNetwork, Weights
from layerdiffusion.progress import OnStep, Reporter
from layerdiffusion.settings import EMBEDDINGS, FINETUNE, SAMPLING

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models
    from layerdiffusion.subject import Subject

Pictures = list[Image.Image]
Prompts = tuple[str, str]  # T_a, what the subject does, and T_b, where


def edit(task: Task, run: Run) -> Stage[Pictures]:
    """Stage 1 (§3.2.1), stage 2 (§3.2.2) and stage 3 (§3.2.3) of an edit, whose result is a picture for each seed.

    The keyword arguments of a `run` are all that the stage depends on: a new α keeps stage 1, new seeds keep both
    trainings. Without steps stage 1 is what the words mean, stage 2 the network as it was loaded; a kept subject
    brings its own. Raises a `MaskError` for a mask that is too small for the latent grid.
    """
    layers, settings, subject = task.layers, task.settings, task.subject
    prompts = task.edit.object_prompt, task.edit.background_prompt
    draws = {"noise_offset": settings.noise_offset, "draws": settings.draws}
    composite = settings.layers == "composite"

    if subject is not None:
        fitted = run(EMBEDDINGS, subject_embeddings, prompts=prompts, subject=subject)
    elif settings.embedding_steps:
        fitted = run(
            EMBEDDINGS,
            fit_embeddings,
            prompts=prompts,
            picture=layers.inpainted_background if composite else layers.background_image,
            reference_subject=_reference_subject_mask(task),
            steps=settings.embedding_steps,
            lr=settings.embedding_lr,
            seed=settings.training_seed,
            **draws,
        )
    else:
        fitted = run(EMBEDDINGS, embed_prompts, prompts=prompts)

    if settings.finetune_steps and (settings.object_weight or settings.background_weight):
        tuned = run(
            FINETUNE,
            tune_network,
            fitted=fitted,
            alpha=settings.alpha,
            picture=layers.composite if composite else layers.object_image,
            object_mask=_object_mask(task),
            background=None if composite else layers.background_image,
            reference_subject=None if composite else _reference_subject_mask(task),
            object_weight=settings.object_weight,
            background_weight=settings.background_weight,
            steps=settings.finetune_steps,
            lr=settings.finetune_lr,
            tune=settings.tune,
            seed=settings.training_seed + (subject is not None),  # not the noise that it was trained on
            subject=subject,
            **draws,
        )
    else:
        tuned = run(FINETUNE, untuned_network, subject=subject)

    return run(
        SAMPLING,
        sample_pictures,
        fitted=fitted,
        tuned=tuned,
        alpha=None if settings.schedule == "object" else settings.alpha,  # e_opt is then asked for at no step
        size=task.size,
        seeds=settings.seeds,
        steps=settings.sampling_steps,
        guidance_scale=settings.guidance_scale,
        schedule=settings.schedule,
        solver=settings.solver,
    )


# Stage 1


@stage(lambda steps, draws, **_: Work(steps, 2 * 2 * draws), remedy="lower embedding_lr")
def fit_embeddings(
    models: Models,
    report: Reporter,
    prompts: Prompts,
    picture: Image.Image,
    reference_subject: LatentMask,
    steps: int,
    lr: float,
    seed: int,
    noise_offset: float,
    draws: int,
) -> FittedEmbeddings:
    """[ê_a, ê_b]: the words' embeddings fitted to the background `picture`, off its own subject, the model frozen."""
    embeddings = optimize_embeddings(
        engine.frozen_denoiser(models, draws),
        models.scheduler,
        models.encode(picture),
        off_subject(_on_device(models, reference_subject)),
        models.embed(prompts),
        steps=steps,
        lr=lr,
        generator=training_generator(EMBEDDINGS, seed),
        noise_offset=noise_offset,
        draws_a_step=draws,
        on_step=report.step,
    )
    return FittedEmbeddings(embeddings.map(finite).to("cpu"), report.losses)


@stage()
def embed_prompts(models: Models, report: Reporter, prompts: Prompts) -> FittedEmbeddings:
    """[e_a, e_b]: what the words mean."""
    return FittedEmbeddings(models.embed(prompts).to("cpu"), [])


@stage()
def subject_embeddings(models: Models, report: Reporter, prompts: Prompts, subject: Subject) -> FittedEmbeddings:
    """[ê_a, ê_b] of a kept subject, where it was trained on these words."""
    return FittedEmbeddings(subject.embedded(models.embed(prompts).to("cpu"), prompts), [])


# Stage 2


@stage(
    lambda steps, draws, background, **_: Work(steps, 3 * draws * (1 if background is None else 2)),
    remedy="lower finetune_lr",
)
def tune_network(
    models: Models,
    report: Reporter,
    fitted: FittedEmbeddings,
    alpha: float,
    picture: Image.Image,
    object_mask: LatentMask,
    background: Image.Image | None,
    reference_subject: LatentMask | None,
    object_weight: float,
    background_weight: float,
    steps: int,
    lr: float,
    tune: str,
    seed: int,
    subject: Subject | None,
    noise_offset: float,
    draws: int,
) -> TunedWeights:
    """The network's weights tuned to the layered `picture` at e_opt, or to the subject's and the `background`."""
    latents, mask = models.encode(picture), _on_device(models, object_mask)
    layers = composite_layers(latents, mask)
    if background is not None and reference_subject is not None:
        layers = separate_layers(latents, mask, models.encode(background), _on_device(models, reference_subject))
    embeddings = fitted.embeddings.to(models.device)
    generator_seed = training_generator(FINETUNE, seed).initial_seed()

    def train(network: TunedNetwork) -> Weights:
        return finetune(
            network,
            models.scheduler,
            layers,
            edit_embedding(embeddings[:1], embeddings[1:], alpha),
            object_weight=object_weight,
            background_weight=background_weight,
            steps=steps,
            lr=lr,
            generator=training_generator(FINETUNE, seed),
            noise_offset=noise_offset,
            draws_a_step=draws,
            on_step=report.step,
        )

    start = None if subject is None else subject.weights
    return engine.tuned_weights(models, report, train, tune=tune, seed=generator_seed, draws=draws, start=start)


@stage()
def untuned_network(models: Models, report: Reporter, subject: Subject | None) -> TunedWeights:
    """The network as it was loaded, or as a kept subject left it."""
    return TunedWeights({} if subject is None else subject.weights, [])


# Stage 3


@stage(lambda steps, seeds, **_: Work(steps, 2 * len(seeds)))
def sample_pictures(
    models: Models,
    report: Reporter,
    fitted: FittedEmbeddings,
    tuned: TunedWeights,
    alpha: float | None,
    size: tuple[int, int],
    seeds: tuple[int, ...],
    steps: int,
    guidance_scale: float,
    schedule: str,
    solver: str,
) -> Pictures:
    """A picture of `size` (W, H) for each seed, from noise, under conditions that alternate between ê_a and e_opt."""
    embeddings, negative = fitted.embeddings.to(models.device), models.embed([None])
    mixed = embeddings[:1] if alpha is None else edit_embedding(embeddings[:1], embeddings[1:], alpha)
    denoiser = engine.sampling_denoiser(models, tuned.weights)

    def latents_of(noise: Tensor, on_step: OnStep) -> Tensor:
        return sample(
            denoiser,
            models.scheduler,
            noise,
            embeddings[:1],
            mixed,
            negative,
            steps=steps,
            guidance_scale=guidance_scale,
            schedule=schedule,
            solver=solver,
            on_step=on_step,
        )

    return engine.sampled_pictures(models, report, seeds, size, latents_of)


@stage(lambda steps, **_: Work(steps, 2))
def generate_background(
    models: Models,
    report: Reporter,
    prompt: str,
    seed: int,
    size: tuple[int, int],
    steps: int,
    guidance_scale: float,
    solver: str,
) -> Image.Image:
    """A picture of `size` (W, H) of the `prompt` alone, by the untouched model: a background to choose."""
    embedding = models.embed([prompt])
    latents = sample(
        engine.sampling_denoiser(models, {}),
        models.scheduler,
        engine.initial_latents((seed,), models.latent_shape_of(size)).to(models.device),
        embedding,
        embedding,
        models.embed([None]),
        steps=steps,
        guidance_scale=guidance_scale,
        schedule="edit",
        solver=solver,
        on_step=report.step,
    )
    return models.decode(finite(latents))[0]


# Masks on the latent grid


def _object_mask(task: Task) -> LatentMask:
    """M_t: 1 on the placed subject, (h, w)."""
    mask = task.layers.object_mask
    return mask_to_latents(mask, _grid(task, mask), "object_mask")


def _reference_subject_mask(task: Task) -> LatentMask:
    """M_r: 1 on the background picture's own subject, (h, w)."""
    mask = task.layers.background_mask
    marked = mask_to_latents(mask, _grid(task, mask), half=False)
    if marked.all() and not mask.all():
        if task.edit.background == "reference":
            name, remedy = "what background_mask leaves of the reference", "mark less of it as its own subject"
        else:
            name, remedy = "what object_mask leaves of the photo", "mark less of it as the subject"
        raise too_small(name, _grid(task, mask), remedy)
    return marked


def _grid(task: Task, mask: Mask) -> tuple[int, int]:
    _, height, width = task.models.latent_shape_of((mask.shape[1], mask.shape[0]))
    return width, height


def _on_device(models: Models, mask: LatentMask) -> Tensor:
    """(1, 1, h, w)."""
    return torch.from_numpy(mask)[None, None].to(models.device)
