"""`python -m layerdiffusion benchmark`: what each stage of an edit costs here, beside Imagic's plain way of stepping.

With `--accept`, what a machine's first minutes have to show instead; see `acceptance`.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from layerdiffusion.commands.terminal import add_lora
from layerdiffusion.evaluation.datasets.toybench import pose_and_place
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    from layerdiffusion.edit import Edit
    from layerdiffusion.models.load import Models

SEEDS = (0, 1, 2, 3)
MORE_SEEDS = (4, 5, 6, 7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the `benchmark` command."""
    parser.add_argument("--model", default="auto", help="miniature, a diffusers folder, a hub id, or auto")
    add_lora(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of each stage beside the plain way")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    accept = "check this machine with untrained models of Stable Diffusion's true size, and write the figures to OUT"
    parser.add_argument("--accept", metavar="OUT", help=f"{accept}; at most 15 minutes on a GPU")
    parser.add_argument("--tiny", action="store_true", help="with --accept: a tiny model, on a CPU in a minute")


def run(args: argparse.Namespace) -> int:
    """Time a default edit of four seeds, new seeds for it, and both ways of stepping; print them."""
    if args.accept:
        from layerdiffusion.commands.acceptance import accept

        return accept(args.accept, args.device, args.tiny)
    import torch

    from layerdiffusion.commands.stepping import few_steps, stepping
    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models

    models = load_models(args.model, args.device, loras=args.lora or ())
    settings = replace(models.defaults, **few_steps(args.steps), seeds=SEEDS)  # refused here, if it is to be refused
    edit = _edit(models)
    if models.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(models.device)
    editor = Editor(models)
    cold = editor.run(edit, Settings(seeds=SEEDS)).timings
    again = editor.run(edit, Settings(seeds=MORE_SEEDS)).timings
    peak, device = None, platform.processor() or "cpu"
    if models.device.type == "cuda":  # read before the plain way takes more
        peak, device = torch.cuda.max_memory_allocated(models.device) / 2**30, torch.cuda.get_device_name(models.device)
    figures: dict[str, Any] = {"model": models.name, "device": device, "threads": torch.get_num_threads()}
    figures |= {"seconds": cold, "seconds_for_new_seeds": again}
    figures["milliseconds_a_step"] = stepping(models, edit, settings)
    if peak is not None:
        figures["peak_memory_gib"] = peak
    if args.json:
        print(json.dumps(figures))
        return 0
    print(f"{models.name} on {device}, {figures['threads']} threads")
    for title, timings in ((f"an edit, {len(SEEDS)} seeds", cold), (f"{len(MORE_SEEDS)} new seeds for it", again)):
        print(title.ljust(24) + "  ".join(f"{stage} {seconds:.1f} s" for stage, seconds in timings.items()))
    if "peak_memory_gib" in figures:
        print(f"peak memory {figures['peak_memory_gib']:.1f} GiB")
    print("milliseconds a step".ljust(40) + "ours".rjust(8) + "plain".rjust(8) + "ratio".rjust(8))
    for stage, (ours, plain) in figures["milliseconds_a_step"].items():
        print(stage.ljust(40) + f"{ours:8.1f}{plain:8.1f}{plain / ours:8.2f}")
    return 0


def _edit(models: Models) -> Edit:
    """An edit of the toybox, at the model's size."""
    edit = pose_and_place(0).edit
    if models.size == edit.object_image.width or edit.background_image is None:
        return edit
    size = (models.size, models.size)
    return replace(
        edit,
        object_image=edit.object_image.resize(size),
        object_mask=_resized(edit.object_mask, size),
        background_image=edit.background_image.resize(size),
        background_mask=_resized(edit.background_mask, size),
    )


def _resized(mask: Any, size: tuple[int, int]) -> Any:
    return np.asarray(Image.fromarray(mask).resize(size))
