"""What a method makes an edit of, and how its stages use a device.

Precisions, gradient checkpointing, what is given up for memory, and turns.

Here alone a network becomes the method's f(x_t, t, e). The functions take the loaded `Models`, and change none of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.cache import digest
from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers, object_fit
from layerdiffusion.models.denoiser import Denoiser, enable_checkpointing
from layerdiffusion.models.family import Condition
from layerdiffusion.models.oom import free_memory, is_out_of_memory
from layerdiffusion.models.tuning import TunedNetwork, Weights, in_precision, with_adapters, with_weights
from layerdiffusion.progress import Cancelled, OnStep, Reporter
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models
    from layerdiffusion.subject import Subject

CHECKPOINTED = "Stage 2 ran out of memory and ran again with gradient checkpointing: slower, the same pictures."
AS_LORA = "Stage 2 ran out of memory and ran again as LoRA: a small addition was trained in place of the whole model."

Train = Callable[[TunedNetwork], Weights]
LatentsOf = Callable[[Tensor, OnStep], Tensor]  # (noise of one batch, on_step) → its clean latents


@dataclass(frozen=True)
class Task:
    """One edit made ready for a method."""

    models: Models
    edit: Edit
    layers: Layers  # of `size`
    settings: Settings  # every field set
    options: object = None  # a baseline's own, every field set
    subject: Subject | None = None  # a kept one, in place of training

    @property
    def size(self) -> tuple[int, int]:
        """(W, H) of every picture that the stages see and make."""
        return self.layers.composite.size

    def picture(self, source: str) -> Image.Image:
        """What a baseline edits: "photo", as it was given, cropped to the edit's window, or "composite"."""
        if source == "composite":
            return self.layers.composite
        return object_fit(self.edit, self.size).image(self.edit.object_image)


class FittedEmbeddings(NamedTuple):
    """What a fit of embeddings came to."""

    embeddings: Condition  # float32, in main memory
    losses: list[float]  # of each step


class TunedWeights(NamedTuple):
    """What tuning the network came to."""

    weights: Weights  # by name; empty: the network is as it was
    losses: list[float]
    note: str = ""  # a sentence, where it was tuned otherwise than it was asked to

    @property
    def on_device(self) -> bool:
        return any(weight.device.type != "cpu" for weight in self.weights.values())

    def off_device(self) -> TunedWeights:
        return self._replace(weights={name: weight.to("cpu") for name, weight in self.weights.items()})


class Turns:
    """The device for one piece of work at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def taken(self) -> bool:
        return self._lock.locked()

    @contextlib.contextmanager
    def __call__(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """A turn; whoever waits for it can still cancel, which raises `Cancelled`."""
        while not self._lock.acquire(timeout=0.1):
            if cancel is not None and cancel.is_set():
                raise Cancelled("The edit was cancelled while it waited for its turn.")
        try:
            yield
        finally:
            self._lock.release()


def initial_latents(seeds: Iterable[int], shape: tuple[int, int, int]) -> Tensor:
    """x_T for each seed: (len(seeds), C, h, w) of standard normal noise, float32 on the CPU.

    Each is drawn alone, as diffusers' pipelines draw it, so that a seed means the same picture on every
    device and whatever else is in the batch.
    """
    draws = [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(draws)


def training_generator(stage: str, seed: int) -> torch.Generator:
    """Each stage's own noise: no stage trains on the very noise that another starts from."""
    return torch.Generator().manual_seed(int(digest(stage, seed)[:14], 16))


def finite(values: Tensor) -> Tensor:
    """The `values`, of any shape. Raises `FloatingPointError` where one of them is not finite."""
    if not values.isfinite().all():
        raise FloatingPointError
    return values


def frozen_denoiser(models: Models, draws: int = 1) -> Denoiser:
    """The untouched network for stage 1, which takes gradients through it at so many draws a step."""
    unet, precision = _frozen(models)
    checkpointing = models.checkpoints(draws)
    if checkpointing:
        unet = with_weights(unet, {})  # modules of its own: nobody else's are checkpointed
        enable_checkpointing(unet)
    return Denoiser(unet, precision, models.profile.compile and not checkpointing)


def sampling_denoiser(models: Models, weights: Weights) -> Denoiser:
    """The network for sampling, with the tuned `weights` of stage 2 in it."""
    unet = models.unet
    if weights and models.family.tunes_all:
        unet = with_weights(unet, weights)
    elif weights:
        unet = with_adapters(unet, weights, models.family.lora_targets)
    return Denoiser(unet, models.profile.precision, models.profile.compile)


def _frozen(models: Models) -> tuple[torch.nn.Module, torch.dtype]:
    """The untouched network to train beside, and its precision: with half-precision weights, their own.

    Weights in the precision of training are a second copy of those that stage 3 has, where there is memory for it.
    """
    profile = models.profile
    if profile.weights in (torch.float32, profile.training_precision):
        return models.unet, profile.training_precision
    if profile.low_memory:
        return models.unet, profile.weights
    return in_precision(models.unet, profile.training_precision), profile.training_precision


def tuned_weights(
    models: Models,
    report: Reporter,
    train: Train,
    *,
    tune: str,
    seed: int,
    draws: int = 1,
    start: Weights | None = None,
) -> TunedWeights:
    """What `train` makes of a copy of the network, all of which is trained, or with `tune` "lora" adapters.

    Where it runs out of memory it runs again with gradient checkpointing, and at last as LoRA; the note says so. It
    goes on from the weights `start`. `seed` is that of new adapters.
    """
    profile = models.profile
    # For LoRA, checkpointing saves little and takes a third more arithmetic: only where nothing else is left, or where
    # stage 1 can't do without it either.
    if tune == "lora" and (profile.checkpointing or draws > 1) and models.checkpoints(draws):
        ways = [("lora", True, "")]
    elif tune == "lora":
        ways = [("lora", False, ""), ("lora", True, CHECKPOINTED)]
    else:
        ways = [("full", True, "")] if profile.checkpointing else [("full", False, ""), ("full", True, CHECKPOINTED)]
        if not start:  # which tunes all weights, and no adapter goes on from these
            ways += [("lora", False, AS_LORA), ("lora", True, AS_LORA)]
    for way, checkpointing, note in ways:
        report.again(note)
        try:
            weights = train(_network_in_training(models, way == "lora", checkpointing, seed, start))
            return TunedWeights(_stored(models, weights, way == "lora"), report.losses, note)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or (way, checkpointing, note) == ways[-1]:
                raise
            free_memory(error)
    raise AssertionError("there is always a way")


def _network_in_training(
    models: Models, lora: bool, checkpointing: bool, seed: int, start: Weights | None
) -> TunedNetwork:
    profile = models.profile
    unet, precision = _frozen(models) if lora else (models.master, profile.training_precision)
    return TunedNetwork(
        unet,
        models.device,
        precision,
        lora=lora,
        targets=models.family.lora_targets,
        seed=seed,
        rounded=profile.weights != torch.float32,
        start=start,
        # LoRA's Adam is small as it is, and 8 bits would have to look at every step's scale.
        optimizer=(replace(profile, eight_bit_adam=False) if lora else profile).optimizer(),
        checkpointing=checkpointing,
        compile=profile.compile and not checkpointing,
    )


def _stored(models: Models, weights: Weights, lora: bool) -> Weights:
    """Tuned `weights` as stage 3 takes them: on the device, in the profile's type, LoRA's in float32.

    Raises `FloatingPointError` where one is not finite.
    """
    dtype = torch.float32 if lora else models.profile.weights
    if weights and not torch.stack([weight.isfinite().all() for weight in weights.values()]).all():
        raise FloatingPointError
    return {name: weight.to(dtype) for name, weight in weights.items()}


def sampled_pictures(
    models: Models, report: Reporter, seeds: Sequence[int], size: tuple[int, int], latents_of: LatentsOf
) -> list[Image.Image]:
    """A picture of `size` (W, H) for each seed, in batches that the device holds, with previews of the first.

    A batch that the memory doesn't hold is halved.
    """
    shape = models.latent_shape_of(size)
    images: list[Image.Image] = []
    most, index = models.profile.batch, 0
    batches = [tuple(seeds[start : start + most]) for start in range(0, len(seeds), most)]
    while index < len(batches):
        batch = batches[index]
        noise = initial_latents(batch, shape).to(models.device)
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
