"""Masks: read from a picture or an array, grown and shrunk, tidied, resized, and brought to the latent grid.

A mask is a bool array (H, W) of its picture's size, True on the subject.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layerdiffusion.errors import MaskError
from layerdiffusion.images.io import decode

SAME_COLOUR = 24  # of 255: how far a channel may be off the shade of one colour, as JPEG leaves it

Mask = NDArray[np.bool_]  # (H, W), True on the subject
LatentMask = NDArray[np.float32]  # (h, w), 0 or 1
BETWEEN, SOFT_SHARE = (32, 223), 1e-3  # of a soft mask at least this share of the pixels is neither black nor white


class OpenedMask(NamedTuple):
    """A mask as it was read from a picture or an array."""

    mask: np.ndarray  # bool (H, W), read-only, True on the subject
    alpha: np.ndarray | None = None  # of a soft one, uint8 (H, W): `mask` is True from 128 on
    notes: tuple[str, ...] = ()  # sentences on what the user might not expect


def open_mask(source: Any, size: tuple[int, int], name: str = "the mask") -> np.ndarray:
    """The mask alone of what `read_mask` reads: a read-only bool array (H, W), True on the subject."""
    return read_mask(source, size, name).mask


def read_mask(source: Any, size: tuple[int, int], name: str = "the mask") -> OpenedMask:
    """The mask of the picture of `size` (W, H): the one reader of masks.

    `source` is a picture as `open_image` takes it, or an array (H, W): bool, numbers from 0 to 1, or integers to 255.
    What it marks is decided by the first of these that applies:

    - transparency that is not the same everywhere is the mask: what is opaque is True;
    - of a picture of exactly two values, the lighter is True (zeros and ones, red on black, two palette entries);
    - what is at least half as light as white is True; of one colour on black, such as red, at least half of it.

    Of a mask with values in between, `alpha` has them. A mask of the picture's shape but another size, up to a pixel,
    is scaled to it by the nearest pixel. `notes` say both. Raises
    `MaskError` for another shape, for a picture or numbers that mark nothing, and for what is dark but not black
    everywhere; a bool array may be empty. Raises `ImageError` for files that are no pictures.
    """
    if isinstance(source, np.ndarray) and not (source.ndim == 3 and source.dtype == np.uint8 and source.shape[2] > 2):
        values = _checked_numbers(source, name)
        given = values.shape[1], values.shape[0]
        mask, alpha = _from_numbers(_scaled(values, size, name), name)
    elif isinstance(source, np.ndarray | Image.Image | bytes | str | os.PathLike):
        image = decode(source, name)
        given = image.size
        mask, alpha = _from_picture(image, size, name)
    else:
        raise MaskError(f"{name} is a {type(source).__name__}: it must be a bool array or a black and white picture.")
    notes = []
    if given != size:
        notes.append(f"{name} was scaled from {given[0]} × {given[1]} to its picture's {size[0]} × {size[1]} pixels.")
    if alpha is not None:
        notes.append(
            f"{name} has soft edges: what is at least half white (128 of 255) is the subject, and the edges stay soft "
            "where layers are laid over each other."
        )
    mask.flags.writeable = False
    return OpenedMask(mask, alpha, tuple(notes))


def _from_picture(image: Image.Image, size: tuple[int, int], name: str) -> tuple[np.ndarray, np.ndarray | None]:
    _check_shape(image.size, size, name)
    if image.size != size:
        image = image.resize(size, Image.Resampling.NEAREST)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() != alpha.max():
            return _from_numbers(alpha, name)
    try:
        pixels = np.asarray(image.convert("RGB"))
        lightness = np.asarray(image.convert("RGB").convert("L"))
    except (OSError, ValueError) as error:
        raise MaskError(f"{name} can't be converted from {image.mode} to grey; save it as an ordinary PNG.") from error
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    first, other = _two_values(red << 16 | green << 8 | blue)
    if other is None:
        return _from_numbers(_strength(pixels, lightness), name)
    light = red * 299 + green * 587 + blue * 114
    if (light == light.flat[0]).all():
        raise MaskError(f"{name} has two colours, equally light: neither marks the subject; make it white on black.")
    return light == light.max(), None


def _strength(pixels: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    """The lightness (H, W), but of shades of one colour on black how strong that colour is; uint8."""
    strength = pixels.max(axis=2)
    peak = pixels.reshape(-1, 3).max(axis=0) / max(int(strength.max()), 1)
    for channel in range(3):
        expected = strength * np.float32(peak[channel])
        if (np.abs(pixels[..., channel] - expected) > SAME_COLOUR).any():
            return lightness
    return strength


def _checked_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """The array as (H, W), checked for its type and range."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        raise MaskError(f"{name} has shape {array.shape}: it must be (height, width).")
    if array.dtype == bool and array.size:
        return array
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating) or not array.size:
        raise MaskError(f"{name} is an array of {array.dtype}: it must be bool, or numbers from 0 to 1 or 255.")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255) or (high > 1 and np.issubdtype(array.dtype, np.floating)):
        raise MaskError(
            f"{name} has values from {low:g} to {high:g}: it must be bool, numbers from 0 to 1 or integers to 255."
        )
    return array


def _from_numbers(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Bool (H, W) from bool, numbers from 0 to 1 or integers to 255; of exactly two values the larger is True.

    And where there are values in between, these, uint8.
    """
    if values.dtype == bool:
        return values.copy(), None
    first, other = _two_values(values)
    if other is not None:
        return values == max(first, other), None
    high = values.max()
    mask = values >= (0.5 if high <= 1 else 128)
    if not high:
        raise MaskError(f"{name} is empty: it marks nothing; mark the subject in white.")
    if not mask.any():
        raise MaskError(
            f"{name} marks nothing: its largest value is {high:g}, less than half of white; make the subject white."
        )
    alpha = np.rint(values * 255 if high <= 1 else values).astype(np.uint8)
    between = (alpha >= BETWEEN[0]) & (alpha <= BETWEEN[1])
    return mask, alpha if between.mean() >= SOFT_SHARE else None


def _two_values(values: np.ndarray) -> tuple[Any, Any]:
    """The two values of an array that has exactly two; else its first one, and None."""
    first = values.flat[0]
    differs = values != first
    other = values.flat[int(differs.argmax())]
    return (first, other) if other != first and (values[differs] == other).all() else (first, None)


def _scaled(values: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """The array (h, w) at `size` (W, H), each pixel the nearest one's value."""
    height, width = values.shape
    _check_shape((width, height), size, name)
    if (width, height) == size:
        return values
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    return values[rows[:, None], columns]


def _check_shape(given: tuple[int, int], size: tuple[int, int], name: str) -> None:
    (width, height), (wide, high) = given, size
    pixel_off = abs(width - wide) <= 1 and abs(height - high) <= 1
    if not pixel_off and abs(width * high - height * wide) > max(*given, *size):
        raise MaskError(
            f"{name} is {width} × {height} pixels but its picture is {wide} × {high}, of another shape; "
            "make the mask on this picture."
        )


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


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """The mask's largest connected piece alone; corners connect."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 3:
        return mask.copy()
    return pieces == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union, 0 to 1; of two empty masks 0."""
    return float((mask & other).sum() / max(1, (mask | other).sum()))


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is True, the last two past the end; all 0 where nothing is."""
    return Image.fromarray(mask).getbbox() or (0, 0, 0, 0)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at `size` (W, H): True where at least half of a pixel's area was; enlarged, the nearest pixel's."""
    if mask.shape == size[::-1]:
        return mask.copy()
    if size[0] > mask.shape[1] or size[1] > mask.shape[0]:
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5 - 1e-6


def mask_to_latents(
    mask: np.ndarray,
    size: tuple[int, int],
    name: str | None = None,
    advice: str = "mark more, or choose a closer picture",
    half: bool = True,
) -> LatentMask:
    """A pixel mask on the latent grid `size` (w, h): float32 (h, w), 1 where at least half the cell's area is True.

    Without `half`, more than half of it: a cell that two masks share equally is then only the other's. With `name`,
    a mask that marks something but no cell raises a `MaskError` that calls it so and ends with what to do, `advice`.
    """
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    latent_mask = (share >= 0.5 - 1e-6 if half else share > 0.5 + 1e-6).astype(np.float32)
    if name is not None and mask.any() and not latent_mask.any():
        raise too_small(name, size, advice)
    return latent_mask


def too_small(name: str, size: tuple[int, int], advice: str) -> MaskError:
    """The error of a mask, called `name`, that covers no cell of the latent grid `size` (w, h)."""
    return MaskError(
        f"{name} is too small for the model to see: it fills no cell of its {size[0]} × {size[1]} grid by half; "
        f"{advice}."
    )


def lay_over(object_image: Image.Image, object_mask: np.ndarray, background: Image.Image) -> Image.Image:
    """The background with the subject's pixels laid over it; all three of one size.

    A soft mask, float32 from 0 to 1, mixes both by its share.
    """
    if object_image.size != background.size or object_mask.shape != background.size[::-1]:
        raise ValueError(f"sizes differ: {object_image.size}, {object_mask.shape[::-1]}, {background.size}")
    above, below = np.asarray(object_image), np.asarray(background)
    if object_mask.dtype == bool:
        return Image.fromarray(np.where(object_mask[..., None], above, below))
    mixed = below + object_mask[..., None] * (above.astype(np.float32) - below)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def cut_out(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The picture as RGBA: as opaque as the mask, bool or 0 to 1, has it."""
    cut = image.convert("RGBA")
    cut.putalpha(Image.fromarray(np.rint(mask.astype(np.float32) * 255).astype(np.uint8)))
    return cut
