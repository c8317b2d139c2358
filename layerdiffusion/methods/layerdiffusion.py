"""LayerDiffusion itself: the paper's three stages, made from an edit and its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers
from layerdiffusion.images.masks import LatentMask, Mask, mask_to_latents, too_small
from layerdiffusion.method.embeddings import JointEmbeddings, edit_embedding, interpolated, optimize_embeddings
from layerdiffusion.method.finetune import (
    TrainingLayers,
    composite_layers,
    overlay_layers,
    separate_layers,
    without_part,
)
from layerdiffusion.method.objective import off_subject
from layerdiffusion.method.sampling import taken_steps
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
from layerdiffusion.prompts import named_colour
from layerdiffusion.runtime import Stage, finite, training_generator
from layerdiffusion.settings import EMBEDDINGS, FINETUNE, SAMPLING, Settings

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models

TOO_LITTLE_LEFT = {  # of the background, by where it comes from: what to call it, and what to do about it
    "reference": ("what background_mask leaves of the reference", "mark less of it as its own subject"),
    "photo": ("what object_mask leaves of the photo", "mark less of it as the subject"),
    "layered": ("what object_mask leaves of the layered picture", "mark less of it as the subject, or make it smaller"),
}


def stages(task: Task) -> list[Stage[object]]:
    """Stage 1 (§3.2.1), stage 2 (§3.2.2) and stage 3 (§3.2.3)."""
    settings = task.settings
    steps, cost = settings.embedding_steps if _fits_words_first(settings) else 0, 2 * 2 * settings.draws
    embeddings = Stage(EMBEDDINGS, _embedding_inputs(task), steps, cost, fit_embeddings, "lower embedding_lr")
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
    if settings.target_weight:
        inputs["prompts"] = _prompts(task)
    if (settings.strength < 1 or settings.layout or settings.surroundings) and task.layers is not None:
        colour = named_colour(task.edit.object_prompt) if settings.start == "recoloured" else None
        inputs["start"] = task.layers.recoloured(colour)
        if colour is not None:  # held, its shades and the network's own end in patches of black and white
            inputs["settings"] = replace(read, layout=0.0)
        if settings.surroundings:
            inputs["room"] = task.layers.room
    known = None if task.layers is None else inputs
    steps = taken_steps(settings.sampling_steps, settings.strength)
    return [embeddings, tuning, Stage(SAMPLING, known, *task.sampling(steps), sample_pictures)]


def _is_tuned(settings: Settings) -> bool:
    return bool(settings.finetune_steps and (settings.object_weight or settings.background_weight))


def _fits_words_first(settings: Settings) -> bool:
    """Whether stage 1 is there, and not left out or made a part of stage 2."""
    return bool(settings.embedding_steps) and settings.embedding_training == "before"


def _prompts(task: Task) -> tuple[str, str]:
    """T_a and T_b."""
    return task.edit.object_prompt, task.edit.background_prompt


# Stage 1


def _embedding_inputs(task: Task) -> dict[str, object] | None:
    prompts = _prompts(task)
    if task.subject is not None:
        return {"prompts": prompts, "subject": task.subject}
    if not _fits_words_first(task.settings):
        return {"prompts": prompts}
    if task.layers is None:
        return None
    image, mask, fits_mask = embedding_view(task.settings, task.layers)
    return {
        "prompts": prompts,
        "image": image,
        "mask": mask,
        "fits_mask": fits_mask,
        "missing": _missing(task.settings, task.edit),
        "settings": task.settings.of(EMBEDDINGS),
    }


def embedding_view(settings: Settings, layers: Layers) -> tuple[Image.Image, Mask, bool]:
    """What stage 1 fits the embeddings to: a picture, a mask (H, W), and whether it fits what the mask marks.

    Where it does not, it fits what the mask leaves. "background" and "everything": the background, without and with
    its own subject; "object": the subject; "around": the background, the subject laid over it but not looked at, so
    that the words needn't stand for a place without one; "layered": the same, with the subject looked at. Under
    `composite` these are the layers of the composite, so the background has its own subject inpainted; under `separate`
    there is no layered picture, and "around" leaves both subjects out.
    """
    if settings.layers == "composite":
        background, subject, around = layers.inpainted_background, layers.composite, layers.composite
        subjects = layers.object_mask
    else:
        overlay = settings.layers == "overlay"
        background = layers.background_image
        subject = layers.overlay if overlay else layers.object_image
        around = layers.overlay if overlay else background
        subjects = layers.background_mask | layers.object_mask
    nothing = np.zeros_like(layers.background_mask)
    return {
        "background": (background, layers.background_mask, False),
        "around": (around, subjects, False),
        "object": (subject, layers.object_mask, True),
        "everything": (background, nothing, False),
        "layered": (around, nothing, False),
    }[settings.embedding_mask]


def _missing(settings: Settings, edit: Edit) -> tuple[str, ...]:
    """What to call that which stage 1 fits, where it is too small, and what to do about it."""
    if settings.embedding_mask == "object":
        return ("object_mask",)
    return TOO_LITTLE_LEFT["layered" if settings.embedding_mask == "around" else _background_of(edit)]


def fit_embeddings(
    models: Models,
    report: Reporter,
    prompts: tuple[str, str],
    image: Image.Image | None = None,
    mask: Mask | None = None,
    fits_mask: bool = True,
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
        _subject(models, mask, *missing) if fits_mask else off_subject(_stranger(models, mask, *missing)),
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
    elif settings.layers == "overlay":
        inputs |= {"image": layers.overlay, "background_mask": layers.background_mask}
    else:
        inputs |= {
            "image": layers.object_image,
            "background_image": layers.background_image,
            "background_mask": layers.background_mask,
        }
    if settings.embedding_training == "joint":
        inputs["embedding_lr"] = settings.embedding_lr
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
    embedding_lr: float | None = None,
    settings: Settings | None = None,
    subject: Subject | None = None,
) -> TunedWeights:
    """Stage 2: the tuned parameters, as `with_weights` takes them; without steps, none, or a kept subject's.

    With an `embedding_lr` the embeddings are trained as well, beside the network.
    """
    start = {} if subject is None else subject.weights
    if settings is None or embeddings is None or object_mask is None or image is None:
        return TunedWeights(start, [])
    layers = _training_layers(models, object_mask, image, background_image, background_mask, missing)
    condition: Condition | Callable[[], JointEmbeddings] = _mixed(models, embeddings.embeddings, settings.alpha)
    if embedding_lr is not None:
        words = embeddings.embeddings.to(models.device)
        condition = partial(JointEmbeddings, words, settings.alpha, embedding_lr)
    return tuned_weights(
        models,
        report,
        layers,
        condition,
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
    """One layered picture ("composite"; "overlay", where the background's own subject is marked), or two pictures."""
    subject, latents = _subject(models, object_mask, "object_mask"), models.encode(image)
    if background_mask is None:
        return composite_layers(latents, subject)
    stranger = _stranger(models, background_mask, *missing)
    if background_image is None:
        return overlay_layers(latents, subject, stranger)
    return separate_layers(latents, subject, models.encode(background_image), stranger)


# Stage 3


def sample_pictures(
    models: Models,
    report: Reporter,
    embeddings: FittedEmbeddings,
    tuning: TunedWeights,
    size: tuple[int, int],
    settings: Settings,
    prompts: tuple[str, str] | None = None,
    start: Image.Image | None = None,
    room: Mask | None = None,
) -> list[Image.Image]:
    """Stage 3: a picture of `size` (W, H) for each seed, its condition alternating between ê_a and e_opt.

    With `prompts`, T_a and T_b, ê_a and ê_b go back towards these words, as written, by `target_weight`; with a
    `start`, the layered picture, it begins from that under noise, and may keep it outside `room`, a mask (H, W).
    """
    unet = tuned_network(models, without_part(tuning.weights, settings.forget))
    fitted = embeddings.embeddings if tuning.embeddings is None else tuning.embeddings
    if prompts is not None:
        fitted = interpolated(models.embed(list(prompts)), fitted.to(models.device), settings.target_weight)
    latents = None if start is None else models.encode(start)
    object_embedding = fitted[:1].to(models.device)
    mixed = object_embedding if settings.alpha is None else _mixed(models, fitted, settings.alpha)
    conditions = object_embedding, mixed, models.embed([None])
    free = None if room is None else _latent(models, room.astype(np.float32))
    how = {name: getattr(settings, name) for name in ("schedule", "solver", "strength", "layout", "surroundings")}
    return sampled_pictures(models, report, settings, size, unet, conditions, start=latents, room=free, **how)


def _mixed(models: Models, embeddings: Condition, alpha: float) -> Condition:
    """e_opt on the device."""
    return edit_embedding(embeddings[:1], embeddings[1:], alpha).to(models.device)


# Masks on the latent grid, (1, 1, h, w) on the device


def _subject(models: Models, mask: Mask, name: str, advice: str = "mark more, or choose a closer picture") -> Tensor:
    """1 on the subject that the mask marks; raises a `MaskError` where it is too small for the grid."""
    return _latent(models, mask_to_latents(mask, _grid(models, mask), name, advice))


def _stranger(models: Models, mask: Mask, name: str, advice: str) -> Tensor:
    """M_r: 1 on the background picture's own subject; raises a `MaskError` where too little is left beside it."""
    stranger = mask_to_latents(mask, _grid(models, mask), half=False)
    if stranger.all() and not mask.all():
        raise too_small(name, _grid(models, mask), advice)
    return _latent(models, stranger)


def _latent(models: Models, mask: LatentMask) -> Tensor:
    return torch.from_numpy(mask)[None, None].to(models.device)


def _grid(models: Models, mask: Mask) -> tuple[int, int]:
    _, height, width = models.latent_shape_of((mask.shape[1], mask.shape[0]))
    return width, height


def _background_of(edit: Edit) -> str:
    return "reference" if edit.background == "reference" else "photo"
