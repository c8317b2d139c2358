"""LoRA files on top of a model: their changes are added to its weights once, and nothing of them stays beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from layerdiffusion.errors import ModelError
from layerdiffusion.models.parts import BUILDING, Parts, reason

MOST = 10  # the largest scale: what goes far beyond 1 is a slip
PLUS = " + "  # between a model's name and the LoRA files on top of it


def split_name(name: str) -> tuple[str, list[str]]:
    """A model's name as `load_models` takes it: the model's own, and its LoRA files as FILE or FILE:SCALE."""
    base, *files = [name] if Path(name).exists() else name.split(PLUS)
    return base, files


def add_loras(parts: Parts, files: Sequence[str]) -> None:
    """Add each file's change, times its scale, to the networks that it is for, in place.

    A file is a .safetensors in the names of diffusers, PEFT or kohya's scripts. Raises `ModelError`.
    """
    if not files:
        return
    pipeline = parts.family.pipeline_class()(
        unet=parts.unet, vae=parts.vae, scheduler=parts.scheduler, **parts.family.parts, **parts.family.left_out
    )
    for text in files:
        path, scale = _file_and_scale(text)
        with BUILDING:
            try:
                pipeline.load_lora_weights(
                    str(path.parent), weight_name=path.name, local_files_only=True, use_safetensors=True
                )
                found = bool(pipeline.get_list_adapters())
                if found:
                    pipeline.fuse_lora(lora_scale=scale, components=list(pipeline.get_list_adapters()))
            except Exception as error:  # whatever the file holds instead
                raise _unfit(path, parts, reason(error)) from error
            if not found:
                raise _unfit(path, parts, "none of its weights has a place there")
            pipeline.unload_lora_weights()
    for network in (parts.unet, *parts.family.networks):
        network.requires_grad_(False).eval()


def _file_and_scale(text: str) -> tuple[Path, float]:
    name, number = text, "1"
    if ".safetensors:" in text:  # a drive's letter has a colon, too
        name, _, number = text.rpartition(":")
    path = Path(name).expanduser()
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not abs(scale) <= MOST:
        raise ModelError(f"The scale of {path} is {number}: it must be a number from -{MOST} to {MOST}.")
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is no .safetensors file; give a LoRA as one.")
    if not path.is_file():
        raise ModelError(f"There is no LoRA file at {path}; check the path.")
    return path, scale


def _unfit(path: Path, parts: Parts, why: str) -> ModelError:
    return ModelError(f"The LoRA {path} doesn't fit this {parts.family.label} model ({why}); choose one made for it.")
