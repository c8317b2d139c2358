"""Words to masks: SAM's own proposals ranked by CLIP against the words, or what a detector finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from layerdiffusion import hub
from layerdiffusion.errors import ModelError, SegmentError
from layerdiffusion.images.masks import bounding_box, iou, keep_largest
from layerdiffusion.models.parts import quiet, reason
from layerdiffusion.models.segmenter import Proposal, Segmenter

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models

COUNT = 3  # offered
SHARES = (0.003, 0.7)  # of the picture, least and most, that a subject fills
CONFIDENT = 0.8  # SAM's own guess of the IoU, from which a proposal is looked at; below it, only if there are too few
SAME = 0.8  # IoU of two proposals from which they are one
MOST = 24  # proposals that CLIP looks at
PIECE = 0.9  # of a proposal, its largest piece: what lies in pieces is mostly several things
MARGINS = (1.3, 1.6)  # side of the square that CLIP sees, in longer sides of the cut-out
VIEW = 224  # pixels a side of that square
EXPECTED = 1.0  # what lying where it is expected counts for, beside a difference of the softmax's logarithm
SHARPNESS = 10.0  # of the softmax over nouns
AGREED = 0.2  # what the logarithm of SAM's answers that agree on a proposal counts for beside it: parts have few
COMPARED = 128  # pixels a side, of masks that are compared all with all
# What else a cut-out may be: CLIP is asked which of these and the words it is.
NOUNS = (
    "person man woman child dog cat bird horse cow sheep elephant giraffe camel rabbit deer kangaroo dinosaur duck "
    "rooster snail bear fish car train truck bus bicycle boat plane tree flower mountain rock cloud house building "
    "umbrella chair table cup ball toy"
)
ARTICLES = ("the ", "a ", "an ", "my ", "this ", "that ")
DETECTOR_NAMES = "a SAM 3, a Grounding DINO or an OWLv2"


class Found(NamedTuple):
    """A subject found by words, and the clicks and the box that lead SAM to it."""

    mask: np.ndarray  # bool (H, W)
    iou: float  # SAM's own guess of how well it fits, or the detector's that drew it
    score: float  # how well it fits the words: comparable within one picture and its words only
    points: tuple[tuple[float, float], ...]
    box: tuple[float, float, float, float] | None


def find(
    models: Models,
    image: Image.Image | np.ndarray,
    words: str,
    *,
    segmenter: Segmenter | None = None,
    detector: Detector | None = None,
) -> list[Found]:
    """Up to `COUNT` subjects of an RGB picture that the words may mean, the likeliest first.

    By the detector, where one is given; else among SAM's answers to clicks all over the picture by the model's CLIP,
    which needs no other network. Raises `SegmentError` where the words are empty or nothing is found, and `ModelError`.
    """
    words = words.strip()
    if not words:
        raise SegmentError("There are no words to find the subject by; name it, as in “a dog”.")
    segmenter = segmenter or models.segmenter()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if detector is not None:
        found = [_outlined(segmenter, image, instance) for instance in detector.instances(image, words, COUNT)]
    else:
        found = _ranked(models, segmenter, image, words)
    if not found:
        raise SegmentError(f"Nothing on the picture was found by “{words}”; click on the subject instead.")
    return found


def _ranked(models: Models, segmenter: Segmenter, image: Image.Image, words: str) -> list[Found]:
    found: list[Found] = []
    proposals, scores = _scored(models, segmenter, image, words)
    for index in np.argsort(-scores):
        if len(found) == COUNT:
            break
        one = _refined(segmenter, image, proposals[index], float(scores[index]))
        if all(iou(one.mask, other.mask) < SAME for other in found):
            found.append(one)
    return found


def _scored(models: Models, segmenter: Segmenter, image: Image.Image, words: str) -> tuple[list[Proposal], np.ndarray]:
    """The proposals that may be a subject, and how well each fits the words and is one thing to SAM."""
    every = segmenter.proposals(image)
    proposals = distinct(every)
    if not proposals:
        return [], np.zeros(0)
    masks = [proposal.mask for proposal in proposals]
    return proposals, similarity(models, image, masks, words) + AGREED * np.log(agreeing(proposals, every))


def _refined(segmenter: Segmenter, image: Image.Image, proposal: Proposal, score: float) -> Found:
    """What SAM answers to the proposal's click and box together."""
    left, top, right, bottom = bounding_box(proposal.mask)
    across, down = (length / own for length, own in zip(image.size, proposal.mask.shape[::-1], strict=True))
    box = left * across, top * down, right * across, bottom * down
    best = max(segmenter.candidates([proposal.point], box=box, image=image), key=lambda candidate: candidate.iou)
    return Found(best.mask, best.iou, score, (proposal.point,), box)


def agreeing(proposals: Sequence[Proposal], every: Sequence[Proposal]) -> np.ndarray:
    """How many of SAM's answers, `every`, are nearly each of `proposals`, itself among them: (len(proposals),), ≥ 1."""
    step = max(1, max(every[0].mask.shape) // COMPARED)
    own, all_of_them = (
        np.array([one.mask[::step, ::step].ravel() for one in some], np.float32) for some in (proposals, every)
    )
    both = own @ all_of_them.T
    either = own.sum(1)[:, None] + all_of_them.sum(1) - both
    return np.maximum((both >= SAME * either).sum(1), 1)


def find_again(
    models: Models, image: Image.Image, words: str, near: np.ndarray, segmenter: Segmenter | None = None
) -> np.ndarray:
    """The mask, bool (H, W), of a result's subject, which the words name and which was laid down where `near` is True.

    Its pose and outline may be others now. Where SAM proposes nothing, it is `near` itself. Raises `ModelError`.
    """
    segmenter = segmenter or models.segmenter()
    near = np.asarray(Image.fromarray(near).resize(image.size, Image.Resampling.NEAREST))
    proposals, scores = _scored(models, segmenter, image, words)
    if not proposals:
        return near
    there = np.asarray(Image.fromarray(near).resize(proposals[0].mask.shape[::-1], Image.Resampling.NEAREST))
    scores = scores + [EXPECTED * iou(proposal.mask, there) for proposal in proposals]
    return _refined(segmenter, image, proposals[int(np.argmax(scores))], 0.0).mask


def distinct(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Those that may be a subject, SAM's surest first: in one piece, and of nearly equal ones only the surest."""
    least, most = SHARES
    sized = [
        proposal
        for proposal in proposals
        if least <= proposal.mask.mean() <= most and keep_largest(proposal.mask).sum() > PIECE * proposal.mask.sum()
    ]
    sized.sort(key=lambda proposal: -proposal.iou)
    sure = [proposal for proposal in sized if proposal.iou >= CONFIDENT]
    found: list[Proposal] = []
    for proposal in sure if len(sure) >= COUNT else sized:
        if len(found) < MOST and all(iou(proposal.mask, other.mask) < SAME for other in found):
            found.append(proposal)
    return found


def similarity(models: Models, image: Image.Image, masks: Sequence[np.ndarray], words: str) -> np.ndarray:
    """How sure CLIP is that the words, rather than other `NOUNS`, name what each mask cuts out: (len(masks),), ≤ 0.

    The logarithm of a softmax over nouns of the cosines with the mean embedding of several views of the cut-out; a bare
    cosine favours cut-outs that look like any thing at all. Masks are bool and have the picture's shape, at any size.
    """
    pixels = np.asarray(image.resize(masks[0].shape[::-1], Image.Resampling.LANCZOS))
    colours = pixels.reshape(-1, 3).mean(0), np.full(3, 128.0)
    views = [cut_out(pixels, mask, margin, colour) for mask in masks for margin in MARGINS for colour in colours]
    texts = [with_article(words), *(with_article(noun) for noun in NOUNS.split())]
    embedded, meant = models.clip().embed(views, texts)
    cosines = embedded.reshape(len(masks), len(views) // len(masks), -1).mean(1) @ meant.T
    return torch.log_softmax(SHARPNESS * cosines.float(), 1)[:, 0].cpu().numpy()


def cut_out(pixels: np.ndarray, mask: np.ndarray, margin: float, colour: np.ndarray) -> Image.Image:
    """What the mask marks in the middle of a square of one colour, `margin` times its longer side."""
    left, top, right, bottom = bounding_box(mask)
    scale = VIEW / (margin * max(bottom - top, right - left))
    middle = (left + right - 1) / 2, (top + bottom - 1) / 2
    matrix = np.array([[scale, 0, VIEW / 2 - scale * middle[0]], [0, scale, VIEW / 2 - scale * middle[1]]])
    sheet = np.where(mask[..., None], pixels, colour).astype(np.uint8)
    edge = tuple(float(value) for value in colour)
    return Image.fromarray(cv2.warpAffine(sheet, matrix, (VIEW, VIEW), flags=cv2.INTER_LINEAR, borderValue=edge))


def _outlined(segmenter: Segmenter, image: Image.Image, instance: Instance) -> Found:
    """A detector's instance with its own outline, or with the best that SAM answers to its box."""
    if instance.mask is not None:
        return Found(instance.mask, instance.score, instance.score, (), instance.box)
    best = max(segmenter.candidates(box=instance.box, image=image), key=lambda candidate: candidate.iou)
    return Found(best.mask, best.iou, instance.score, (), instance.box)


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
                raise ModelError(f"{name} is a {kind}, no detector of words; give {DETECTOR_NAMES}.")
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
