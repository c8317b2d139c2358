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


def bring_detail(image: Image.Image, source: Image.Image, subjects: np.ndarray) -> Image.Image:
    """The result `image` with the pixels of `source` back, its background picture in that one's own resolution.

    The size is that of the larger one. What has changed stays the result's, scaled: see `changed`.
    """
    seen = source.resize(image.size, Image.Resampling.LANCZOS)
    size = source.size if source.width > image.width else image.size
    own, made = (np.asarray(picture.resize(size, Image.Resampling.LANCZOS), np.float32) for picture in (source, image))
    share = cv2.resize(changed(image, seen, subjects), size, interpolation=cv2.INTER_LINEAR)[..., None]
    return Image.fromarray((own + (made - own) * share).round().clip(0, 255).astype(np.uint8))


def changed(image: Image.Image, background: Image.Image, subjects: np.ndarray) -> np.ndarray:
    """Where the result is no longer its background picture: float32 (H, W), 1 there, 0 elsewhere, with a soft edge.

    That is where `subjects`, bool (H, W), has the placed subject and the picture's own, and pieces that reach near
    them where the blurred pictures differ by more than `SAME` and `TYPICAL` times the background's median: the subject
    in its new pose, and what it brought along.
    """
    side = max(image.size)
    blurred = [
        cv2.GaussianBlur(np.asarray(picture.convert("RGB"), np.float32) / 255, (0, 0), max(side * BLUR, 0.5))
        for picture in (image, background)
    ]
    difference = np.abs(blurred[0] - blurred[1]).max(-1)
    outside = difference[~subjects]
    typical = float(np.median(outside)) if outside.size else 0.0
    found = (difference > max(SAME, TYPICAL * typical)).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, _disc(side * BLUR)) | subjects.astype(np.uint8)
    # A place that the model made otherwise far from both subjects is no part of the edit.
    pieces = cv2.connectedComponents(found)[1]
    near = cv2.dilate(subjects.astype(np.uint8), _disc(side * GROWN)).astype(bool)
    touching = np.isin(pieces, np.unique(pieces[near])) & (pieces > 0)
    grown = cv2.dilate(touching.astype(np.uint8), _disc(side * GROWN)).astype(np.float32)
    return cv2.GaussianBlur(grown, (0, 0), max(side * FEATHER / 2, 0.5)).clip(0, 1)


def _disc(radius: float) -> np.ndarray:
    across = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across))
