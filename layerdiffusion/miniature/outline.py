"""Two outlines laid over each other."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

SCALES = (0.90, 0.95, 1.0, 1.05, 1.10)  # times the scale at which the areas agree


def best_overlap(mask: np.ndarray, outline: np.ndarray) -> float:
    """The IoU of `mask` with `outline`, bool (h, w), at the place, scale and mirror image where it is greatest."""
    area = float(mask.sum())
    if not area or not outline.any():
        return 0.0
    at_par = (area / outline.sum()) ** 0.5
    patterns = []
    for scale in SCALES:
        width, height = (max(1, round(scale * at_par * length)) for length in outline.shape[::-1])
        if max(width, height) > 2 * max(mask.shape):
            continue
        sized = Image.fromarray(outline).convert("L").resize((width, height), Image.Resampling.BOX)
        pattern = np.asarray(sized) > 127
        patterns += [pattern, pattern[:, ::-1]]
    side = 1 << int(max(mask.shape) + max((max(p.shape) for p in patterns), default=1) - 1).bit_length()
    canvas = torch.zeros(len(patterns), side, side)
    for layer, pattern in zip(canvas, patterns, strict=True):
        layer[: pattern.shape[0], : pattern.shape[1]] = torch.from_numpy(np.ascontiguousarray(pattern))
    field = torch.zeros(side, side)
    field[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask)
    shared = torch.fft.irfft2(torch.fft.rfft2(field) * torch.fft.rfft2(canvas).conj(), s=(side, side))
    common = shared.flatten(1).amax(1).round()
    areas = canvas.sum((1, 2))
    return float((common / (area + areas - common)).max()) if patterns else 0.0
