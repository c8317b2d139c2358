"""Whether a picture belongs to the world a model was trained on, told by how well its autoencoder draws it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from layerdiffusion.images import fit_square

if TYPE_CHECKING:
    from layerdiffusion.models import Models

STRANGE_BELOW = 24.0  # dB


def reconstruction_psnr(models: Models, image: Image.Image) -> float:
    """Peak signal-to-noise ratio, in dB, of the picture's central square after encoding and decoding."""
    square = fit_square(image.size, models.size).image(image)
    again = models.decode(models.encode(square))[0]
    error = np.mean((np.asarray(square, np.float64) - np.asarray(again, np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def is_strange(models: Models, image: Image.Image) -> bool:
    """True for pictures that the embedded model's autoencoder, trained on the toybox alone, can't draw again."""
    return reconstruction_psnr(models, image) < STRANGE_BELOW
