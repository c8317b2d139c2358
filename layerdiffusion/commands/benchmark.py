"""`python -m layerdiffusion benchmark`: seconds and peak memory of each stage of an edit, by the presets."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from layerdiffusion.commands.terminal import add_lora, writable
from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError
from layerdiffusion.files import saving, write_files
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    import torch

    from layerdiffusion.models.models import Models
    from layerdiffusion.progress import Progress

UNTRAINED = {"untrained": "Stable Diffusion v1.4's", "untrained-laptop": "the laptop models'"}
BENCHED = ("paper", "quick", "lora")
COLUMNS = ("embeddings", "finetune", "sampling", "total")
SEEDS, MORE_SEEDS = (0, 1, 2, 3), (4, 5, 6, 7)
# Stable Diffusion v1.4's architecture, where it differs from diffusers' and transformers' defaults.
UNET_CONFIG: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
LAPTOP_CONFIG: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 1,
}  # where they differ from it
VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT_ENCODER_CONFIG: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the `benchmark` command."""
    add = parser.add_argument
    words = " or ".join(f"random weights of {size} size ({name})" for name, size in UNTRAINED.items())
    add("--model", default="auto", help=f"miniature, a diffusers folder, a hub id, auto, or {words}")
    add_lora(parser)
    add("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    add("--presets", default=",".join(BENCHED), metavar="P,P", help=f"some of {', '.join(BENCHED)}; all by default")
    add("--steps", type=int, metavar="N", help="so many steps of every stage; else the preset's")
    add("--out", type=Path, metavar="DIR", help="write benchmark.json and benchmark.md there")
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Time an edit of four seeds by each preset, and four new seeds for it; print and save the figures."""
    presets = [name.strip() for name in args.presets.split(",")]
    if not set(presets) <= set(BENCHED):
        raise EditError(f"--presets is {args.presets!r}: it must be some of {', '.join(BENCHED)}, with commas.")
    out = None if args.out is None else writable(args.out)
    import torch

    from layerdiffusion.models.load import load_models

    if args.model in UNTRAINED:
        models = untrained_models(args.device, args.model)
    else:
        models = load_models(args.model, args.device, loras=args.lora or ())
    cuda = models.device.type == "cuda"
    figures = {
        "model": models.name,
        "device": torch.cuda.get_device_name(models.device) if cuda else platform.processor() or "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "presets": {name: measure(models, settings_of(models, name, args.steps)) for name in presets},
    }
    page = markdown(figures)
    if out is not None:
        with saving("The figures", out):
            contents = {"benchmark.json": json.dumps(figures, indent=2) + "\n", "benchmark.md": page}
            write_files({out / name: text.encode() for name, text in contents.items()})
    print(json.dumps(figures) if args.json else page)
    return 0


def settings_of(models: Models, name: str, steps: int | None) -> Settings:
    """A preset's settings with four seeds; "lora": the paper's, stage 2 tuning low-rank additions."""
    from layerdiffusion.models.memory import fitting_preset

    settings = fitting_preset(models, "paper" if name == "lora" else name)
    if name == "lora":
        settings = replace(settings, tune="lora")
    if steps is not None:
        settings = replace(settings, embedding_steps=steps, finetune_steps=steps, sampling_steps=steps)
    return replace(settings, seeds=SEEDS)


def measure(models: Models, settings: Settings) -> dict[str, Any]:
    """Seconds of each stage, of the first edit and of new seeds for it; on CUDA GiB at each stage's peak as well.

    An edit that can't be done says so under "refused".
    """
    import torch

    from layerdiffusion.editor import Editor
    from layerdiffusion.models.memory import predicted_need

    peaks: dict[str, float] = {}

    def watch(event: Progress) -> None:
        peaks[event.stage] = max(peaks.get(event.stage, 0.0), torch.cuda.max_memory_allocated(models.device) / 2**30)
        torch.cuda.reset_peak_memory_stats(models.device)

    cuda = models.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(models.device)
    editor, edit = Editor(models), edit_of_noise(models.size)
    try:
        first = editor.run(edit, settings, watch if cuda else None)
        again = editor.run(edit, replace(settings, seeds=MORE_SEEDS))
    except EditError as error:
        return {"refused": str(error)}
    need = predicted_need(models, settings)
    return {
        "settings": first.settings.to_dict(),
        "seconds": first.timings,
        "seconds_for_new_seeds": again.timings["total"],
        "peak_gib": peaks,
        "predicted_gib": need and need.bytes / 2**30,
        "warnings": list(first.warnings),
    }


def markdown(figures: dict[str, Any]) -> str:
    """The figures as a table, a preset a row."""
    lines = [
        f"{figures['model']} on {figures['device']}, torch {figures['torch']}, {figures['threads']} threads.",
        "",
        f"| four pictures | {' | '.join(COLUMNS)} | new seeds |",
        f"|{'---|' * (len(COLUMNS) + 2)}",
    ]
    for name, found in figures["presets"].items():
        if "refused" in found:
            lines.append(f"| {name} | {found['refused']} |" + " |" * len(COLUMNS))
            continue
        cells = [_cell(found["seconds"].get(stage), found["peak_gib"].get(stage)) for stage in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} | {found['seconds_for_new_seeds']:.1f} s |")
        lines += [f"| | {warning} |" + " |" * len(COLUMNS) for warning in found["warnings"]]
    return "\n".join(lines) + "\n"


def _cell(seconds: float | None, peak: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" + ("" if peak is None else f", {peak:.1f} GiB")


def edit_of_noise(side: int) -> Edit:
    """An edit of two square pictures of noise: what they show changes neither time nor memory."""
    photo, reference = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    return Edit(
        Image.fromarray(photo), mask, Image.fromarray(reference), np.roll(mask, side // 4, 0),
        object_prompt="a dog jumping", background_prompt="on the beach",
    )  # fmt: skip


def untrained_models(device: str | None, name: str = "untrained") -> Models:
    """Models of the configs above with seeded random weights, so that nothing is downloaded."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from layerdiffusion.models.family import StableDiffusion
    from layerdiffusion.models.load import LAPTOP_SETTINGS, MINIATURE, assemble, laptop_size
    from layerdiffusion.models.parts import Parts
    from layerdiffusion.models.profile import device_profile

    profile, is_laptop = device_profile(device), name == "untrained-laptop"
    tokenizer = CLIPTokenizer.from_pretrained(MINIATURE / "tokenizer", model_max_length=77)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    networks = [
        UNet2DConditionModel(**UNET_CONFIG | (LAPTOP_CONFIG if is_laptop else {})),
        AutoencoderKL(**VAE_CONFIG),
        CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER_CONFIG, **ids)),
    ]
    for network in networks:
        _bound(network.requires_grad_(False).eval())
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False,
        set_alpha_to_one=False,
    )  # fmt: skip
    unet, vae, text_encoder = networks
    parts = Parts(unet, vae, StableDiffusion(text_encoder, tokenizer), scheduler)
    size, own = (laptop_size(profile), LAPTOP_SETTINGS) if is_laptop else (None, None)
    return assemble(name, parts, Path(name), profile, size, own_settings=own)


def _bound(network: torch.nn.Module) -> None:
    """Weights of the size that keeps a trained network's activations in bounds, from one seed."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, weights in network.named_parameters():
        if weights.dim() > 1:
            weights.normal_(0, 0.7 * weights[0].numel() ** -0.5, generator=generator)
        else:
            weights.fill_(float(name.endswith("weight")))
