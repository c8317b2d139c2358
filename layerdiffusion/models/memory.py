"""What an edit takes of a card's memory: predicted before it runs, put into words, and refused where it can't fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from layerdiffusion.errors import EditError, SettingsError
from layerdiffusion.models.family import StableDiffusionXL
from layerdiffusion.models.klein import Klein
from layerdiffusion.models.models import Models
from layerdiffusion.models.profile import GIB, Profile
from layerdiffusion.settings import Settings, preset

CONTEXT = GIB  # what CUDA and the allocator take beside live tensors
CLIP = 300 * 2**20  # ViT-B/32 in float16
SLACK = 1.1  # a prediction is not exact: what is over by less is tried, and runs again with less where it fails
# Bytes a parameter of the network in full stage 2. While a step computes: the float32 weights (4), their rounded copy
# (2) and Adam's state (8, or 2 with 8 bits); when Adam begins, the rounded gradients (2) too.
STEPPING, STATE, UPDATING = 6, {False: 8, True: 2}, 2
# GiB at 64 × 64 latents and 320 channels, counted on Stable Diffusion v1.4's live tensors: the activations of a picture
# that stage 1 needs, those that stage 2 needs, with checkpointing, as LoRA, those of a picture in stage 3, what the
# gradients that are float32 at once take, and the autoencoder's.
FITTED, TRAINED, CHECKPOINTED, ADAPTED, FORWARD, WIDENED, DECODED = 0.72, 0.9, 0.23, 0.8, 0.07, 0.6, 0.8
# The same, counted on SDXL's at 128 × 128 latents: a draw of stage 1 and one of LoRA in stage 2, each with activations
# recomputed and not; and its autoencoder's, which is float32.
XL_FITTED, XL_TRAINED, XL_DECODED = {True: 0.63, False: 2.5}, {True: 0.55, False: 1.4}, 1.22

# The same of klein's for 1024 tokens of a picture and its words: a draw of stage 1 and one of LoRA in stage 2, with
# activations recomputed, and a row of stage 3; the adapters with their optimizer; what the text encoder takes beside
# its weights; and its autoencoder's for 1024 × 1024 pixels.
KLEIN_FITTED, KLEIN_TRAINED, KLEIN_FORWARD = 0.8, 0.5, 0.17
KLEIN_ADAPTERS, KLEIN_READING, KLEIN_DECODED = 0.3, 0.95, 3.3

# Full tuning: a weight in float32, its gradient, Adam's two averages and the frozen one in half precision; beside them
# activations, autoencoder and CUDA itself. Predicted, not measured: for SDXL 50 GB.
FULL_TUNING_BYTES, FULL_TUNING_REST = 4 * 4 + 2, 4 * 10**9


class TooLarge(EditError):
    """The edit can't fit the device's memory."""


@dataclass(frozen=True)
class Need:
    """What an edit takes of the memory that was free before the model was loaded, in bytes."""

    bytes: int
    free: int
    saving: bool  # whether memory saving is on, which costs time

    @property
    def fits(self) -> bool:
        return self.bytes <= self.free * SLACK

    def __str__(self) -> str:
        way = "; low-memory way chosen" if self.saving else ""
        return f"needs about {self.bytes / GIB:.0f} of {self.free / GIB:.0f} GB{way}"


def predicted_need(models: Models, settings: Settings) -> Need | None:
    """What the edit takes at its peak, the networks, Segment Anything and CLIP included; None where nobody knows the
    device's memory, as on a CPU.
    """
    profile = models.profile
    if profile.memory is None:
        return None
    resident = sum(parameter.nbytes for network in models.networks for parameter in network.parameters())
    saving = profile.low_memory or settings.tune != models.model_defaults.tune == "full"
    peak = resident + _working(models, settings, profile) + CONTEXT + CLIP + profile.segmenter_bytes
    return Need(int(peak), profile.memory, saving)


def check_need(models: Models, settings: Settings) -> None:
    """Raise `TooLarge` where the edit can't fit, with the setting that would; or a `SettingsError` for all of SDXL's
    weights on a card that never holds them."""
    if not models.family.tunes_all:
        _check_lora_alone(models, settings)
    need = predicted_need(models, settings)
    if need is None or need.fits:
        if models.profile.device.type == "cuda" and isinstance(models.family, StableDiffusionXL):
            _check_full_tuning(models, settings)
        return
    start = f"This edit {str(need).partition(';')[0]} on the device"
    changes: tuple[tuple[str, Any], ...] = ("layers", "composite"), ("tune", "lora"), ("draws", 1)
    for name, value in changes:
        settings = replace(settings, **{name: value})  # one after the other: each may need those before
        fitting = predicted_need(models, settings)
        if fitting is not None and fitting.fits:
            raise TooLarge(f"{start}; set {name} to {value}, and it takes about {fitting.bytes / GIB:.0f}.")
    raise TooLarge(f"{start}; choose a smaller model, or the CPU.")


def _check_full_tuning(models: Models, settings: Settings) -> None:
    _, total = torch.cuda.mem_get_info(models.device)
    parameters = sum(parameter.numel() for parameter in models.master.parameters())
    needed = parameters * FULL_TUNING_BYTES + FULL_TUNING_REST
    if settings.tune == "full" and settings.finetune_steps and total < needed:
        raise SettingsError(
            f"tune is “full”: for {parameters / 1e9:.1f} billion weights that takes about {needed / 1e9:.0f} GB, "
            f"and this card has {total / 1e9:.0f} GB; choose “lora”."
        )


def _check_lora_alone(models: Models, settings: Settings) -> None:
    """Refuse what a family whose network is tuned by LoRA alone can't do, and solvers that aren't a flow's."""
    if settings.tune == "full" and settings.finetune_steps:
        parameters = sum(parameter.numel() for parameter in models.unet.parameters())
        needed = parameters * FULL_TUNING_BYTES + FULL_TUNING_REST
        raise SettingsError(
            f"tune is “full”: for the {parameters / 1e9:.1f} billion weights of {models.family.label} that takes about "
            f"{needed / 1e9:.0f} GB; choose “lora”."
        )
    if settings.solver != "ddim":
        raise SettingsError(
            f"solver is “{settings.solver}”: {models.family.label} is sampled by Euler's steps, which are DDIM's for a "
            "flow; choose “ddim”."
        )


def fitting_settings(models: Models) -> Settings:
    """What an edit takes by itself: the model's own settings; where memory is short the first that fit of these, with
    8-bit Adam, and of the quick ones.
    """
    if not models.profile.low_memory:
        return models.model_defaults
    eight_bit = [models.model_defaults] if models.profile.eight_bit_adam else []
    return _first_fitting(models, eight_bit + _quick_ways(models))


def fitting_preset(models: Models, name: str) -> Settings:
    """The settings of a preset for these models, as `preset` has them; "quick" with as many draws a step as fit."""
    return _first_fitting(models, _quick_ways(models)) if name == "quick" else preset(name, models.model_defaults)


def _quick_ways(models: Models) -> list[Settings]:
    """The quick settings, and the same with fewer draws a step in as many more steps."""
    quick, ways = preset("quick", models.model_defaults, models.quick), []
    for share in (share for share in (1, 2, 4) if share <= quick.draws):
        steps = {name: share * getattr(quick, name) for name in ("embedding_steps", "finetune_steps")}
        ways.append(replace(quick, draws=quick.draws // share, **steps))
    return ways


def _first_fitting(models: Models, ways: list[Settings]) -> Settings:
    needs = [(way, predicted_need(models, way)) for way in ways]
    return next((way for way, need in needs if need is None or need.bytes <= need.free), ways[-1])


def _working(models: Models, settings: Settings, profile: Profile) -> float:
    """The most that any of the stages takes beside the networks."""
    if isinstance(models.family, Klein):
        return _working_on_klein(models, models.family, settings)
    parameters = sum(parameter.numel() for parameter in models.unet.parameters())
    _, height, width = models.latent_shape
    scale = GIB * height * width / 64**2 * models.unet.config.block_out_channels[0] / 320
    lora = settings.tune == "lora"
    fitted, decoded = 2 * FITTED, DECODED
    trained = ADAPTED if lora else CHECKPOINTED if profile.checkpointing else TRAINED
    if isinstance(models.family, StableDiffusionXL):
        fitted, decoded = XL_FITTED[models.checkpoints(settings.draws)], XL_DECODED
        trained = XL_TRAINED[profile.checkpointing or settings.draws > 1]
    pictures = 2 if settings.layers == "separate" else 1
    # Beside the weights of stage 3, where there is room, those in the precision of training.
    copied = 0 if profile.low_memory or profile.weights == profile.training_precision else 2 * parameters
    held = pictures * settings.draws * scale * trained
    tuning = held + copied
    if not lora:
        standing = (STEPPING + STATE[profile.eight_bit_adam]) * parameters
        tuning = standing + max(held, UPDATING * parameters + WIDENED * GIB * parameters / 860e6)
    batch = min(len(settings.seeds), profile.batch)
    tuned = profile.weights.itemsize * parameters * (0.1 if lora else 1)
    sampling = tuned + max(2 * batch * FORWARD * scale, decoded * scale)
    fitting = copied + settings.draws * fitted * scale if settings.embedding_steps else 0.0
    return max(fitting, tuning if settings.finetune_steps else 0.0, sampling)


def _working_on_klein(models: Models, family: Klein, settings: Settings) -> float:
    _, height, width = models.latent_shape
    tokens = (height * width + family.tokens) / 1024
    pictures = 2 if settings.layers == "separate" else 1
    fitting = settings.draws * KLEIN_FITTED * tokens if settings.embedding_steps else 0.0
    tuning = KLEIN_ADAPTERS + pictures * settings.draws * KLEIN_TRAINED * tokens if settings.finetune_steps else 0.0
    rows = 2 * min(len(settings.seeds), models.profile.batch)
    sampling = KLEIN_ADAPTERS + rows * KLEIN_FORWARD * tokens
    reading = 0.0
    if family.encoder_device is None:
        reading = sum(weight.nbytes for weight in family.text_encoder.parameters()) / GIB + KLEIN_READING
    decoding = KLEIN_DECODED * models.size**2 / 1024**2
    return GIB * max(fitting, tuning, sampling, reading, decoding)
