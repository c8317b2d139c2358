"""Models of another kind than Stable Diffusion 1.x, SDXL and FLUX.2 klein base, and why each can't be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from layerdiffusion.errors import ModelError

# The beginning of the class of those that can be used.
PIPELINES = re.compile(r"StableDiffusion(?!\d|(XL)?InstructPix2Pix)|Flux2KleinPipeline$")
DISTILLED = "it is distilled to a few steps without guidance ({}), which sampling here relies on"
DISTILLED_NAME = re.compile(r"(?<![a-z])(turbo|lightning|lcm|hyper|schnell)(?![a-z])", re.IGNORECASE)
# As its makers call it; the one to train has "base" in its name.
DISTILLED_KLEIN = re.compile(r"flux\.?2-klein-\d", re.IGNORECASE)
FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
# By a part of the names of a single file's weights.
WEIGHT_NAMES = {
    "joint_blocks.": "it is Stable Diffusion 3, a transformer that is trained by flow matching",
    "double_blocks.": "it is a Flux in one file, of which FLUX.2 klein base opens from its diffusers folder alone",
    "cond_stage_model.model.": "it is Stable Diffusion 2.x, which opens from its diffusers folder alone",
    "lora_": "it is a LoRA, which goes on top of a model: give it as --lora",
    "control_model.": "it is a ControlNet, which goes beside a model",
}
# By how many channels the network takes, where they aren't those of latents alone.
CHANNELS = {
    8: "it is InstructPix2Pix, which edits by orders instead of descriptions",
    9: "it is an inpainting model, whose network takes a mask and a picture as well",
}
REFINER = "it is SDXL's refiner, which only finishes the pictures of SDXL"


def refuse(source: Path | str, why: str) -> NoReturn:
    """Raise the `ModelError` that says why the model can't be used."""
    raise ModelError(f"{source} is not a Stable Diffusion 1.x, SDXL or FLUX.2 klein base model: {why}; choose one.")


def refuse_distilled_klein(source: Path | str) -> NoReturn:
    """Raise the `ModelError` of the klein that can't be trained."""
    raise ModelError(
        f"{source} is FLUX.2 klein distilled to four steps without guidance, which can't be trained on without undoing "
        "that; choose FLUX.2 klein base, as black-forest-labs/FLUX.2-klein-base-4B."
    )


def check_name(name: str) -> None:
    """Refuse what its own name calls distilled: nothing in a checkpoint's weights tells."""
    if found := DISTILLED_NAME.search(name.rstrip("/").rsplit("/", 1)[-1]):
        refuse(name, DISTILLED.format(found[1].capitalize()))
    if DISTILLED_KLEIN.search(name.rstrip("/").rsplit("/", 1)[-1]):
        refuse_distilled_klein(name)


def check_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a folder by its `model_index.json`, which may be empty."""
    pipeline = str(index.get("_class_name", ""))
    if pipeline and not PIPELINES.match(pipeline):
        refuse(folder, f"its pipeline is a {pipeline}")
    if index.get("is_distilled"):
        refuse_distilled_klein(folder)
    if index.get("requires_aesthetics_score"):
        refuse(folder, REFINER)


def check_configs(folder: Path, unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Refuse a folder by its network's and its scheduler's config."""
    kind = str(scheduler.get("_class_name", ""))
    if unet.get("time_cond_proj_dim") or kind in FEW_STEP_SCHEDULERS:
        refuse(folder, DISTILLED.format("LCM"))
    if kind.startswith("EulerAncestral") and scheduler.get("timestep_spacing") == "trailing":
        refuse(folder, DISTILLED.format("Turbo"))
    if unet.get("in_channels") in CHANNELS:
        refuse(folder, CHANNELS[unet["in_channels"]])
    is_xl = unet.get("addition_embed_type") == "text_time"
    if is_xl and unet.get("projection_class_embeddings_input_dim") == 5 * unet["addition_time_embed_dim"] + 1280:
        refuse(folder, REFINER)


def check_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a single file by its weights' names and shapes."""
    for part, why in WEIGHT_NAMES.items():
        if any(part in name for name in shapes):
            refuse(path, why)
    if not is_xl(shapes) and any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        refuse(path, REFINER)
    channels = shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 4))[1]
    if channels in CHANNELS:
        refuse(path, CHANNELS[channels])


def is_xl(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a single file's weights are SDXL's."""
    return any(name.startswith("conditioner.embedders.1.") for name in shapes)
