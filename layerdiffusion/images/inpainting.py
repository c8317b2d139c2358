"""A picture's hole filled from its surroundings: shifted copies of what lies beside it, then OpenCV's inpainting."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from layerdiffusion.errors import MaskError
from layerdiffusion.images.masks import grow


def inpaint(image: Image.Image, mask: np.ndarray, halo: int | None = None) -> Image.Image:
    """The picture with what is True in `mask` filled from its surroundings.

    What lies beside the hole at the same height is copied in where it continues the hole's rim: inpainting alone
    smears the rim inwards and leaves a ghost in the subject's outline. OpenCV's inpainting (Telea) does the rest. The
    mask is first grown by `halo` pixels (None: a hundredth of the shorter side), because a subject's soft rim lies
    just outside its mask and would be spread over the hole.
    """
    if not mask.any():
        return image
    halo = max(1, round(min(image.size) / 100)) if halo is None else halo
    hole = grow(mask, halo)
    if hole.all():
        hole = mask
    if hole.all():
        raise MaskError("The mask covers the whole picture, so there is nothing left to fill it from; mark less.")
    filled = np.asarray(image).copy()
    known = ~hole
    rest = hole.copy()
    for offset in _sideways_offsets(filled, hole):
        patch = rest & _sideways(known, offset)
        filled[patch] = _sideways(np.asarray(image), offset)[patch]
        rest &= ~patch
    return Image.fromarray(cv2.inpaint(filled, rest.astype(np.uint8), 3, cv2.INPAINT_TELEA))


def _sideways_offsets(pixels: np.ndarray, hole: np.ndarray, most: int = 4) -> list[int]:
    """How far to the right to shift the picture so that it fills the hole: the best offset first, then what fills up.

    An offset is good if the shifted picture agrees with the hole's rim and covers much of the hole; none is used whose
    rim is off by more than 16 of 255 levels. The search is done on a picture of at most 128 pixels a side.
    """
    ratio = max(1.0, max(hole.shape) / 128)
    size = round(hole.shape[1] / ratio), round(hole.shape[0] / ratio)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    rest = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    whole, known = rest.sum(), ~rest
    rim = grow(rest, max(2, round(max(size) / 20))) & known
    found = []
    for offset in range(1 - size[0], size[0]):
        covered = _sideways(known, offset)
        seen = rim & covered
        if (rest & covered).sum() >= 0.05 * whole and seen.sum() >= 0.25 * rim.sum():
            found.append((np.abs(small - _sideways(small, offset))[seen].mean(), offset, covered))
    offsets: list[int] = []
    while rest.any() and len(offsets) < most:
        usable = [
            (cost, offset, covered, (rest & covered).sum() / whole) for cost, offset, covered in found if cost <= 16
        ]
        usable = [choice for choice in usable if choice[3] >= 0.03]
        if not usable:
            break
        # The 4 keeps a perfect but tiny match from winning over a good one that fills the hole.
        _, offset, covered, _ = min(usable, key=lambda choice: (choice[0] + 4) / choice[3] ** 0.7)
        offsets.append(round(offset * ratio))
        rest &= ~covered
    return offsets


def _sideways(array: np.ndarray, offset: int) -> np.ndarray:
    """The array (H, W, …) shifted to the right by `offset` columns; zeros or False move in."""
    shifted = np.zeros_like(array)
    width = array.shape[1]
    shifted[:, max(offset, 0) : width + min(offset, 0)] = array[:, max(-offset, 0) : width - max(offset, 0)]
    return shifted
