"""The subjects of an edit's results, found again by Segment Anything and the words."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from layerdiffusion.cache import digest
from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers
from layerdiffusion.images.masks import Mask
from layerdiffusion.models.find import find_again
from layerdiffusion.models.models import Models
from layerdiffusion.prompts import subject_noun

FOUND = 32  # masks of results' subjects that are cached


class SubjectFinder:
    """Finds subjects in results, with the Segment Anything that `sam` names as in `Models.segmenter`."""

    def __init__(self, models: Models, sam: str | Path | None = None) -> None:
        self._models, self._sam = models, sam
        self._found: OrderedDict[str, Mask] = OrderedDict()  # by result, the last `FOUND` of them
        self._lock = threading.Lock()

    def subjects_of(self, images: Sequence[Image.Image], edit: Edit, layers: Layers) -> list[Mask]:
        """The mask, bool (H, W), of the subject in each of the edit's results. Raises `ModelError`."""
        words = subject_noun(edit.object_prompt) or edit.object_prompt
        keys = [digest(words, image, layers.object_mask) for image in images]
        with self._lock:
            found = {key: self._found[key] for key in keys if key in self._found}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        if missing:
            self._models.clip()  # where there is none, that is known before SAM has looked at anything
            segmenter = self._models.segmenter(self._sam)
            for key, image in missing.items():
                found[key] = find_again(self._models, image, words, layers.object_mask, segmenter)
        with self._lock:
            for key in keys:
                self._found[key] = found[key]
                self._found.move_to_end(key)
            while len(self._found) > FOUND:
                self._found.popitem(last=False)
        return [found[key] for key in keys]
