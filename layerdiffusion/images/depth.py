"""Pictures of more than 8 bits a sample, 16-bit integers and floats: read in full depth and scaled to 8 bits.

The scaling is linear, the same for all colours, and follows from the picture's own values: 0 is black, and white is

- of integers, 2^b − 1 for the least b of 8, 10, 12, 14 and 16 that holds every value, so that a camera's 12-bit
  values in a 16-bit file open as bright as they were taken;
- of floats, 1 if no value is larger, else the largest value if that is at most 16 (open-ended light), else as of
  integers. Negative floats are black. No gamma is applied.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

DEPTHS = (8, 10, 12, 14, 16)
OPEN_ENDED = 16.0  # floats up to here are light relative to 1, above it counts of a sensor
MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's own of more than 8 bits, one channel each
BAND = 256  # rows scaled at once: bounds the memory of 64-bit intermediates


def hides_depth(image: Image.Image) -> bool:
    """Whether Pillow would cut this file's 16-bit colours to 8: it has no deeper mode of several channels."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def read_deep(data: bytes) -> np.ndarray | None:
    """The samples of a PNG or TIFF file, (H, W) or (H, W, 3 or 4) in RGB order, in their own dtype; None if unreadable.

    A TIFF comes upright, a PNG as it is stored.
    """
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.ndim == 2:
        return samples
    order = cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(samples, order)


def to_eight_bits(samples: np.ndarray) -> np.ndarray:
    """Samples (H, W) or (H, W, C) as uint8, scaled as the module says; an alpha channel (C = 4) by its own range.

    Raises `ValueError` for negative integers, values of more than 16 bits, and floats that are no numbers.
    """
    if samples.ndim == 3 and samples.shape[2] == 4:
        return np.dstack([to_eight_bits(samples[..., :3]), to_eight_bits(samples[..., 3])])
    white = _white(samples)
    scaled = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), BAND):
        band = samples[start : start + BAND]
        if np.issubdtype(samples.dtype, np.floating):
            scaled[start : start + BAND] = np.rint(band.clip(0, white) * (255 / white))
        else:
            scaled[start : start + BAND] = band.astype(np.int64) * 255 // int(white)
    return scaled


def _white(samples: np.ndarray) -> float:
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some of its values are no finite numbers")
    if np.issubdtype(samples.dtype, np.floating):
        if high <= OPEN_ENDED:
            return max(high, 1.0)
        low = max(low, 0.0)
    whites = [2**bits - 1 for bits in DEPTHS if high <= 2**bits - 1]
    if low < 0 or not whites:
        raise ValueError("its values lie outside 16 bits")
    return float(whites[0])
