"""What is measured of a bench's pictures, also by DINOv2 and LPIPS where their weights can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from layerdiffusion.edit import Edit
from layerdiffusion.errors import ModelError
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.images.layers import Layers, lay_out
from layerdiffusion.models.parts import BUILDING, reason
from layerdiffusion.scoring import background_psnr, clip_cosines, cut_out, find_subjects, off_subjects

if TYPE_CHECKING:
    from layerdiffusion.miniature.judge import Judge
    from layerdiffusion.miniature.measures import ShapeMeasure
    from layerdiffusion.models.models import Models
    from layerdiffusion.models.segmenter import Segmenter


LPIPS_SIDE = 64  # pixels; AlexNet's last layers see nothing of a smaller picture


class Dino:
    """Likeness of pictures by DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193), as DreamBooth's DINO score.

    `source` is a folder with a DINOv2 of transformers, or its id on the hub. Raises `ModelError`.
    """

    def __init__(self, source: str | Path, device: str | torch.device = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.name, self.device = Path(source).name, torch.device(device)
        try:
            with BUILDING:
                self._processor = AutoImageProcessor.from_pretrained(source)
                self._model = AutoModel.from_pretrained(source, use_safetensors=True).float().eval().to(self.device)
        except Exception as error:  # damaged files raise nearly anything
            raise ModelError(f"The DINOv2 in {source} can't be opened ({reason(error)}); download it again.") from error

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], photo: Image.Image) -> list[float]:
        """The cosine, −1 to 1, of the class token of each picture with the photo's."""
        pixels = self._processor(images=[*images, photo], return_tensors="pt").pixel_values.to(self.device)
        found = F.normalize(self._model(pixels).last_hidden_state[:, 0], dim=-1)
        return (found[:-1] @ found[-1]).tolist()


class Lpips:
    """LPIPS (Zhang et al. 2018, https://arxiv.org/abs/1801.03924), torchmetrics' own, of what some pixels show.

    `net` is "alex", "vgg" or "squeeze"; its ImageNet weights are torchvision's, from torch's cache or downloaded once.
    Raises `ModelError` where torchmetrics is not installed or they can't be had.
    """

    def __init__(self, net: str = "alex", device: str | torch.device = "cpu") -> None:
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Metric

            # `net_type` is checked by torchmetrics, whose own words name those there are.
            self._metric = Metric(net_type=net, normalize=True).to(device)  # type: ignore[arg-type]
        except ImportError as error:
            raise ModelError("LPIPS needs torchmetrics; run pip install torchmetrics.") from error
        except Exception as error:
            raise ModelError(
                f"The weights of LPIPS ({net}) can't be had ({reason(error)}); connect once, or put torchvision's file "
                "into torch's cache."
            ) from error
        self.name, self.device = f"lpips-{net}", torch.device(device)

    @torch.no_grad()
    def __call__(self, wanted: Image.Image, image: Image.Image, where: np.ndarray) -> float | None:
        """The distance, 0 or more, of the pixels `where`, bool (H, W); None where there are none.

        All others are made the same in both, so that they differ in nothing; the mean runs over the whole picture, and
        is divided by the share of it that is looked at.
        """
        if not where.any():
            return None
        expected, found = np.asarray(wanted), np.where(where[..., None], np.asarray(image), np.asarray(wanted))
        self._metric.reset()
        return float(self._metric(self._tensor(expected), self._tensor(found))) / float(where.mean())

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        """(1, 3, H, W) in 0 … 1, at least `LPIPS_SIDE` a side."""
        found = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().to(self.device) / 255
        shortest = min(found.shape[2:])
        return found if shortest >= LPIPS_SIDE else F.interpolate(found, scale_factor=LPIPS_SIDE / shortest)


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
          `outlined`: whether that is at least `outline.WHOLE`, without which nothing is `as_wanted`;
        - with `dino`, `dino_likeness`: as `subject_likeness`, by DINOv2;
        - with `lpips`, `background_likeness`: 1 − LPIPS of what `background_psnr` looks at.

        Raises `ModelError` where there is no CLIP.
        """
        edit = bench_edit.edit
        if unseen := edit.background == "generate":  # each method makes a background of its own
            edit = replace(edit, background="keep")
        layers = lay_out(edit, images[0].size)
        if self.judge is None:
            shown: Sequence[dict[str, str]] = [{}] * len(images)
            subjects = find_subjects(layers, images, self.segmenter)
        else:
            shown, subjects = self.judge(list(images)), self.judge.masks(list(images))
        likenesses = self._dino(edit, images, subjects)
        backgrounds = [
            {} if unseen else self._background(image, layers, subject)
            for image, subject in zip(images, subjects, strict=True)
        ]
        cosines = clip_cosines(self.models, edit, images, subjects)
        outlines = self._outlines(bench_edit, images)
        return [
            {"seed": int(seed), **cosine, **likeness, **background}
            | (judged(bench_edit, seen, outline.get("outlined", True)) if seen and bench_edit.wanted else {})
            | outline
            for seed, cosine, likeness, background, seen, outline in zip(
                seeds, cosines, likenesses, backgrounds, shown, outlines, strict=True
            )
        ]

    def _dino(
        self, edit: Edit, images: Sequence[Image.Image], subjects: Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        if self.dino is None:
            return [{}] * len(images)
        crops = [cut_out(image, subject) for image, subject in zip(images, subjects, strict=True)]
        found = self.dino(crops, cut_out(edit.object_image, edit.object_mask))
        return [{"dino_likeness": cosine} for cosine in found]

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


def judged(bench_edit: BenchEdit, shown: dict[str, str], outlined: bool = True) -> dict[str, bool]:
    """Which wanted attributes are right in a picture that shows these, and whether all of a sort are.

    Nothing that the prompt asks for is `satisfied` by a subject that the judge finds broken.
    """
    right = {name: shown.get(name) == value for name, value in bench_edit.wanted.items()}
    whole = shown.get("shape", "whole") == "whole"
    return right | {
        "satisfied": whole and all(right[name] for name in bench_edit.asked),
        "kept": all(right[name] for name in bench_edit.preserved),
        "as_wanted": whole and outlined and all(right.values()),
    }
