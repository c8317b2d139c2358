"""How well a picture fits its words, and two pictures each other: cosines of CLIP's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models

PREFIX = "A photo depicts "  # CLIPScore's, before every text (Hessel et al. 2021, https://arxiv.org/abs/2104.08718)


def clip_score(models: Models, images: Sequence[Image.Image], prompt: str) -> list[float]:
    """The paper's CLIP score: the cosine, −1 to 1, of each picture and the prompt under the model's own CLIP.

    Raises `ModelError`.
    """
    pictures, words = embed(models, images, [prompt])
    return (pictures @ words.T)[:, 0].tolist()


def clipscore(cosine: float) -> float:
    """CLIPScore proper, 0 to 2.5, of the cosine of a picture and `PREFIX` + text."""
    return 2.5 * max(0.0, cosine)


def clip_name(models: Models) -> str:
    """Which CLIP the scores of these models are of; scores of two CLIPs can't be compared."""
    from layerdiffusion.models.load import HUB_CLIP

    return f"{models.name}/clip" if (models.folder / "clip").is_dir() else HUB_CLIP


@torch.no_grad()
def embed(models: Models, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """CLIP's embeddings, of length 1: (len(images), D) and (len(texts), D). Raises `ModelError`."""
    clip, processor = models.clip()
    inputs = processor(text=list(texts), images=list(images), return_tensors="pt", padding=True, truncation=True)
    out = clip(**inputs.to(models.device))
    return out.image_embeds, out.text_embeds
