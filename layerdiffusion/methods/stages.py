"""What the methods' stages share: the task they are made from, batches of seeds, pictures and tuned weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers, object_fit
from layerdiffusion.method.finetune import TrainingLayers, Weights, finetune, in_precision, with_weights
from layerdiffusion.method.objective import OnStep
from layerdiffusion.method.sampling import initial_latents, sample
from layerdiffusion.methods.options import Options
from layerdiffusion.methods.subject import Subject
from layerdiffusion.models.family import Condition
from layerdiffusion.models.memory import is_out_of_memory
from layerdiffusion.progress import Reporter
from layerdiffusion.runtime import Stage, finite, free_memory, training_generator
from layerdiffusion.settings import FINETUNE, Settings

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models

CHECKPOINTED = "Stage 2 ran out of memory and ran again with gradient checkpointing: slower, the same pictures."
AS_LORA = "Stage 2 ran out of memory and ran again as LoRA: a small addition was trained in place of the whole model."

LatentsOf = Callable[[Tensor, OnStep], Tensor]  # (noise of one batch, on_step) → its clean latents


class FittedEmbeddings(NamedTuple):
    """What a fit of embeddings came to."""

    embeddings: Condition  # float32, in main memory
    losses: list[float]  # of each step


class TunedWeights(NamedTuple):
    """What tuning the network came to."""

    weights: Weights  # by name; empty: the network is as it was
    losses: list[float]
    note: str = ""  # a sentence, where it was tuned otherwise than it was asked to


Trained = FittedEmbeddings | TunedWeights


@dataclass(frozen=True)
class Task:
    """One edit made ready for a method."""

    models: Models
    edit: Edit
    settings: Settings  # every field set
    options: Options | None  # the method's own, every field set
    layers: Layers | None  # None: the background has yet to be generated
    subject: Subject | None = None  # a kept one, in place of training

    def sampling(self, steps: int, cost: float = 0.0) -> tuple[int, float]:
        """Steps and the cost of a step of a sampling stage that takes `steps` for each batch of seeds.

        Under classifier-free guidance, two passes a picture; `cost` is what a batch costs beside its pictures.
        """
        batches = len(batched(self.models, self.settings.seeds))
        return steps * batches, 2 * len(self.settings.seeds) / batches + cost

    @property
    def size(self) -> tuple[int, int]:
        """(W, H) of every picture that the stages see and make."""
        return self.models.window(self.settings.shape, self.edit.object_image.size)

    def picture(self, source: str) -> Image.Image | None:
        """What a baseline edits: "photo", as it was given, cropped to the edit's window, or "composite"."""
        if source == "composite":
            return None if self.layers is None else self.layers.composite
        return object_fit(self.edit, self.size).image(self.edit.object_image)


def batched(models: Models, seeds: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The seeds in batches that the device holds at once."""
    size = models.profile.batch
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def pictures(
    models: Models, report: Reporter, seeds: tuple[int, ...], shape: Sequence[int], latents_of: LatentsOf
) -> list[Image.Image]:
    """A picture for each seed, its latents of `shape` (C, h, w), with previews of the first.

    A batch that the memory doesn't hold is halved.
    """
    report.begin("sampling")
    channels, height, width = shape
    images: list[Image.Image] = []
    batches, index = batched(models, seeds), 0
    while index < len(batches):
        batch = batches[index]
        noise = initial_latents(batch, (channels, height, width)).to(models.device)
        try:
            latents = latents_of(noise, report.part(index, len(batches), models.preview))
            images += models.decode(finite(latents))
            index += 1
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            free_memory(error)
            half = len(batch) // 2
            batches[index : index + 1] = [batch[:half], batch[half:]]
    return images


def sampled_pictures(  # type: ignore[explicit-any]  # the options are those of `sample`
    models: Models,
    report: Reporter,
    settings: Settings,
    size: tuple[int, int],
    unet: nn.Module,
    conditions: tuple[Condition, Condition, Condition],
    **options: Any,
) -> list[Image.Image]:
    """`pictures` of `size` (W, H) by `sample`, under the object's, the edit's and the negative condition, one of each.

    `options` are further arguments of `sample`, as it names them.
    """

    def latents_of(noise: Tensor, on_step: OnStep) -> Tensor:
        dials = {"steps": settings.sampling_steps, "guidance_scale": settings.guidance_scale} | options
        precision = models.profile.precision
        return sample(unet, models.scheduler, noise, *conditions, precision=precision, on_step=on_step, **dials)

    return pictures(models, report, settings.seeds, models.latent_shape_of(size), latents_of)


def background_stage(
    models: Models, prompt: str, seed: int, settings: Settings, size: tuple[int, int]
) -> Stage[Image.Image]:
    """The picture that the untouched model makes of `prompt`, always alone: the same among others and in a replay."""
    inputs = {
        "prompt": prompt,
        "seed": seed,
        "size": size,
        "steps": settings.sampling_steps,
        "guidance_scale": settings.guidance_scale,
        "solver": settings.solver,
    }
    return Stage("background", inputs, settings.sampling_steps, 2, generate_background)


def generate_background(
    models: Models,
    report: Reporter,
    prompt: str,
    seed: int,
    size: tuple[int, int],
    steps: int,
    guidance_scale: float,
    solver: str = "ddim",
) -> Image.Image:
    """A picture of `size` (W, H), sampled from the seed's noise with the untouched model and the whole prompt."""
    embedding, negative = models.embed([prompt]), models.embed([None])
    report.begin("background")
    latents = sample(
        tuned_network(models, {}),
        models.scheduler,
        initial_latents((seed,), models.latent_shape_of(size)).to(models.device),
        embedding,
        embedding,
        negative,
        steps=steps,
        guidance_scale=guidance_scale,
        schedule="edit",
        solver=solver,
        precision=models.profile.precision,
        on_step=report.step,
    )
    return models.decode(finite(latents))[0]


def tuned_weights(  # type: ignore[explicit-any]  # the dials are those of `finetune`
    models: Models,
    report: Reporter,
    layers: TrainingLayers,
    embedding: Condition,
    tune: str,
    training_seed: int,
    **dials: Any,
) -> TunedWeights:
    """`finetune` with `dials` as the device has the memory for it: as asked, with checkpointing, at last as LoRA."""
    report.begin(FINETUNE)
    profile = models.profile

    def attempt(way: str, checkpointing: bool, note: str) -> TunedWeights:
        report.again(note)
        lora = way == "lora"
        network, precision = frozen_network(models) if lora else (models.master, profile.training_precision)
        weights = finetune(
            network,
            models.scheduler,
            layers,
            embedding,
            tune=way,
            generator=training_generator(FINETUNE, training_seed),
            precision=precision,
            rounded=profile.weights != torch.float32,
            # LoRA's Adam is small as it is, and 8 bits would have to look at every step's scale.
            optimizer=(replace(profile, eight_bit_adam=False) if lora else profile).optimizer(),
            checkpointing=checkpointing,
            compiled=partial(models.compiler.attach, training=True) if models.compiler and not checkpointing else None,
            on_step=report.step,
            **dials,
        )
        return TunedWeights(stored_weights(models, weights, way), report.losses, note)

    # For LoRA, checkpointing saves little and takes a third more arithmetic: only where nothing else is left, or where
    # stage 1 can't do without it either.
    draws = dials.get("draws_a_step", 1)
    if tune == "lora" and (profile.checkpointing or draws > 1) and models.checkpoints(draws):
        ways = [("lora", True, "")]
    elif tune == "lora":
        ways = [("lora", False, ""), ("lora", True, CHECKPOINTED)]
    else:
        ways = [("full", True, "")] if profile.checkpointing else [("full", False, ""), ("full", True, CHECKPOINTED)]
        if not dials.get("start"):  # which tunes all weights, and no adapter goes on from these
            ways += [("lora", False, AS_LORA), ("lora", True, AS_LORA)]
    for way in ways[:-1]:
        try:
            return attempt(*way)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory(error)
    return attempt(*ways[-1])


def stored_weights(models: Models, weights: Weights, tune: str) -> Weights:
    """Tuned `weights` as stage 3 takes them: on the device, in the profile's type, LoRA's in float32.

    Raises `FloatingPointError` where one is not finite.
    """
    dtype = torch.float32 if tune == "lora" else models.profile.weights
    if weights and not torch.stack([weight.isfinite().all() for weight in weights.values()]).all():
        raise FloatingPointError
    return {name: weight.to(dtype) for name, weight in weights.items()}


def off_device(models: Models) -> Callable[[TunedWeights], TunedWeights] | None:
    """What takes tuned weights into main memory; None where they are there already."""
    return None if models.device.type == "cpu" else _in_main_memory


def _in_main_memory(tuning: TunedWeights) -> TunedWeights:
    return tuning._replace(weights={name: weight.to("cpu") for name, weight in tuning.weights.items()})


def frozen_network(models: Models) -> tuple[nn.Module, torch.dtype]:
    """The untouched network for training beside it, and its precision: with half-precision weights, their own.

    Weights in the precision of training are a second copy of those that stage 3 has, where there is memory for it.
    """
    profile = models.profile
    if profile.weights in (torch.float32, profile.training_precision):
        return models.unet, profile.training_precision
    if profile.low_memory:
        return models.unet, profile.weights
    return in_precision(models.unet, profile.training_precision), profile.training_precision


def tuned_network(models: Models, weights: Weights) -> nn.Module:
    """The network to sample with: the model's own with `weights` of a training stage in it; see `Compiler`."""
    unet = with_weights(models.unet, weights) if weights else models.unet
    return unet if models.compiler is None else models.compiler.attach(unet)
