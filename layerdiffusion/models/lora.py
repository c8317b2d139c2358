"""LoRA files on top of a model: diffusers reads them and adds their changes to the weights, once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from layerdiffusion.errors import ModelError
from layerdiffusion.models.parts import Parts, reason

MOST_SCALE = 10  # the largest scale: what goes far beyond 1 is a slip
# The beginnings of names in diffusers' and kohya's files.
OF_A_PIPELINE = ("unet.", "transformer.", "diffusion_model.", "text_encoder", "lora_")
PEFT_PREFIX = "base_model.model."  # of names in PEFT's own files, whose scale is in a config beside them


def add_loras(parts: Parts, files: Sequence[str]) -> None:
    """Add each file's W' = W + scale · ΔW to the networks that it is for, in place.

    A file is a .safetensors as diffusers, PEFT or kohya's scripts write it. Raises `ModelError`, after which the parts
    are of no use.
    """
    for text in files:
        path, scale = _file_and_scale(text)
        names, header = _contents(path)
        family = parts.family
        networks = [parts.unet, *family.networks]
        try:
            pipeline = family.pipeline_class()(
                **{family.network: parts.unet},
                vae=parts.vae,
                scheduler=parts.scheduler,
                **family.parts,
                **family.left_out,
            )
            if any(name.startswith(OF_A_PIPELINE) for name in names):
                pipeline.load_lora_weights(str(path))
                if family.network == "transformer":  # whose files may hold as one what is split between its layers
                    names = list(pipeline.lora_state_dict(str(path)))
            else:
                _load_into_network(parts.unet, path, header)
            added = [name for network in networks for name, _ in network.named_parameters() if ".lora_" in name]
            # The library leaves out what it has no place for, and only logs it.
            if len(added) != sum(not name.endswith(".alpha") for name in names) or not added:
                raise ValueError(f"{len(names)} tensors, of which {len(added)} have a place there")
            pipeline.fuse_lora(lora_scale=scale, safe_fusing=True)
            pipeline.unload_lora_weights()
        except Exception as error:  # whatever the file holds instead
            raise ModelError(
                f"The LoRA {path} doesn't fit this {family.label} model ({reason(error)}); choose one for it."
            ) from error


def _load_into_network(unet: Any, path: Path, header: Mapping[str, str]) -> None:
    """Load the LoRA of a network alone, as PEFT's `save_pretrained` or diffusers' `save_lora_adapter` write it."""
    weights = load_file(path)
    config = json.loads(header["lora_adapter_metadata"]) if "lora_adapter_metadata" in header else None
    if all(name.startswith(PEFT_PREFIX) for name in weights):
        beside = path.with_name("adapter_config.json")
        if not beside.is_file():
            raise ValueError("its scale is in the adapter_config.json beside it, which isn't there")
        config = json.loads(beside.read_text(encoding="utf-8-sig"))
        weights = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in weights.items()}
    unet.load_lora_adapter(weights, prefix=None, metadata=config)


def _contents(path: Path) -> tuple[list[str], Mapping[str, str]]:
    """The names of the file's tensors, and its header's own entries."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({reason(error)}); download or save it again."
        ) from error


def _file_and_scale(text: str) -> tuple[Path, float]:
    name, number = text, "1"
    if re.search(r"\.safetensors:", text, re.IGNORECASE):  # a drive's letter has a colon, too
        name, _, number = text.rpartition(":")
    path = Path(name).expanduser()
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not abs(scale) <= MOST_SCALE:
        raise ModelError(f"The scale of {path} is {number}: it must be a number from -{MOST_SCALE} to {MOST_SCALE}.")
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path} is no .safetensors file; give a LoRA as one.")
    if not path.is_file():
        raise ModelError(f"There is no LoRA file at {path}; check the path.")
    return path, scale
