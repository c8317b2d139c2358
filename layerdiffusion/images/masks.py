"""Masks: read from a picture or an array, grown and shrunk, tidied, resized, and brought to the latent grid.

A mask is a bool array (H, W) of its picture's size, True on the subject.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from PIL import Image

from layerdiffusion.errors import MaskError
from layerdiffusion.images.io import decode, to_rgb


def open_mask(source: Any, size: tuple[int, int], name: str = "the mask") -> np.ndarray:
    """A read-only bool array (H, W) from a mask picture (light is True) or array; `size` is its picture's (W,
    H).

    Arrays are bool, or numbers from 0 to 1, or integers from 0 to 255, cut at one half. Raises `MaskError`.
    """
    if isinstance(source, np.ndarray):
        mask = _mask_from_array(source, name)
    elif isinstance(source, Image.Image | bytes | str | os.PathLike):
        image = decode(source, name)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        mask = np.asarray(to_rgb(image).convert("L")) >= 128
    else:
        raise MaskError(f"{name} is a {type(source).__name__}: it must be a bool array or a black and white picture.")
    if mask.shape != (size[1], size[0]):
        raise MaskError(
            f"{name} is {mask.shape[1]} × {mask.shape[0]} pixels but its picture is {size[0]} × {size[1]}; "
            "make the mask on this picture."
        )
    mask.flags.writeable = False
    return mask


def _mask_from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        raise MaskError(f"{name} has shape {array.shape}: it must be (height, width).")
    if array.dtype == bool:
        return array.copy()
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating) or not array.size:
        raise MaskError(f"{name} is an array of {array.dtype}: it must be bool, or numbers from 0 to 1 or 255.")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255) or (high > 1 and np.issubdtype(array.dtype, np.floating)):
        raise MaskError(
            f"{name} has values from {low:g} to {high:g}: it must be bool, numbers from 0 to 1 or integers to 255."
        )
    return array >= (0.5 if high <= 1 else 128)


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask widened by a disc of that radius; a negative number shrinks it."""
    if pixels == 0:
        return mask.copy()
    radius = abs(int(pixels))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    if pixels > 0:
        return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)
    # What the picture's edge cuts off may go on outside it, so the edge itself doesn't eat into the mask.
    return cv2.erode(mask.astype(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=1).astype(bool)


def shrink(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask narrowed by a disc of that radius; where the picture cuts it off, it stays cut off there."""
    return grow(mask, -pixels)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask without its holes: gaps from which no way leads to the picture's edge."""
    _, pieces = cv2.connectedComponents((~np.pad(mask, 1)).astype(np.uint8), connectivity=4)
    return (pieces != pieces[0, 0])[1:-1, 1:-1]


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """The mask's largest connected piece alone; corners connect."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 3:
        return mask.copy()
    return pieces == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def resize_mask(mask: np.ndarray, side: int) -> np.ndarray:
    if mask.shape == (side, side):
        return mask.copy()
    if side > mask.shape[0]:
        return cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    return cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) >= 0.5 - 1e-6


def mask_to_latents(
    mask: np.ndarray,
    size: tuple[int, int],
    name: str | None = None,
    advice: str = "mark more, or choose a closer picture",
) -> np.ndarray:
    """A pixel mask on the latent grid `size` (w, h): float32 (h, w), 1 where at least half the cell's area is
    True.

    With `name`, a mask that marks something but covers no cell by half raises a `MaskError` that calls it so and
    ends with what to do about it, `advice`.
    """
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    latent_mask = (share >= 0.5 - 1e-6).astype(np.float32)
    if name is not None and mask.any() and not latent_mask.any():
        raise MaskError(
            f"{name} is too small for the model to see: it fills no cell of its {size[0]} × {size[1]} grid "
            f"by half; {advice}."
        )
    return latent_mask


def lay_over(object_image: Image.Image, object_mask: np.ndarray, background: Image.Image) -> Image.Image:
    """The background with the subject's pixels laid over it; all three of one size."""
    if object_image.size != background.size or object_mask.shape != background.size[::-1]:
        raise ValueError(f"sizes differ: {object_image.size}, {object_mask.shape[::-1]}, {background.size}")
    return Image.fromarray(np.where(object_mask[..., None], np.asarray(object_image), np.asarray(background)))
