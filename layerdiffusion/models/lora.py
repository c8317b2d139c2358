"""LoRA files on top of a model: their changes are added to its weights once, and nothing of them stays beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from layerdiffusion.errors import ModelError
from layerdiffusion.models.hub import PLUS
from layerdiffusion.models.parts import Parts, reason

MOST = 10  # the largest scale: what goes far beyond 1 is a slip
# The two factors in the names of kohya's scripts, of PEFT and of diffusers, of today and of its first LoRAs.
Layer = nn.Linear | nn.Conv2d
FACTOR = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight")
NETWORKS = {  # by the beginning of a name; the first that fits
    **{"lora_te2_": "text_encoder_2", "lora_te1_": "text_encoder", "lora_te_": "text_encoder", "lora_unet_": "unet"},
    **{"text_encoder_2.": "text_encoder_2", "text_encoder.": "text_encoder", "unet.": "unet"},
    "base_model.model.": "unet",
}


def split_name(name: str) -> tuple[str, list[str]]:
    """A model's name as `load_models` takes it: the model's own, and its LoRA files as FILE or FILE:SCALE."""
    base, *files = [name] if Path(name).exists() else name.split(PLUS)
    return base, files


def add_loras(parts: Parts, files: Sequence[str]) -> None:
    """Add each file's W' = W + scale · alpha/rank · B·A to the networks that it is for, in place.

    A file is a .safetensors in the names of diffusers, PEFT or kohya's scripts. Raises `ModelError`.
    """
    networks = {"unet": parts.unet, **parts.family.parts}
    layers = {
        (part, _flat(name)): module
        for part, network in networks.items()
        if isinstance(network, nn.Module)
        for name, module in network.named_modules()
        if isinstance(module, Layer)
    }
    for text in files:
        path, scale = _file_and_scale(text)
        try:
            _add(layers, *_opened(path, parts), scale)
        except Exception as error:  # whatever the file holds instead
            label = parts.family.label
            raise ModelError(
                f"The LoRA {path} doesn't fit this {label} model ({reason(error)}); choose one for it."
            ) from error


def _opened(path: Path, parts: Parts) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The file's tensors, and what its header says of each network's scale."""
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        header = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    if any(re.match(r"lora_unet_(input|middle|output)_block", name) for name in weights):
        weights = _maybe_map_sgm_blocks_to_diffusers(weights, parts.unet.config)
    parts_named = {name.rpartition(".")[0] for name in header if name.endswith(".lora_alpha")}
    return weights, {part: header[f"{part}.lora_alpha"] / header[f"{part}.r"] for part in parts_named}


def _add(
    layers: Mapping[tuple[str, str], Layer], weights: dict[str, Tensor], scales: dict[str, float], scale: float
) -> None:
    """Raises `ValueError` before anything is changed."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        if match := FACTOR.fullmatch(name):
            found.setdefault(match[1], {})["down" if match[2] in ("A", "down") else "up"] = weight.float()
        elif not name.endswith(".alpha"):
            raise ValueError(f"{name} is no part of a plain LoRA")
    if not found:
        raise ValueError("there is no LoRA in it")
    changes = []
    for name, factors in found.items():
        part = next((part for start, part in NETWORKS.items() if name.startswith(start)), "unet")
        stem = _flat(next((name[len(start) :] for start in NETWORKS if name.startswith(start)), name))
        layer = layers.get((part, stem)) or layers.get((part, f"{stem}_0"))  # diffusers' first called to_out.0 to_out
        if layer is None or len(factors) < 2:
            raise ValueError(f"{name} has no place there")
        up, down, old = factors["up"], factors["down"], layer.weight
        share = weights[f"{name}.alpha"].item() / len(down) if f"{name}.alpha" in weights else scales.get(part, 1.0)
        if (len(up), *down.shape[1:]) != tuple(old.shape) or up.shape[1] != len(down) or up[0].numel() != len(down):
            raise ValueError(f"{name} is of another size there")
        changes.append((old, (up.flatten(1) @ down.flatten(1)).view_as(old) * (scale * share)))
    with torch.no_grad():
        for old, change in changes:
            old += change


def _flat(name: str) -> str:
    """A module's name as kohya's scripts write it; CLIP's have an outer module in some versions of transformers."""
    return name.replace(".processor", "").replace(".", "_").removeprefix("text_model_")


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
