"""What is measured of a bench's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.images.layers import Layers, lay_out
from layerdiffusion.images.masks import grow
from layerdiffusion.models.clip import PREFIX, clip_name, clipscore, embed

if TYPE_CHECKING:
    from layerdiffusion.evaluation.perceptual import Dino, Lpips
    from layerdiffusion.miniature.judge import Judge
    from layerdiffusion.miniature.shape import ShapeMeasure
    from layerdiffusion.models.load import Models
    from layerdiffusion.models.segmenter import Segmenter

MOST_PSNR = 100.0  # dB, of pictures that are the same: JSON has no infinity
RIM = 1 / 32  # of the picture's side: how far beyond a subject's mask its soft rim and its contact shadow are left out


class Measures:
    """Measures an edit's pictures; call it with the edit, its pictures and their seeds.

    `judge` names what a picture of the toybox shows and where its subject is. Without one, the subject is what
    `segmenter` finds in the box where it was laid down, or else the laid-down mask itself. `shapes` measures outlines;
    `dino` and `lpips` are what the field measures photographs with.
    """

    def __init__(
        self,
        models: Models,
        judge: Judge | None = None,
        segmenter: Segmenter | None = None,
        shapes: ShapeMeasure | None = None,
        dino: Dino | None = None,
        lpips: Lpips | None = None,
    ) -> None:
        self.models, self.judge, self.segmenter, self.shapes = models, judge, segmenter, shapes
        self.dino, self.lpips = dino, lpips

    @property
    def clip_name(self) -> str:
        """The CLIP that all cosines are of."""
        return clip_name(self.models)

    def __call__(
        self, bench_edit: BenchEdit, images: Sequence[Image.Image], seeds: Sequence[int]
    ) -> list[dict[str, Any]]:
        """One flat dict a picture, as JSON holds it; what can't be measured is None.

        - `seed`;
        - `clip_score`: the plain cosine of picture and prompt; `clipscore`: CLIPScore proper, 0 to 2.5;
        - `subject_likeness`: the cosine of the CLIP embeddings of the subject, cut out of the photo and of the
          result in squares about it; of the whole result where no subject is seen in it;
        - `background_psnr`: see `background_psnr`; not where the background is generated;
        - with a judge, for each attribute that the edit wants, whether it is right; `satisfied`: every attribute
          that the prompt names is right; `kept`: every other one is; `as_wanted`: both;
        - with `shapes`, `shape`: the IoU of the subject's outline with the animal's own in the pose asked for, 0 to 1;
          `outlined`: whether that is at least `shape.WHOLE`;
        - with `dino`, `dino_likeness`: as `subject_likeness`, by DINOv2;
        - with `lpips`, `background_likeness`: 1 − LPIPS of what `background_psnr` looks at.

        Raises `ModelError` where there is no CLIP.
        """
        edit = bench_edit.edit
        if unseen := edit.background == "generate":  # each method makes a background of its own
            edit = replace(edit, background="keep")
        layers = lay_out(edit, images[0].size)
        subjects = self.subjects(layers, images)
        plain = self.plain(edit, None if unseen else layers, images, subjects)
        seen = self.judge(list(images)) if self.judge is not None else [{}] * len(images)
        outlines = self._outlines(bench_edit, images)
        return [
            {"seed": int(seed)}
            | measured
            | (judged(bench_edit, shown) if shown and bench_edit.wanted else {})
            | outline
            for seed, measured, shown, outline in zip(seeds, plain, seen, outlines, strict=True)
        ]

    def plain(
        self, edit: Edit, layers: Layers | None, images: Sequence[Image.Image], subjects: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """What needs no answer known beforehand; with no `layers`, nothing of the background."""
        cosines = self._cosines(edit, images, subjects)
        return [
            cosine | ({} if layers is None else self._background(image, layers, subject))
            for image, subject, cosine in zip(images, subjects, cosines, strict=True)
        ]

    def _background(self, image: Image.Image, layers: Layers, subject: np.ndarray) -> dict[str, float | None]:
        found = {"background_psnr": background_psnr(image, layers, subject)}
        if self.lpips is not None:
            distance = self.lpips(layers.background_image, image, off_subjects(image, layers, subject))
            found["background_likeness"] = None if distance is None else 1 - distance
        return found

    def _outlines(self, bench_edit: BenchEdit, images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """Each result's outline beside the one asked for; nothing where nobody knows that."""
        if self.shapes is None or not {"animal", "pose"} <= bench_edit.wanted.keys():
            return [{}] * len(images)
        found = self.shapes(images, [bench_edit.wanted] * len(images))
        return [{"shape": round(shape.iou, 4), "outlined": shape.whole} for shape in found]

    def subjects(self, layers: Layers, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Where each result's subject is, bool (H, W)."""
        if self.judge is not None:
            return self.judge.masks(list(images))
        if self.segmenter is None:
            return [layers.object_mask] * len(images)
        return [self.segmenter.mask(box=_box(layers.object_mask), image=image) for image in images]

    def _cosines(
        self, edit: Edit, images: Sequence[Image.Image], subjects: Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        crops = [cut_out(image, subject) for image, subject in zip(images, subjects, strict=True)]
        photo = cut_out(edit.object_image, edit.object_mask)
        pictures, words = embed(self.models, [*images, *crops, photo], [edit.prompt, PREFIX + edit.prompt])
        count = len(images)
        plain, prefixed = (pictures[:count] @ words.T).T.tolist()
        alike = (pictures[count:-1] @ pictures[-1]).tolist()
        dino = [{}] * count if self.dino is None else [{"dino_likeness": one} for one in self.dino(crops, photo)]
        return [
            {"clip_score": cosine, "clipscore": clipscore(other), "subject_likeness": likeness} | more
            for cosine, other, likeness, more in zip(plain, prefixed, alike, dino, strict=True)
        ]


def judged(bench_edit: BenchEdit, shown: dict[str, str]) -> dict[str, bool]:
    """Which wanted attributes are right in a picture that shows these, and whether all of a sort are."""
    right = {name: shown.get(name) == value for name, value in bench_edit.wanted.items()}
    return right | {
        "satisfied": all(right[name] for name in bench_edit.asked),
        "kept": all(right[name] for name in bench_edit.preserved),
        "as_wanted": all(right.values()),
    }


def background_psnr(image: Image.Image, layers: Layers, subject: np.ndarray) -> float | None:
    """How like the wanted background the result is, in dB, where neither picture has a subject.

    The background is the reference, or the photo where it is kept. Left out, with a rim of `RIM` about each: the
    background picture's own subject, and the result's, `subject`, bool (H, W). At most `MOST_PSNR`; None where
    nothing is left to compare.
    """
    return psnr(layers.background_image, image, off_subjects(image, layers, subject))


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


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is True, the last two past the end."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
