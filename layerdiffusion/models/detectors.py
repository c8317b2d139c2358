"""Detectors: networks of transformers that find what words name, a class for each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image

from layerdiffusion.errors import ModelError
from layerdiffusion.models import hub
from layerdiffusion.models.parts import quiet, reason

ARTICLES = ("the ", "a ", "an ", "my ", "this ", "that ")
NAMES = "a SAM 3, a Grounding DINO or an OWLv2"


class Instance(NamedTuple):
    """One thing that a detector has found."""

    box: tuple[float, float, float, float]  # left, top, right, bottom, in the picture's pixels
    score: float  # 0 to 1
    mask: np.ndarray | None = None  # bool (H, W), of a detector that draws outlines


class Detector:
    """Words to instances; a subclass says which networks it is for, and how they are asked."""

    kinds: ClassVar[tuple[str, ...]]  # `model_type` in their configs
    least: ClassVar[float]  # score of an instance

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor

    @staticmethod
    def open(folder: Path) -> tuple[Any, Any]:
        """The network in a folder, float32 on the CPU, and its processor."""
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        model = AutoModelForZeroShotObjectDetection.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
        return model, AutoProcessor.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def instances(self, image: Image.Image, words: str, count: int) -> list[Instance]:
        """Up to `count` instances on an RGB picture, the surest first."""
        found = self._detected(image, words.strip().lower())
        instances: list[Instance] = []
        for index in found["scores"].argsort(descending=True)[:count].tolist():
            ends = found["boxes"][index].tolist()
            left, right = (min(max(value, 0.0), image.width) for value in ends[::2])
            top, bottom = (min(max(value, 0.0), image.height) for value in ends[1::2])
            mask = found["masks"][index].bool().cpu().numpy() if "masks" in found else None
            if left < right and top < bottom and (mask is None or mask.any()):
                instances.append(Instance((left, top, right, bottom), float(found["scores"][index]), mask))
        return instances

    def _detected(self, image: Image.Image, words: str) -> dict[str, Any]:
        """Tensors: "scores" (N,), "boxes" (N, 4) in pixels and, where outlines are drawn, "masks" (N, H, W)."""
        text = [[with_article(words)]]
        inputs = self._processor(images=image, text=text, return_tensors="pt").to(self._model.device)
        options: dict[str, Any] = {"threshold": self.least, "target_sizes": [image.size[::-1]]}
        return self._processor.post_process_grounded_object_detection(self._model(**inputs), **options)[0]


class Owl(Detector):
    """OWL-ViT and OWLv2 (https://arxiv.org/abs/2306.09683): boxes."""

    kinds, least = ("owlv2", "owlvit"), 0.05


class GroundingDino(Detector):
    """Grounding DINO (https://arxiv.org/abs/2303.05499): boxes."""

    kinds, least = ("grounding-dino", "mm-grounding-dino"), 0.05

    def _detected(self, image: Image.Image, words: str) -> dict[str, Any]:
        return super()._detected(image, words.replace(".", " "))  # a full stop would end one of its labels


class Sam3(Detector):
    """SAM 3 (https://arxiv.org/abs/2511.16719): boxes and outlines.

    Its weights are gated: they are downloaded with a token of an account that has accepted their terms. The published
    folder holds a tracker for videos beside the detector, which is left out.
    """

    kinds, least = ("sam3", "sam3_video"), 0.3

    @staticmethod
    def open(folder: Path) -> tuple[Any, Any]:
        from transformers import Sam3Model, Sam3Processor

        model = Sam3Model.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype=torch.float32)
        return model, Sam3Processor.from_pretrained(folder, local_files_only=True)

    def _detected(self, image: Image.Image, words: str) -> dict[str, Any]:
        inputs = self._processor(images=image, text=without_article(words), return_tensors="pt")
        outputs = self._model(**inputs.to(self._model.device))
        return self._processor.post_process_instance_segmentation(
            outputs, threshold=self.least, target_sizes=[image.size[::-1]]
        )[0]


DETECTORS: tuple[type[Detector], ...] = (Sam3, GroundingDino, Owl)


def load_detector(name: str | Path, device: str | torch.device = "cpu") -> Detector:
    """The detector in a folder, or of a hub id, from safetensors. Raises `ModelError`."""
    from transformers import AutoConfig

    path = Path(name).expanduser()
    folder = path if path.is_dir() else hub.download(str(name), ("*.json", "*.txt", "*.safetensors"))
    try:
        with quiet():
            kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            detector = next((each for each in DETECTORS if kind in each.kinds), None)
            if detector is None:
                raise ModelError(f"{name} is a {kind}, no detector of words; give {NAMES}.")
            model, processor = detector.open(folder)
    except ModelError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise ModelError(f"The detector {name} can't be opened ({reason(error)}); download it again.") from error
    return detector(model.to(device).requires_grad_(False).eval(), processor)


def without_article(words: str) -> str:
    """ "the dog" as "dog"."""
    first = next((article for article in ARTICLES if words.lower().startswith(article)), "")
    return words[len(first) :]


def with_article(words: str) -> str:
    """ "the dog" as captions have it: "a dog"."""
    bare = without_article(words)
    return f"{'an' if bare[:1].lower() in 'aeiou' else 'a'} {bare}"
