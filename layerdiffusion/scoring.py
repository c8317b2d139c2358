"""How well a result fits, by three things at once: its words, its subject, its place; what “best first” goes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers
from layerdiffusion.images.masks import bounding_box, grow

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models
    from layerdiffusion.models.segmenter import Segmenter

# What of each counts as nothing and what as all: an unrelated picture's and a very good one's.
WORDS_HUB, WORDS_MINIATURE = (0.15, 0.35), (0.2, 0.6)  # CLIP's cosine with the prompt: ViT-B/32's, the miniature's
SUBJECT_COSINES = (0.4, 1.0)  # the cosine of both cut-outs' CLIP embeddings
PLACE_PSNR = (10.0, 30.0)  # dB: another place, and the right one through the autoencoder
LEAST_PART = 0.02  # of each, in the mean: whatever is worse is equally bad
MOST_PSNR = 100.0  # dB, of pictures that are the same: JSON has no infinity
RIM = 1 / 32  # of the picture's side: how far beyond a subject's mask its soft rim and its contact shadow are left out


class Score(NamedTuple):
    """Words, subject and place of a result, each 0 … 1, None where it isn't known; and its plain CLIP score.

    `changed` is the mean of `background_change`, 0 … 1.
    """

    clip_score: float
    words: float
    subject: float | None = None
    place: float | None = None
    changed: float | None = None

    @property
    def overall(self) -> float:
        """The harmonic mean of those there are: two that are right don't make up for a third that is wrong."""
        parts = [max(part, LEAST_PART) for part in (self.words, self.subject, self.place) if part is not None]
        return len(parts) / sum(1 / part for part in parts)


def score_of(
    clip_score: float, likeness: float | None, psnr: float | None, own_clip: bool, changed: float | None = None
) -> Score:
    """The score of a picture with these measures, `psnr` in dB; `own_clip`: scored by the miniature's CLIP."""
    words = scaled(clip_score, *(WORDS_MINIATURE if own_clip else WORDS_HUB))
    subject = None if likeness is None else scaled(likeness, *SUBJECT_COSINES)
    return Score(clip_score, words, subject, None if psnr is None else scaled(psnr, *PLACE_PSNR), changed)


def scaled(value: float, nothing: float, everything: float) -> float:
    """The value on a scale from 0, `nothing` or less, to 1, `everything` or more."""
    return min(max((value - nothing) / (everything - nothing), 0.0), 1.0)


def score_results(
    models: Models, edit: Edit, layers: Layers, images: Sequence[Image.Image], segmenter: Segmenter | None = None
) -> list[Score]:
    """The score of each picture of the edit whose layers these are. Raises `ModelError` where there is no CLIP."""
    subjects = result_subjects(models, layers, images, segmenter)
    own, scores = (models.folder / "clip").is_dir(), []
    for image, subject, cosines in zip(images, subjects, clip_cosines(models, edit, images, subjects), strict=True):
        change, psnr = background_change(image, layers, subject), background_psnr(image, layers, subject)
        changed = None if psnr is None else float(np.nanmean(change))
        scores.append(score_of(cosines["clip_score"], cosines["subject_likeness"], psnr, own, changed))
    return scores


def result_subjects(
    models: Models, layers: Layers, images: Sequence[Image.Image], segmenter: Segmenter | None = None
) -> Sequence[np.ndarray]:
    """Where each result's subject is, bool (H, W): as the model's judge finds it, if there is one, else as
    `find_subjects`."""
    from layerdiffusion.miniature.judge import load_judge

    judge = models.folder / "judge"
    if judge.is_dir():
        return load_judge(judge, models.helpers_device or models.device).masks(list(images))
    return find_subjects(layers, images, segmenter)


def find_subjects(layers: Layers, images: Sequence[Image.Image], segmenter: Segmenter | None) -> list[np.ndarray]:
    """Where each result's subject is, bool (H, W): what `segmenter` finds in the box where the photo's was laid down;
    without one, the laid-down mask itself."""
    if segmenter is None:
        return [layers.object_mask] * len(images)
    return [segmenter.mask(box=bounding_box(layers.object_mask), image=image) for image in images]


def clip_cosines(
    models: Models, edit: Edit, images: Sequence[Image.Image], subjects: Sequence[np.ndarray]
) -> list[dict[str, float]]:
    """Of each picture "clip_score" (the plain cosine with the prompt, −1 to 1), "clipscore" (CLIPScore, 0 to 2.5) and
    "subject_likeness" (the cosine of its subject and the photo's, cut out in squares). Raises `ModelError`."""
    from layerdiffusion.models.clip import PREFIX, clipscore

    crops = [cut_out(image, subject) for image, subject in zip(images, subjects, strict=True)]
    photo = cut_out(edit.object_image, edit.object_mask)
    pictures, words = models.clip().embed([*images, *crops, photo], [edit.prompt, PREFIX + edit.prompt])
    count = len(images)
    plain, prefixed = (pictures[:count] @ words.T).T.tolist()
    alike = (pictures[count:-1] @ pictures[-1]).tolist()
    return [
        {"clip_score": cosine, "clipscore": clipscore(other), "subject_likeness": likeness}
        for cosine, other, likeness in zip(plain, prefixed, alike, strict=True)
    ]


def background_psnr(image: Image.Image, layers: Layers, subject: np.ndarray) -> float | None:
    """How like the wanted background the result is, in dB, where neither picture has a subject.

    The background is the reference, or the photo where it is kept. Left out, with a rim of `RIM` about each: the
    background picture's own subject, and the result's, `subject`, bool (H, W). At most `MOST_PSNR`; None where
    nothing is left to compare.
    """
    return psnr(layers.background_image, image, off_subjects(image, layers, subject))


def background_change(image: Image.Image, layers: Layers, subject: np.ndarray) -> np.ndarray:
    """How far the result is from the wanted background, float (H, W), 0 … 1, the mean of the channels' absolute
    differences; NaN where `off_subjects` doesn't look."""
    found, wanted = (np.asarray(picture, np.float64) for picture in (image, layers.background_image))
    return np.where(off_subjects(image, layers, subject), np.abs(found - wanted).mean(axis=2) / 255, np.nan)


def off_subjects(image: Image.Image, layers: Layers, subject: np.ndarray) -> np.ndarray:
    """Where `background_psnr` looks, bool (H, W)."""
    return ~grow(subject | layers.background_mask, max(1, round(RIM * image.width)))


def psnr(wanted: Image.Image, image: Image.Image, where: np.ndarray) -> float | None:
    """PSNR in dB of the pixels `where`, bool (H, W), at most `MOST_PSNR`; None where there are none."""
    if not where.any():
        return None
    expected, found = (np.asarray(picture, np.float64)[where] for picture in (wanted, image))
    error = float(np.mean((found - expected) ** 2))
    return min(MOST_PSNR, float(10 * np.log10(255**2 / error))) if error else MOST_PSNR


def cut_out(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The smallest square of the picture with all of the mask and a little around it; the picture for an empty mask.

    A square, because CLIP's processor cuts the ends off anything else. A subject too long for one gets the rest of
    it in grey.
    """
    if not mask.any():
        return image
    left, top, right, bottom = bounding_box(mask)
    side = round(1.125 * max(right - left, bottom - top))
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    # Moved into the picture where it fits there.
    x, y = (
        min(max(start, 0), length - side) if side <= length else (length - side) // 2
        for start, length in ((x, image.width), (y, image.height))
    )
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(image, (-x, -y))
    return square
