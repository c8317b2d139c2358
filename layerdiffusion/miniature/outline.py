"""Outlines as masks: one laid over another, a subject cut out by its colours, subjects counted."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image

from layerdiffusion.images.masks import bounding_box, iou

WHOLE = 0.85  # least IoU of a subject's outline with the silhouette of its animal in its pose
SCALES = (0.90, 0.95, 1.0, 1.05, 1.10)  # times the scale at which the areas agree
LONGEST = 128  # pixels; a longer mask is compared at this size


def best_overlap(mask: np.ndarray, outline: np.ndarray) -> float:
    """The IoU of `mask` with `outline`, bool (h, w), at the place, scale and mirror image where it is greatest."""
    if not (mask.any() and outline.any()):
        return 0.0
    left, top, right, bottom = bounding_box(mask)
    mask = mask[top:bottom, left:right]
    if max(mask.shape) > LONGEST:
        mask = _resized(mask, LONGEST / max(mask.shape))
    at_par = float(mask.sum() / outline.sum()) ** 0.5
    patterns = [_resized(outline, scale * at_par) for scale in SCALES]
    patterns = [each for each in patterns if max(each.shape) <= 2 * max(mask.shape)]
    if not patterns:
        return 0.0
    patterns += [each[:, ::-1] for each in patterns]
    # Large enough that no shift wraps around, and of a length that the transform takes quickly.
    height, width = (mask.shape[axis] + max(each.shape[axis] for each in patterns) - 1 for axis in (0, 1))
    size = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    layers = torch.zeros(1 + len(patterns), *size)
    for layer, each in zip(layers, [mask, *patterns], strict=True):
        layer[: each.shape[0], : each.shape[1]] = torch.from_numpy(np.ascontiguousarray(each))
    spectra = torch.fft.rfft2(layers)
    shared = torch.fft.irfft2(spectra[0] * spectra[1:].conj(), s=size).flatten(1).amax(1).round()
    areas = layers.sum((1, 2))
    return float((shared / (areas[0] + areas[1:] - shared)).max())


def _resized(mask: np.ndarray, scale: float) -> np.ndarray:
    width, height = (max(1, round(scale * length)) for length in mask.shape[::-1])
    return np.asarray(Image.fromarray(mask).convert("L").resize((width, height), Image.Resampling.BOX)) > 127


def by_colour(picture: np.ndarray, where: np.ndarray, margin: int) -> np.ndarray:
    """GrabCut from a rough mask: colours inside against colours outside, cut along edges. bool (H, W).

    `margin`: how many pixels within the mask's edge may turn out to be outside; without, twice as many may be inside.
    """
    core, reach = (
        change(where.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0
        for change, pixels in ((cv2.erode, margin), (cv2.dilate, 2 * margin))
    )
    if reach.all() or not where.any():
        return where
    labels = np.full(where.shape, cv2.GC_BGD, np.uint8)
    labels[reach] = cv2.GC_PR_BGD
    labels[where] = cv2.GC_PR_FGD
    labels[core] = cv2.GC_FGD
    cv2.setRNGSeed(0)
    inside, outside = np.zeros((1, 65)), np.zeros((1, 65))  # the models of the colours, which it fills
    cv2.grabCut(np.ascontiguousarray(picture[..., ::-1]), labels, None, inside, outside, 4, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]  # no rectangle is wanted beside the mask
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(found)
    return parts == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax() if count > 1 else found > 0


def innermost(mask: np.ndarray) -> tuple[float, float]:
    """The pixel (x, y) inside the mask that is farthest from its edge."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), mask.shape)
    return float(x), float(y)


def distinct(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The masks without those that nearly equal an earlier one."""
    found: list[np.ndarray] = []
    for mask in masks:
        if all(iou(mask, other) < 0.98 for other in found):
            found.append(mask)
    return found
