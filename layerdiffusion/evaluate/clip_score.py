"""How well a picture fits its words: the plain cosine of CLIP's two embeddings, as the paper reports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

if TYPE_CHECKING:
    from layerdiffusion.models import Models


@torch.no_grad()
def clip_score(models: Models, images: Sequence[Image.Image], prompt: str) -> list[float]:
    """The cosine, −1 to 1, of each picture and the prompt under the model's own CLIP. Raises `ModelError`."""
    clip, processor = models.clip()
    inputs = processor(text=[prompt], images=list(images), return_tensors="pt", padding=True, truncation=True)
    out = clip(**inputs.to(models.device))
    return (out.image_embeds @ out.text_embeds.T)[:, 0].tolist()
