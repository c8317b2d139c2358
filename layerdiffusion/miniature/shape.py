"""Whether a picture's subject has the outline that its words name.

The subject is cut out in several ways (SAM from a box and from clicks, colours and edges by GrabCut), and each cut-out
is laid over the animal's silhouette in the pose asked for, at the best place, scale and mirror image. The judge
says where to look; of what it reads in the picture nothing is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from layerdiffusion.miniature.judge import Judge
from layerdiffusion.miniature.outline import WHOLE, best_overlap, by_colour, distinct, innermost
from layerdiffusion.miniature.world import SIDE, silhouette
from layerdiffusion.models.segmenter import Segmenter

LEAST = 60  # pixels; a smaller cut-out is no subject


@dataclass(frozen=True)
class Shape:
    """A subject beside its silhouette: the best IoU, and the cut-out (bool (H, W)) that reached it."""

    iou: float
    mask: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether the subject has its outline."""
        return self.iou >= WHOLE


class ShapeMeasure:
    """Cuts subjects out and compares their outlines. `judge` and `sam`: those of the miniature."""

    def __init__(self, judge: Judge, sam: torch.nn.Module):
        self.judge, self.segmenter = judge, Segmenter(sam)

    def __call__(self, images: Sequence[Image.Image], wanted: Sequence[dict[str, str]]) -> list[Shape]:
        """The shape of each picture's subject against the animal and the pose that `wanted` names."""
        pixels = [np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
        seen = self.judge.masks(pixels)
        return [
            max(
                (Shape(best_overlap(mask, silhouette(asked["animal"], asked["pose"])), mask)
                 for mask in self.cutouts(picture, where)),
                key=lambda shape: shape.iou,
                default=Shape(0.0, np.zeros((SIDE, SIDE), bool)),
            )
            for picture, where, asked in zip(pixels, seen, wanted, strict=True)
        ]  # fmt: skip

    def cutouts(self, picture: np.ndarray, where: np.ndarray) -> list[np.ndarray]:
        """Ways to cut out what is at `where` (bool (H, W), roughly), bool (H, W) each; none where that is empty."""
        if where.sum() < LEAST:
            return []
        ys, xs = np.nonzero(where)
        box = [float(edge) for edge in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
        self.segmenter.set_image(picture)
        click = [innermost(where)]
        found = [by_colour(picture, where), self.segmenter.mask(box=box), self.segmenter.mask(click, [1], box)]
        found += [candidate.mask for candidate in self.segmenter.candidates(click, [1])]
        return [mask for mask in distinct(found) if mask.sum() >= LEAST]
