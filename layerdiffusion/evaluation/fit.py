"""How well a result fits, by three things at once: its words, its subject, its place; what “best first” goes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import Layers

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models
    from layerdiffusion.models.segmenter import Segmenter

# What of each counts as nothing and what as all: an unrelated picture's and a very good one's.
WORDS_HUB, WORDS_OWN = (0.15, 0.35), (0.2, 0.6)  # CLIP's cosine with the prompt: ViT-B/32's, the miniature's
SUBJECT = (0.4, 1.0)  # the cosine of both cut-outs' CLIP embeddings
PLACE = (10.0, 30.0)  # dB: another place of the toybox, and the right one through the autoencoder
LEAST = 0.02  # of each, in the mean: whatever is worse is equally bad


class Fit(NamedTuple):
    """Words, subject and place of a result, each 0 … 1, None where it isn't known; and its plain CLIP score."""

    clip_score: float
    words: float
    subject: float | None = None
    place: float | None = None

    @property
    def whole(self) -> float:
        """The harmonic mean of those there are: two that are right don't make up for a third that is wrong."""
        parts = [max(part, LEAST) for part in (self.words, self.subject, self.place) if part is not None]
        return len(parts) / sum(1 / part for part in parts)


def fit_of(clip_score: float, likeness: float | None, psnr: float | None, own_clip: bool) -> Fit:
    """The fit of a picture with these measures, `psnr` in dB; `own_clip`: scored by the miniature's CLIP."""
    words = scaled(clip_score, *(WORDS_OWN if own_clip else WORDS_HUB))
    subject = None if likeness is None else scaled(likeness, *SUBJECT)
    return Fit(clip_score, words, subject, None if psnr is None else scaled(psnr, *PLACE))


def scaled(value: float, nothing: float, everything: float) -> float:
    """The value on a scale from 0, `nothing` or less, to 1, `everything` or more."""
    return min(max((value - nothing) / (everything - nothing), 0.0), 1.0)


def fits(
    models: Models, edit: Edit, layers: Layers, images: Sequence[Image.Image], segmenter: Segmenter | None = None
) -> list[Fit]:
    """How well each picture fits the edit whose layers these are.

    Subjects in them are found by the model's judge, if it has one, else by `segmenter` where they were laid down, else
    they are taken to be there. Raises `ModelError` where there is no CLIP.
    """
    from layerdiffusion.evaluation.metrics import Measures
    from layerdiffusion.miniature.judge import load_judge

    folder = models.folder
    device = models.helpers_device or models.device
    judge = load_judge(folder / "judge", device) if (folder / "judge").is_dir() else None
    measures = Measures(models, judge, segmenter)
    rows = measures.plain(edit, layers, images, measures.subjects(layers, images))
    own = (folder / "clip").is_dir()
    return [fit_of(row["clip_score"], row["subject_likeness"], row["background_psnr"], own) for row in rows]
