"""Pictures of a miniature's model for captions whose answer is known, as its figures and its card take them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from layerdiffusion.miniature.captions import join, phrase
from layerdiffusion.miniature.world import PLACES, draw_attributes, held_out
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.profile import device_profile

STEPS, GUIDANCE = 50, 3.0
ATTRIBUTES = ("animal", "place", "pose", "paint", "size")
BATCH = 25

Painter = Callable[..., "list[Image.Image]"]


def guidance_of(folder: Path) -> float:
    """The classifier-free guidance that the model's own settings ask for."""
    path = folder / "settings.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return settings.get("guidance_scale", GUIDANCE)


def painter(folder: Path) -> Painter:
    """`paint(captions, seeds)`: pictures of the folder's model, by diffusers' own pipeline, DDIM, 50 steps."""
    import torch

    ensure_torchvision()
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    profile = device_profile()
    pipeline.to(profile.device)
    pipeline.set_progress_bar_config(disable=True)
    guidance = guidance_of(folder)

    def paint(captions: list[str], seeds: list[int], steps: int = STEPS) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.autocast(profile.device.type, profile.precision, enabled=profile.precision != torch.float32):
            return pipeline(captions, num_inference_steps=steps, guidance_scale=guidance, generator=generators).images

    return paint


def wishes(count: int, unseen: bool, first_seed: int) -> list[dict[str, str | None]]:
    """`count` complete sets of attributes, of combinations trained on or of those that weren't."""
    found: list[dict[str, str | None]] = []
    rng = np.random.default_rng([first_seed, 8])
    while len(found) < count:
        attributes = draw_attributes(rng, rng, str(rng.choice(PLACES)), {})
        if held_out(attributes) == unseen:
            found.append({key: attributes[key] for key in ATTRIBUTES})
    return found


def generated(paint: Painter, wanted: list[dict[str, str | None]], first_seed: int, name: str) -> list[Image.Image]:
    """A picture for each set of attributes, of seeds from `first_seed` on; `name` is the progress bar's."""
    from tqdm import tqdm

    captions = [join(*phrase(attributes)) for attributes in wanted]
    images: list[Image.Image] = []
    for start in tqdm(range(0, len(wanted), BATCH), desc=name, unit="batch", leave=False):
        part = captions[start : start + BATCH]
        images += paint(part, list(range(first_seed + start, first_seed + start + len(part))))
    return images
