"""How well a picture fits its words, and two pictures each other: cosines of CLIP's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.errors import ModelError
from layerdiffusion.models.family import Network
from layerdiffusion.models.hub import download_clip
from layerdiffusion.models.parts import quiet, reason

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models

PREFIX = "A photo depicts "  # CLIPScore's, before every text (Hessel et al. 2021, https://arxiv.org/abs/2104.08718)


def clip_score(models: Models, images: Sequence[Image.Image], prompt: str) -> list[float]:
    """The paper's CLIP score: the cosine, −1 to 1, of each picture and the prompt under the model's own CLIP.

    Raises `ModelError`.
    """
    pictures, words = embed(models, [squared(image) for image in images], [prompt])
    return (pictures @ words.T)[:, 0].tolist()


def clipscore(cosine: float) -> float:
    """CLIPScore proper, 0 to 2.5, of the cosine of a picture and `PREFIX` + text."""
    return 2.5 * max(0.0, cosine)


def load_clip(folder: Path, device: torch.device) -> tuple[Network, Any]:
    """The `CLIPModel` (frozen; on CUDA float16) and `CLIPProcessor` in `folder` if it exists, else ViT-B/32's.

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
    return model.requires_grad_(False).eval(), processor


def squared(image: Image.Image) -> Image.Image:
    """The picture with grey beside it, or above and below, up to a square: CLIP's processor would cut its ends off."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@torch.no_grad()
def embed(models: Models, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """CLIP's embeddings, of length 1: (len(images), D) and (len(texts), D). Raises `ModelError`."""
    clip, processor = models.clip()
    inputs = processor(text=list(texts), images=list(images), return_tensors="pt", padding=True, truncation=True)
    out = clip(**inputs.to(clip.device, clip.dtype))  # the pixels alone have a type of number to convert
    return out.image_embeds.float(), out.text_embeds.float()
