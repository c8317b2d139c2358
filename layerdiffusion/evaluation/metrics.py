"""What is measured of a bench's pictures, and how sure one can be of the means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from layerdiffusion.evaluation.datasets.toybench import BenchEdit
    from layerdiffusion.images.layers import Layers
    from layerdiffusion.miniature.judge import Judge
    from layerdiffusion.models.load import Models
    from layerdiffusion.models.segmenter import Segmenter

MOST_PSNR = 100.0  # dB, of pictures that are the same: JSON has no infinity
RIM = 1 / 32  # of the picture's side: how far beyond a subject's mask its soft rim and its contact shadow are left out
LEVEL = 0.95
RESAMPLES = 10_000


class Measures:
    """Measures an edit's pictures; call it with the edit, its pictures and their seeds.

    `judge` names what a picture of the toybox shows and where its subject is. Without one, the subject is what
    `segmenter` finds in the box where it was laid down, or else the laid-down mask itself.
    """

    def __init__(self, models: Models, judge: Judge | None = None, segmenter: Segmenter | None = None) -> None:
        self.models, self.judge, self.segmenter = models, judge, segmenter

    @property
    def clip_name(self) -> str:
        """The CLIP that all cosines are of."""
        from layerdiffusion.models.clip import clip_name

        return clip_name(self.models)

    def __call__(
        self, bench_edit: BenchEdit, images: Sequence[Image.Image], seeds: Sequence[int]
    ) -> list[dict[str, Any]]:
        """One flat dict a picture, as JSON holds it; what can't be measured is None.

        - `seed`;
        - `clip_score`: the plain cosine of picture and prompt; `clipscore`: CLIPScore proper, 0 to 2.5;
        - `subject_likeness`: the cosine of the CLIP embeddings of the subject, cut out of the photo and of the
          result in squares about it; of the whole result where no subject is seen in it;
        - `background_psnr`: see `background_psnr`;
        - with a judge, for each attribute that the edit wants, whether it is right; `satisfied`: every attribute
          that the prompt names is right; `kept`: every other one is; `as_wanted`: both.

        Raises `ModelError` where there is no CLIP.
        """
        from layerdiffusion.images.layers import lay_out

        layers = lay_out(bench_edit.edit, images[0].width)
        subjects = self._subjects(layers, images)
        cosines = self._cosines(bench_edit, images, subjects)
        seen = self.judge(list(images)) if self.judge is not None else [{}] * len(images)
        return [
            {"seed": int(seed)}
            | cosine
            | {"background_psnr": background_psnr(image, layers, subject)}
            | (judged(bench_edit, shown) if shown and bench_edit.wanted else {})
            for seed, image, subject, cosine, shown in zip(seeds, images, subjects, cosines, seen, strict=True)
        ]

    def _subjects(self, layers: Layers, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Where each result's subject is, bool (H, W)."""
        if self.judge is not None:
            return self.judge.masks(list(images))
        if self.segmenter is None:
            return [layers.object_mask] * len(images)
        return [self.segmenter.mask(box=_box(layers.object_mask), image=image) for image in images]

    def _cosines(
        self, bench_edit: BenchEdit, images: Sequence[Image.Image], subjects: Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        from layerdiffusion.models.clip import PREFIX, clipscore, embed

        edit = bench_edit.edit
        crops = [cut_out(image, subject) for image, subject in zip(images, subjects, strict=True)]
        photo = cut_out(edit.object_image, edit.object_mask)
        pictures, words = embed(self.models, [*images, *crops, photo], [edit.prompt, PREFIX + edit.prompt])
        count = len(images)
        plain, prefixed = (pictures[:count] @ words.T).T.tolist()
        alike = (pictures[count:-1] @ pictures[-1]).tolist()
        return [
            {"clip_score": cosine, "clipscore": clipscore(other), "subject_likeness": likeness}
            for cosine, other, likeness in zip(plain, prefixed, alike, strict=True)
        ]


def judged(bench_edit: BenchEdit, shown: dict[str, str]) -> dict[str, bool]:
    """Which wanted attributes are right in a picture that shows these, and whether all of a sort are."""
    right = {name: shown.get(name) == value for name, value in bench_edit.wanted.items()}
    return right | {
        "satisfied": all(right[name] for name in bench_edit.asked),
        "kept": all(right[name] for name in bench_edit.kept),
        "as_wanted": all(right.values()),
    }


def background_psnr(image: Image.Image, layers: Layers, subject: np.ndarray) -> float | None:
    """How like the wanted background the result is, in dB, where neither picture has a subject.

    The background is the reference, or the photo where it is kept. Left out, with a rim of `RIM` about each: the
    background picture's own subject, and the result's, `subject`, bool (H, W). At most `MOST_PSNR`; None where
    nothing is left to compare.
    """
    from layerdiffusion.images.masks import grow

    outside = ~grow(subject | layers.background_mask, max(1, round(RIM * image.width)))
    if not outside.any():
        return None
    wanted, found = (np.asarray(picture, np.float64)[outside] for picture in (layers.background_image, image))
    error = float(np.mean((found - wanted) ** 2))
    return min(MOST_PSNR, float(10 * np.log10(255**2 / error))) if error else MOST_PSNR


def cut_out(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The smallest square of the picture with all of the mask and a little around it; the picture for an empty mask.

    A square, because CLIP's processor cuts the ends off anything else. A subject too long for one gets the rest of
    it in grey.
    """
    if not mask.any():
        return image
    left, top, right, bottom = _box(mask)
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


class Interval(NamedTuple):
    """A mean and the ends of its interval; NaN where there is nothing to take the mean of."""

    mean: float
    low: float
    high: float


def bootstrap(
    values_by_edit: Sequence[Sequence[float | None]],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean over edits of each edit's mean, and its percentile bootstrap interval over edits.

    `values_by_edit`: an edit's values, one a picture. The edits are drawn again, not the pictures: seeds of one edit
    succeed and fail together, and an interval over pictures would be too narrow. None and NaN are left out, and so
    is an edit without any value. The same values and `seed` give the same interval.
    """
    return _interval(edit_means(values_by_edit), level, resamples, seed)


def paired(
    a_by_edit: Sequence[Sequence[float | None]],
    b_by_edit: Sequence[Sequence[float | None]],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """How much more A has than B on the same edits, given in the same order: the mean difference and its interval.

    Edits that either lacks are left out. Edits differ more than methods do, so this interval is narrower than what
    the two means' own suggest. Raises ValueError for unequal numbers of edits.
    """
    pairs = [(_mean(a), _mean(b)) for a, b in zip(a_by_edit, b_by_edit, strict=True)]
    return _interval(np.array([a - b for a, b in pairs if a is not None and b is not None]), level, resamples, seed)


def edit_means(values_by_edit: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Each edit's mean, (edits,); None and NaN are left out, and so is an edit without any value."""
    return np.array([mean for values in values_by_edit if (mean := _mean(values)) is not None])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _interval(means: np.ndarray, level: float, resamples: int, seed: int) -> Interval:
    if not len(means):
        return Interval(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(len(means), size=(resamples, len(means)))
    low, high = np.quantile(means[drawn].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(means.mean()), float(low), float(high))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is True, the last two past the end."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
