"""`detail`: where a result still shows its background picture, that picture's own pixels in their full resolution."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

# Shares of the result's longer side.
BLUR = 1 / 64  # what is compared: finer differences are the detail that the result lacks
GROWN = 1 / 24  # around what has changed; as far from both subjects, the subject in its new pose begins
FEATHER = 1 / 48  # the edge's softness
SAME = 0.06  # of the range of a colour: a smaller difference is none
TYPICAL = 2.5  # times the median difference of the background: a model also shifts what it keeps
SHADES = 8  # of each colour, as which colours are compared
OWN = 2  # times as frequent on the subject as on the background, a colour is the subject's
RARE = 0.01  # of the subject's pixels: a colour of fewer is of what lies beside it


def bring_detail(
    image: Image.Image, source: Image.Image, subjects: np.ndarray, found: np.ndarray | None = None
) -> Image.Image:
    """The result `image` with the pixels of `source` back, its background picture in that one's own resolution.

    The size is that of the larger one. What is not the background stays the result's, scaled: see `foreground`.
    """
    seen = source.resize(image.size, Image.Resampling.LANCZOS)
    size = source.size if source.width > image.width else image.size
    own, made = (np.asarray(picture.resize(size, Image.Resampling.LANCZOS), np.float32) for picture in (source, image))
    share = cv2.resize(foreground(image, seen, subjects, found), size, interpolation=cv2.INTER_LINEAR)[..., None]
    return Image.fromarray((own + (made - own) * share).round().clip(0, 255).astype(np.uint8))


def foreground(
    image: Image.Image, background: Image.Image, subjects: np.ndarray, found: np.ndarray | None = None
) -> np.ndarray:
    """Where the result is not its background picture: float32 (H, W), 1 there, 0 elsewhere, with a soft edge.

    That is where `subjects`, bool (H, W), has the placed subject and the picture's own; where the result's own subject
    was `found`, and what hangs together with it, has changed and has its colours; around all of it, a margin. A place
    that the model made anew beside them is the picture's. Where nothing was found, or what is unchanged, whatever has
    changed and reaches near `subjects` counts: the subject in its new pose, and what it brought along.
    """
    difference = changed(image, background, subjects)
    if found is None or 2 * (found & (difference | subjects)).sum() < found.sum():
        near = cv2.dilate(subjects.astype(np.uint8), _disc(max(image.size) * GROWN)) > 0
        stays = _pieces(difference | subjects, near)
    else:
        stays = subjects | _pieces(found | (difference & _coloured_alike(image, background, subjects, found)), found)
    side = max(image.size)
    grown = cv2.dilate(stays.astype(np.uint8), _disc(side * GROWN)).astype(np.float32)
    return cv2.GaussianBlur(grown, (0, 0), max(side * FEATHER / 2, 0.5)).clip(0, 1)


def changed(image: Image.Image, background: Image.Image, subjects: np.ndarray) -> np.ndarray:
    """Where the blurred pictures differ: bool (H, W).

    By more than `SAME` and `TYPICAL` times the median outside `subjects`.
    """
    side = max(image.size)
    blurred = [
        cv2.GaussianBlur(np.asarray(picture.convert("RGB"), np.float32) / 255, (0, 0), max(side * BLUR, 0.5))
        for picture in (image, background)
    ]
    difference = np.abs(blurred[0] - blurred[1]).max(-1)
    outside = difference[~subjects]
    typical = float(np.median(outside)) if outside.size else 0.0
    above = (difference > max(SAME, TYPICAL * typical)).astype(np.uint8)
    return cv2.morphologyEx(above, cv2.MORPH_OPEN, _disc(side * BLUR)) > 0


def _coloured_alike(image: Image.Image, background: Image.Image, subjects: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Where the result has colours that are its subject's rather than the background's: bool (H, W)."""
    colours = [
        np.asarray(picture.convert("RGB"), int) * SHADES // 256 @ (SHADES**2, SHADES, 1)
        for picture in (image, background)
    ]
    shares = [
        np.bincount(colour[where], minlength=SHADES**3) / max(1, where.sum())
        for colour, where in zip(colours, (found, ~subjects), strict=True)
    ]
    return shares[0][colours[0]] > OWN * shares[1][colours[0]] + RARE


def _pieces(mask: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The mask's connected pieces that have some of `reach`."""
    pieces = cv2.connectedComponents(mask.astype(np.uint8))[1]
    return np.isin(pieces, np.unique(pieces[reach & mask]))


def _disc(radius: float) -> np.ndarray:
    across = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across))
