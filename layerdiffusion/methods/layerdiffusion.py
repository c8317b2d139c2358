"""LayerDiffusion itself: the paper's three stages, made from an edit and its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.edit import Edit
from layerdiffusion.images.masks import LatentMask, Mask, mask_to_latents, too_small
from layerdiffusion.method.embeddings import edit_embedding, optimize_embeddings
from layerdiffusion.method.finetune import (
    TrainingLayers,
    composite_layers,
    separate_layers,
)
from layerdiffusion.method.objective import off_subject
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
from layerdiffusion.methods.subject import Subject
from layerdiffusion.models.family import Condition
from layerdiffusion.progress import Reporter
from layerdiffusion.runtime import Stage, finite, training_generator
from layerdiffusion.settings import EMBEDDINGS, FINETUNE, SAMPLING, Settings

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models

TOO_LITTLE_LEFT = {  # of the background, by where it comes from: what to call it, and what to do about it
    "reference": ("what background_mask leaves of the reference", "mark less of it as its own subject"),
    "photo": ("what object_mask leaves of the photo", "mark less of it as the subject"),
}


def stages(task: Task) -> list[Stage[object]]:
    """Stage 1 (§3.2.1), stage 2 (§3.2.2) and stage 3 (§3.2.3)."""
    settings = task.settings
    cost = 2 * 2 * settings.draws
    embeddings = Stage(
        EMBEDDINGS, _embedding_inputs(task), settings.embedding_steps, cost, fit_embeddings, "lower embedding_lr"
    )
    tuned = _is_tuned(settings)
    tuning = Stage(
        FINETUNE,
        _tuning_inputs(task, embeddings),
        settings.finetune_steps if tuned else 0,
        3 * (2 if settings.layers == "separate" else 1) * settings.draws,
        tune_network,
        "lower finetune_lr",
        stored=off_device(task.models),
    )
    read = settings.of(SAMPLING)
    if settings.schedule == "object":  # no step asks for the mixed embedding
        read = replace(read, alpha=None)  # type: ignore[arg-type]
    inputs = {"embeddings": embeddings, "tuning": tuning, "size": task.size, "settings": read}
    known = None if task.layers is None else inputs
    return [embeddings, tuning, Stage(SAMPLING, known, *task.sampling(settings.sampling_steps), sample_pictures)]


def _is_tuned(settings: Settings) -> bool:
    return bool(settings.finetune_steps and (settings.object_weight or settings.background_weight))


def _prompts(task: Task) -> tuple[str, str]:
    """T_a and T_b."""
    return task.edit.object_prompt, task.edit.background_prompt


# Stage 1


def _embedding_inputs(task: Task) -> dict[str, object] | None:
    prompts = _prompts(task)
    if task.subject is not None:
        return {"prompts": prompts, "subject": task.subject}
    if not task.settings.embedding_steps:
        return {"prompts": prompts}
    if task.layers is None:
        return None
    layers = task.layers
    return {
        "prompts": prompts,
        "image": layers.inpainted_background if task.settings.layers == "composite" else layers.background_image,
        "mask": layers.background_mask,
        "missing": TOO_LITTLE_LEFT[_background_of(task.edit)],
        "settings": task.settings.of(EMBEDDINGS),
    }


def fit_embeddings(
    models: Models,
    report: Reporter,
    prompts: tuple[str, str],
    image: Image.Image | None = None,
    mask: Mask | None = None,
    missing: tuple[str, ...] = (),
    settings: Settings | None = None,
    subject: Subject | None = None,
) -> FittedEmbeddings:
    """Stage 1: [ê_a, ê_b], float32; without steps, what the words mean, or of a kept subject what was fitted."""
    embeddings = models.embed(list(prompts))
    if subject is not None:
        return FittedEmbeddings(subject.embedded(embeddings.to("cpu"), prompts), [])
    if settings is None or image is None or mask is None:
        return FittedEmbeddings(embeddings.to("cpu"), [])
    report.begin(EMBEDDINGS)
    unet, precision = frozen_network(models)
    fitted = optimize_embeddings(
        unet,
        models.scheduler,
        models.encode(image),
        off_subject(_reference_subject(models, mask, *missing)),
        embeddings,
        steps=settings.embedding_steps,
        lr=settings.embedding_lr,
        generator=training_generator(EMBEDDINGS, settings.training_seed),
        noise_offset=settings.noise_offset,
        draws_a_step=settings.draws,
        precision=precision,
        checkpointing=models.checkpoints(settings.draws),
        on_step=report.step,
    )
    return FittedEmbeddings(fitted.map(finite).to("cpu"), report.losses)


# Stage 2


def _tuning_inputs(task: Task, embeddings: Stage[FittedEmbeddings]) -> dict[str, object] | None:
    settings, layers = task.settings, task.layers
    given: dict[str, object] = {} if task.subject is None else {"subject": task.subject}
    if not _is_tuned(settings):
        return given
    if layers is None:
        return None
    inputs: dict[str, object] = given | {"embeddings": embeddings, "object_mask": layers.object_mask}
    if settings.layers == "composite":
        inputs |= {"image": layers.composite}
    else:
        inputs |= {
            "image": layers.object_image,
            "background_image": layers.background_image,
            "background_mask": layers.background_mask,
        }
    return inputs | {"missing": TOO_LITTLE_LEFT[_background_of(task.edit)], "settings": settings.of(FINETUNE)}


def tune_network(
    models: Models,
    report: Reporter,
    embeddings: FittedEmbeddings | None = None,
    object_mask: Mask | None = None,
    image: Image.Image | None = None,
    background_image: Image.Image | None = None,
    background_mask: Mask | None = None,
    missing: tuple[str, ...] = (),
    settings: Settings | None = None,
    subject: Subject | None = None,
) -> TunedWeights:
    """Stage 2: the tuned parameters, as `with_weights` takes them; without steps, none, or a kept subject's."""
    start = {} if subject is None else subject.weights
    if settings is None or embeddings is None or object_mask is None or image is None:
        return TunedWeights(start, [])
    layers = _training_layers(models, object_mask, image, background_image, background_mask, missing)
    return tuned_weights(
        models,
        report,
        layers,
        _mixed(models, embeddings.embeddings, settings.alpha),
        settings.tune,
        settings.training_seed + bool(start),  # not the noise that it was trained on
        start=start,
        object_weight=settings.object_weight,
        background_weight=settings.background_weight,
        steps=settings.finetune_steps,
        lr=settings.finetune_lr,
        noise_offset=settings.noise_offset,
        draws_a_step=settings.draws,
    )


def _training_layers(
    models: Models,
    object_mask: Mask,
    image: Image.Image,
    background_image: Image.Image | None,
    background_mask: Mask | None,
    missing: tuple[str, ...],
) -> TrainingLayers:
    """One layered picture, or, where there is a `background_image`, a picture for each term."""
    subject, latents = _subject(models, object_mask, "object_mask"), models.encode(image)
    if background_image is None or background_mask is None:
        return composite_layers(latents, subject)
    reference_subject = _reference_subject(models, background_mask, *missing)
    return separate_layers(latents, subject, models.encode(background_image), reference_subject)


# Stage 3


def sample_pictures(
    models: Models,
    report: Reporter,
    embeddings: FittedEmbeddings,
    tuning: TunedWeights,
    size: tuple[int, int],
    settings: Settings,
) -> list[Image.Image]:
    """Stage 3: a picture of `size` (W, H) for each seed, its condition alternating between ê_a and e_opt."""
    unet, fitted = tuned_network(models, tuning.weights), embeddings.embeddings
    object_embedding = fitted[:1].to(models.device)
    mixed = object_embedding if settings.alpha is None else _mixed(models, fitted, settings.alpha)
    conditions = object_embedding, mixed, models.embed([None])
    how = {name: getattr(settings, name) for name in ("schedule", "solver")}
    return sampled_pictures(models, report, settings, size, unet, conditions, **how)


def _mixed(models: Models, embeddings: Condition, alpha: float) -> Condition:
    """e_opt on the device."""
    return edit_embedding(embeddings[:1], embeddings[1:], alpha).to(models.device)


# Masks on the latent grid, (1, 1, h, w) on the device


def _subject(models: Models, mask: Mask, name: str, advice: str = "mark more, or choose a closer picture") -> Tensor:
    """1 on the subject that the mask marks; raises a `MaskError` where it is too small for the grid."""
    return _latent(models, mask_to_latents(mask, _grid(models, mask), name, advice))


def _reference_subject(models: Models, mask: Mask, name: str, advice: str) -> Tensor:
    """M_r: 1 on the background picture's own subject; raises a `MaskError` where too little is left beside it."""
    marked = mask_to_latents(mask, _grid(models, mask), half=False)
    if marked.all() and not mask.all():
        raise too_small(name, _grid(models, mask), advice)
    return _latent(models, marked)


def _latent(models: Models, mask: LatentMask) -> Tensor:
    return torch.from_numpy(mask)[None, None].to(models.device)


def _grid(models: Models, mask: Mask) -> tuple[int, int]:
    _, height, width = models.latent_shape_of((mask.shape[1], mask.shape[0]))
    return width, height


def _background_of(edit: Edit) -> str:
    return "reference" if edit.background == "reference" else "photo"
