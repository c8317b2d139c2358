"""How well a picture fits its words, and two pictures each other: cosines of CLIP's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.errors import ModelError
from layerdiffusion.hub import download_clip
from layerdiffusion.models.family import Network
from layerdiffusion.models.parts import quiet, reason

PREFIX = "A photo depicts "  # CLIPScore's, before every text (Hessel et al. 2021, https://arxiv.org/abs/2104.08718)


def clipscore(cosine: float) -> float:
    """CLIPScore proper, 0 to 2.5, of the cosine of a picture and `PREFIX` + text."""
    return 2.5 * max(0.0, cosine)


class Clip:
    """A `CLIPModel`, frozen, and its `CLIPProcessor`."""

    def __init__(self, model: Network, processor: Any) -> None:
        self.model, self.processor = model, processor

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The embeddings, of length 1: (len(images), D) and (len(texts), D)."""
        inputs = self.processor(
            text=list(texts), images=list(images), return_tensors="pt", padding=True, truncation=True
        )
        out = self.model(**inputs.to(self.model.device, self.model.dtype))  # which converts the pixels alone
        return out.image_embeds.float(), out.text_embeds.float()

    def scores(self, images: Sequence[Image.Image], prompt: str) -> list[float]:
        """The paper's CLIP score: the cosine, −1 to 1, of each picture and the prompt."""
        pictures, words = self.embed([squared(image) for image in images], [prompt])
        return (pictures @ words.T)[:, 0].tolist()


def load_clip(folder: Path, device: torch.device) -> Clip:
    """The CLIP in `folder` if it exists, else ViT-B/32; on CUDA in float16.

    Weights come from safetensors, or from a .bin of which nothing but tensors is unpickled. Raises `ModelError`.
    """
    from transformers import CLIPModel, CLIPProcessor

    source, safetensors = (folder, True) if folder.is_dir() else download_clip()
    try:
        with quiet():
            model = CLIPModel.from_pretrained(
                source, use_safetensors=safetensors, weights_only=True, local_files_only=True, dtype=torch.float32
            )
            processor = CLIPProcessor.from_pretrained(source, local_files_only=True)
    except Exception as error:  # damaged files raise nearly anything
        raise ModelError(
            f"The CLIP model in {source} can't be opened ({reason(error)}); download or save it again."
        ) from error
    model = model.to(device, torch.float16 if device.type == "cuda" else torch.float32)
    return Clip(model.requires_grad_(False).eval(), processor)


def squared(image: Image.Image) -> Image.Image:
    """The picture with grey beside it, or above and below, up to a square: CLIP's processor would cut its ends off."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
