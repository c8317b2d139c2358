"""Windows: the part of a picture that a model sees.

Pixel coordinates are (x, y); pixel centres are at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from layerdiffusion.images.masks import resize_mask

DISPLAY_SIDE = 1536  # of a longer side: as the page works on pictures, and as saved results carry them


@dataclass(frozen=True)
class Fit:
    """The window of a picture that a model sees, and the way there.

    The window starts at (`left`, `top`), measures `width` × `height` picture pixels and is shown to the model at
    `size` (W, H).
    """

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.width, self.top + self.height

    def image(self, image: Image.Image) -> Image.Image:
        """The window at the model's size."""
        window = image.crop(self.box)
        return window if window.size == self.size else window.resize(self.size, Image.Resampling.LANCZOS)

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The window of an array (H, W, …), at its own size."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]

    def mask(self, mask: np.ndarray, half: bool = True) -> np.ndarray:
        """The mask's window at the model's size: a pixel is True where at least half of its area was.

        Without `half`, more than half of it: a pixel that two masks share equally is then only the other's.
        """
        window = self.cut(mask)
        return resize_mask(window, self.size) if half else ~resize_mask(~window, self.size)

    def soft(self, alpha: np.ndarray) -> np.ndarray:
        """The window of a soft mask (H, W), uint8 or float32 from 0 to 1, at the model's size; float32, 0 to 1."""
        window = self.cut(alpha)
        share = window.astype(np.float32) / 255 if alpha.dtype == np.uint8 else window
        smaller = self.size[0] <= self.width and self.size[1] <= self.height
        resized = cv2.resize(share, self.size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        return resized.clip(0, 1)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A picture's point in the model's pixels; pixel centres are at whole numbers."""
        across, down = self.size[0] / self.width, self.size[1] / self.height
        return (x - self.left + 0.5) * across - 0.5, (y - self.top + 0.5) * down - 0.5


def fit_window(
    picture: tuple[int, int],
    size: tuple[int, int],
    mask: np.ndarray | None = None,
    at: tuple[float, float] | None = None,
) -> Fit:
    """The largest window of a picture of size `picture` (W, H) that has the shape of `size`: cropped, never padded.

    Padding would put bars into the picture that the model has to reproduce. The window is the centre, slid just as far
    as the subject in `mask` needs to lie inside; a subject longer than the window is centred. With `at` it lies that
    far on its way from the left and the top, 0, to the right and the bottom, 1.
    """
    scale = min(length / wanted for length, wanted in zip(picture, size, strict=True))
    measures = [min(max(round(wanted * scale), 1), length) for length, wanted in zip(picture, size, strict=True)]
    starts = []
    for axis, (length, side) in enumerate(zip(picture, measures, strict=True)):
        start = (length - side) // 2
        if at is not None:
            start = round(at[axis] * (length - side))
        elif mask is not None and mask.any():
            inside = np.flatnonzero(mask.any(axis=axis))
            first, last = int(inside[0]), int(inside[-1]) + 1
            start = (first + last - side) // 2 if last - first > side else min(max(start, last - side), first)
        starts.append(min(max(start, 0), length - side))
    return Fit(starts[0], starts[1], measures[0], measures[1], size)


def reduce(
    image: Image.Image, mask: np.ndarray | None = None, side: int = DISPLAY_SIDE
) -> tuple[Image.Image, np.ndarray | None]:
    """The picture, and its mask with it, no larger than `side` pixels; the mask marks what it covers by half.

    A mask that marks something, but not all, still does.
    """
    if max(image.size) <= side:
        return image, mask
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if mask is None:
        return image, None
    sheet = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    share = np.asarray(sheet.resize(image.size, Image.Resampling.BOX))
    candidates = [share >= least for least in (128, 1, 255)]
    same = (small for small in candidates if small.any() == mask.any() and small.all() == mask.all())
    return image, next(same, candidates[0])
