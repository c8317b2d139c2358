"""What the eye sees in pictures of the toybox, as figures, and the files that keep figures for the model card.

A picture's subject is whole where its outline is that of its animal in its pose; it has exactly one; the judge finds
its attributes as the caption names them; a set of pictures is like drawn scenes; the autoencoder gives pictures back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from layerdiffusion.miniature import diffusion
from layerdiffusion.miniature.captions import join, phrase
from layerdiffusion.miniature.data import to_pictures, to_tensor
from layerdiffusion.miniature.fidelity import Features
from layerdiffusion.miniature.judge import Judge, load_judge
from layerdiffusion.miniature.outline import WHOLE, best_overlap, by_colour, distinct, innermost
from layerdiffusion.miniature.world import PLACES, SIDE, draw_attributes, held_out, silhouette
from layerdiffusion.models.profile import device_profile
from layerdiffusion.models.sam import load_sam
from layerdiffusion.models.segmenter import Segmenter

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

FIGURES, CURVE = "figures.json", "curve.json"
ATTRIBUTES = ("animal", "place", "pose", "paint", "size")
STEPS, GUIDANCE, BATCH = 50, 3.0, 25
CURVE_STEPS, CURVE_SEED = 25, 100_000
LEAST_AREA = 60  # pixels; a smaller cut-out is no subject
CELL = 8  # pixels a cell of the judge's mask
EDGE = 2  # pixels by which SAM's edges may be off
LEAST_CELLS = 3  # a smaller speck of the judge's mask is no second subject
SPLITS = 16  # ways to halve the drawn scenes

Picture = Image.Image | np.ndarray  # RGB; an array is uint8 (H, W, 3)
Attributes = Mapping[str, str | None]


@dataclass(frozen=True)
class Shape:
    """A subject beside its silhouette: the best IoU, and the cut-out (bool (H, W)) that reached it."""

    iou: float
    mask: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether the subject has its outline."""
        return self.iou >= WHOLE


class ShapeMeasure:
    """Cuts subjects out and compares their outlines with the silhouettes that captions ask for.

    The subject is cut out in several ways (SAM from a box and from a click, GrabCut from the box's mask and from the
    judge's), and the cut-out that comes nearest counts. The judge says where to look; what it reads there isn't used.
    """

    def __init__(self, judge: Judge, sam: nn.Module):
        self.judge, self.segmenter = judge, Segmenter(sam)

    @classmethod
    def load(cls, folder: Path) -> ShapeMeasure:
        """With the judge and the SAM of the miniature in `folder`."""
        return cls(load_judge(folder / "judge"), load_sam(folder / "sam"))

    def __call__(self, images: Sequence[Picture], wanted: Sequence[Attributes]) -> list[Shape]:
        """The shape of each picture's subject beside the animal and the pose that `wanted` names."""
        pixels = [_sized(image) for image in images]
        nobody = Shape(0.0, np.zeros((SIDE, SIDE), bool))
        return [
            max(
                (Shape(best_overlap(mask, silhouette(asked["animal"], asked["pose"])), mask)
                 for mask in self.cutouts(picture, where)),
                key=lambda shape: shape.iou,
                default=nobody,
            )
            for picture, where, asked in zip(pixels, self.judge.masks(pixels), wanted, strict=True)
        ]  # fmt: skip

    def cutouts(self, picture: np.ndarray, where: np.ndarray) -> list[np.ndarray]:
        """Ways to cut out what is at `where` (bool (H, W), roughly), bool (H, W) each; none where that is empty."""
        if where.sum() < LEAST_AREA:
            return []
        ys, xs = np.nonzero(where)
        box = [float(edge) for edge in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
        click = [innermost(where)]
        self.segmenter.set_image(picture)
        boxed = self.segmenter.mask(box=box)
        found = [boxed, by_colour(picture, boxed, EDGE), by_colour(picture, where, CELL // 2)]
        found += [self.segmenter.mask(click, [1], box), *(each.mask for each in self.segmenter.candidates(click, [1]))]
        return [mask for mask in distinct(found) if mask.sum() >= LEAST_AREA]


def _sized(image: Picture) -> np.ndarray:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def count_subjects(mask: np.ndarray) -> int:
    """How many subjects apart from each other the judge's mask, bool (H, W) at 128 × 128 pixels, is of."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int((stats[1:count, cv2.CC_STAT_AREA] >= LEAST_CELLS * CELL**2).sum())


def one_subject(judge: Judge, images: Sequence[Picture]) -> list[bool]:
    """Whether each picture, 128 × 128, has exactly one subject."""
    parts = (images[start : start + 64] for start in range(0, len(images), 64))
    return [count_subjects(mask) == 1 for part in parts for mask in judge.masks(part)]


def apart(masks: np.ndarray) -> bool:
    """Whether the subjects of masks (2, H, W) are both in sight, at least a cell of the judge's from each other."""
    near = cv2.dilate(masks[0].astype(np.uint8), np.ones((4 * CELL + 1, 4 * CELL + 1), np.uint8)) > 0
    return bool(min(mask.sum() for mask in masks) > LEAST_CELLS * CELL**2 and not (near & masks[1]).any())


def right(judge: Judge, images: Sequence[Picture], wanted: Sequence[Attributes]) -> np.ndarray:
    """Which of `ATTRIBUTES` each picture has as wanted, bool (N, 5); none where the judge calls the subject broken."""
    found = judge(images)
    return np.array([
        [shown.get("shape", "whole") == "whole" and shown[key] == asked[key] for key in ATTRIBUTES]
        for shown, asked in zip(found, wanted, strict=True)
    ])  # fmt: skip


def kid_in_floors(network: Features, images: np.ndarray, drawn: np.ndarray) -> float:
    """KID of pictures against one half of the drawn scenes, over the KID between halves of these.

    Pictures are uint8 (N, 128, 128, 3). Between halves of one world KID is as often below 0 as above, so that the floor
    is its mean distance from 0, over `SPLITS` ways to halve the scenes.
    """
    x, y, half = features(network, images), features(network, drawn), len(drawn) // 2
    orders = (np.random.default_rng(split).permutation(len(drawn)) for split in range(SPLITS))
    return kid(x, y[:half]) / float(np.mean([abs(kid(y[order[:half]], y[order[half:]])) for order in orders]))


def kid(x: Tensor, y: Tensor) -> float:
    """The kernel Inception distance of features (N, d) and (M, d): about 0, above or below, for two draws of a world.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel (x · y / d + 1)³ (Bińkowski et al.
    2018, https://arxiv.org/abs/1801.01401), over all pictures at once: nothing in it is drawn at random.
    """
    within = [(_kernel(z, z).sum() - _kernel(z, z).diagonal().sum()) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


@torch.no_grad()
def features(network: Features, images: np.ndarray) -> Tensor:
    """The pictures' features, float64 (N, d); pictures are uint8 (N, 128, 128, 3)."""
    parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(64)
    return torch.cat([network(part) for part in parts]).double()


@torch.no_grad()
def autoencoded(vae: AutoencoderTiny, images: np.ndarray) -> np.ndarray:
    """The pictures, uint8 (N, H, W, 3), as the autoencoder gives them back."""
    parts = to_tensor(images).split(20)
    return np.concatenate([to_pictures(vae.decode(vae.encode(part).latents).sample) for part in parts])


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The text-to-image model in `folder`, float32, on the device there is, without a progress bar."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device_profile().device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def guidance_of(folder: Path) -> float:
    """The classifier-free guidance that the model's own settings ask for."""
    return _read(folder / "settings.json").get("guidance_scale", GUIDANCE)


def random_attributes(count: int, unseen: bool, seed: int) -> list[Attributes]:
    """`count` complete sets of attributes, of combinations trained on or (`unseen`) of those that weren't."""
    found: list[Attributes] = []
    rng = np.random.default_rng([seed, 8])
    while len(found) < count:
        attributes = draw_attributes(rng, rng, str(rng.choice(PLACES)), {})
        if held_out(attributes) == unseen:
            found.append({key: attributes[key] for key in ATTRIBUTES})
    return found


def generate(
    pipeline: StableDiffusionPipeline,
    wanted: Sequence[Attributes],
    first_seed: int,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
) -> list[Image.Image]:
    """A picture for each set of attributes, by diffusers' own pipeline, of seeds from `first_seed` on."""
    from tqdm import tqdm

    profile = device_profile(pipeline.device)
    images: list[Image.Image] = []
    for start in tqdm(range(0, len(wanted), BATCH), desc="pictures", unit="batch", leave=False):
        captions = [join(*phrase(attributes)) for attributes in wanted[start : start + BATCH]]
        seeds = range(first_seed + start, first_seed + start + len(captions))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.autocast(profile.device.type, profile.precision, enabled=profile.precision != torch.float32):
            images += pipeline(
                captions, num_inference_steps=steps, guidance_scale=guidance, generator=generators
            ).images
    return images


def whole_share(
    pipeline: StableDiffusionPipeline, measure: ShapeMeasure, captions: int = 96, guidance: float = GUIDANCE
) -> float:
    """The share of whole subjects for the same captions and seeds every time, in 25 steps: a point of the curve."""
    wanted = random_attributes(captions, False, CURVE_SEED)
    images = generate(pipeline, wanted, CURVE_SEED, guidance, CURVE_STEPS)
    return float(np.mean([shape.whole for shape in measure(images, wanted)]))


def load_checkpoint(folder: Path, checkpoint: Path) -> tuple[StableDiffusionPipeline, int]:
    """The model as a checkpoint of the network's training has it, averaged, and how many pictures it has seen.

    `folder` has the model that is trained on, or its autoencoder alone. The training may go on meanwhile.
    """
    if (folder / "model_index.json").exists():
        pipeline = diffusion.load(folder)
    else:
        from diffusers import AutoencoderTiny

        pipeline = diffusion.build(AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32))
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    modules = nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})
    modules.load_state_dict(saved["average"], strict=False)  # averages are of floating-point weights alone
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device_profile().device), saved["step"] * diffusion.BATCH


@dataclass(frozen=True)
class Figure:
    """One figure of the table. `value` None: not measured, for want of a part. `bar` None: there is none to reach."""

    part: str
    name: str
    value: float | None
    bar: float | None
    unit: str = "%"  # "%" figures are shares of 1
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the bar is met; what can't be measured doesn't meet it."""
        if self.bar is None or self.value is None:
            return self.bar is None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def formatted(self, number: float | None) -> str:
        """`number` in this figure's unit."""
        if number is None:
            return "–"
        if self.unit == "%":
            return f"{100 * number:.1f} %"
        return f"{number:.3f}" if self.unit == "" else f"{number:.1f} {self.unit}"


def record(figures: list[Figure], folder: Path, order: Iterable[str]) -> None:
    """Write the figures to `figures.json`, parts in that order; those of parts not measured now stay as they were."""
    now, places = {figure.part for figure in figures}, {part: at for at, part in enumerate(order)}
    every = [*(figure for figure in recorded(folder) if figure.part in places.keys() - now), *figures]
    every.sort(key=lambda figure: places[figure.part])
    _write(folder / FIGURES, {"figures": [asdict(figure) for figure in every]})


def recorded(folder: Path) -> list[Figure]:
    """The figures that `record` wrote; none where it never did."""
    return [Figure(**row) for row in _read(folder / FIGURES).get("figures", ())]


def curve(folder: Path) -> list[tuple[int, float]]:
    """The curve of the network's training: (pictures seen, share of whole subjects), in order."""
    return [(pictures, share) for pictures, share in _read(folder / CURVE).get("whole", ())]


def add_point(folder: Path, pictures: int, share: float) -> None:
    """Add a point to `curve.json`, or measure one again."""
    points = dict(curve(folder)) | {pictures: share}
    _write(folder / CURVE, {"whole": sorted(points.items())})


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
