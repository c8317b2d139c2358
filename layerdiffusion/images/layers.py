"""The two layers of an edit at the model's size: the placed subject, the background, and one laid over the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.images.geometry import Fit, fit_square, place
from layerdiffusion.images.inpainting import inpaint
from layerdiffusion.images.masks import lay_over

Picture = tuple[Image.Image, np.ndarray]


@dataclass(frozen=True)
class Layers:
    """Square pictures, all of one size, and their bool masks (H, W)."""

    object_image: Image.Image  # the subject scaled, turned and moved to where it is wanted
    object_mask: np.ndarray  # M_t: True on the placed subject
    background_image: Image.Image
    background_mask: np.ndarray  # M_r: True on the background picture's own subject
    in_place: bool = False  # the two pictures are one, and the subject is where it always was

    @cached_property
    def inpainted_background(self) -> Image.Image:
        """The background with its own subject painted out."""
        return inpaint(self.background_image, self.background_mask)

    @cached_property
    def composite(self) -> Image.Image:
        """The placed subject over the painted background: what `layers="composite"` trains on."""
        if self.in_place:  # painting out and laying over would only harm the subject's rim
            return self.object_image
        return lay_over(self.object_image, self.object_mask, self.inpainted_background)

    @cached_property
    def overlay(self) -> Image.Image:
        """The placed subject over the background as it is, its own subject included: for `layers="overlay"`."""
        return lay_over(self.object_image, self.object_mask, self.background_image)


def lay_out(edit: Edit, size: int, generated: Image.Image | None = None) -> Layers:
    """The edit's layers at `size` pixels a side; `generated` is the picture to use for `background="generate"`.

    Pictures are cropped to a square, the photo's so that its subject lies inside. The placement's moves are
    shares of that square. With `background="keep"` the background is the photo itself, its subject left where
    it was.
    """
    fit = fit_square(edit.object_image.size, size, edit.object_mask)
    photo = fit.image(edit.object_image), fit.mask(edit.object_mask)
    subject = photo if edit.placement.is_identity else _placed(edit, fit)
    if edit.background == "keep":
        background = photo
    elif edit.background_image is not None:
        window = fit_square(edit.background_image.size, size)
        nothing = np.zeros((size, size), bool)
        mask = nothing if edit.background_mask is None else window.mask(edit.background_mask, half=False)
        background = window.image(edit.background_image), mask
    elif generated is None:
        raise ValueError('background is "generate": the generated picture is missing')
    else:
        background = generated, np.zeros((size, size), bool)
    in_place = edit.background == "keep" and edit.placement.is_identity
    return Layers(*subject, *background, in_place)


def _placed(edit: Edit, fit: Fit) -> Picture:
    # On the photo's own pixels, so that a subject made larger stays as sharp as the photo has it.
    window, mask = edit.object_image.crop(fit.box), Fit(fit.left, fit.top, fit.side, fit.side).mask(edit.object_mask)
    image, mask = place(window, mask, edit.placement)
    whole = Fit(0, 0, fit.side, fit.native)
    return whole.image(image), whole.mask(mask)
