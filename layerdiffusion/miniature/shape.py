"""Whether a picture's subject has the outline that its words name.

The subject is cut out in several ways (SAM from a box and from clicks, colours and edges by GrabCut), and each cut-out
is laid over the sprite's own silhouette in the pose asked for, at the best place, scale and mirror image. The judge
says where to look; of what it reads in the picture nothing is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image

from layerdiffusion.miniature.judge import Judge
from layerdiffusion.miniature.outline import best_overlap
from layerdiffusion.miniature.world import SIDE, silhouette
from layerdiffusion.models.segmenter import Segmenter

WHOLE = 0.80  # least IoU with the silhouette
CLICKS = 3
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
        found = [self.segmenter.mask(box=box), by_colour(picture, where)]
        for point in spread_points(where, CLICKS):
            click = [point.tolist()]
            found.append(self.segmenter.mask(click, [1], box))
            found += [candidate.mask for candidate in self.segmenter.candidates(click, [1])]
        return [mask for mask in distinct(found) if mask.sum() >= LEAST]


def by_colour(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """What GrabCut makes of a rough mask: colours inside against those outside, cut along edges. bool (H, W)."""
    core = cv2.erode(where.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    reach = cv2.dilate(where.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    labels = np.full(where.shape, cv2.GC_BGD, np.uint8)
    labels[reach] = cv2.GC_PR_BGD
    labels[where] = cv2.GC_PR_FGD
    labels[core] = cv2.GC_FGD
    if not (labels == cv2.GC_BGD).any():
        return where
    cv2.setRNGSeed(0)
    inside, outside = np.zeros((1, 65)), np.zeros((1, 65))  # the models of the colours, which it fills
    cv2.grabCut(np.ascontiguousarray(picture[..., ::-1]), labels, None, inside, outside, 4, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]  # no rectangle is wanted beside the mask
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(found)
    return parts == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax() if count > 1 else found > 0


def spread_points(mask: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` pixels (x, y) inside the mask: its innermost, then each time the one farthest from those there are."""
    inner = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    spots = np.argwhere(inner >= min(4.0, inner.max()))
    chosen = [np.array(np.unravel_index(inner.argmax(), mask.shape))]
    while len(chosen) < count:
        distances = np.min([np.square(spots - spot).sum(1) for spot in chosen], 0)
        chosen.append(spots[distances.argmax()])
    return [spot[::-1].astype(np.float32) for spot in chosen]


def distinct(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The masks without those that are nearly another's copy."""
    found: list[np.ndarray] = []
    for mask in masks:
        if all((mask & other).sum() < 0.98 * (mask | other).sum() for other in found):
            found.append(mask)
    return found
