"""What a method makes an edit of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers, object_fit
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models
    from layerdiffusion.subject import Subject


@dataclass(frozen=True)
class Task:
    """One edit made ready for a method."""

    models: Models
    edit: Edit
    layers: Layers  # of `size`
    settings: Settings  # every field set
    options: object = None  # a baseline's own, every field set
    subject: Subject | None = None  # a kept one, in place of training

    @property
    def size(self) -> tuple[int, int]:
        """(W, H) of every picture that the stages see and make."""
        return self.layers.composite.size

    def picture(self, source: str) -> Image.Image:
        """What a baseline edits: "photo", as it was given, cropped to the edit's window, or "composite"."""
        if source == "composite":
            return self.layers.composite
        return object_fit(self.edit, self.size).image(self.edit.object_image)
