"""What the eye sees, in figures: whole subjects, one of them, pictures like drawn ones, and a judge that agrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from layerdiffusion.miniature.data import Scenes, to_tensor
from layerdiffusion.miniature.fidelity import Features, features, kid
from layerdiffusion.miniature.judge import Judge, load_judge
from layerdiffusion.miniature.shape import ShapeMeasure
from layerdiffusion.miniature.world import ANIMALS
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.sam import load_sam

LEAST_CELLS = 3  # a smaller speck of the judge's mask is no second subject
SPLITS = 16  # ways to halve the drawn scenes
CELL = 8  # pixels a cell of the judge's mask


def shape_measure(folder: Path) -> ShapeMeasure:
    """The measure of outlines, with the judge and the SAM of the miniature in `folder`."""
    return ShapeMeasure(load_judge(folder / "judge"), load_sam(folder / "sam"))


def count_subjects(mask: np.ndarray) -> int:
    """How many subjects apart from each other the judge's mask, bool (H, W) at 128 × 128 pixels, is of."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int((stats[1:count, cv2.CC_STAT_AREA] >= LEAST_CELLS * CELL**2).sum())


def one_subject(judge: Judge, images: Sequence[Image.Image | np.ndarray]) -> list[bool]:
    """Whether each picture, 128 × 128, has exactly one subject."""
    return [count_subjects(mask) == 1 for start in range(0, len(images), 64)
            for mask in judge.masks(images[start : start + 64])]  # fmt: skip


def agreement(whole: Sequence[bool], judged: Sequence[bool]) -> float:
    """How often the judge's word agrees with the outline: the mean of the shares of whole and of other subjects.

    Of the mean of two shares, no answer that is always the same has more than a half. NaN where all are alike.
    """
    outline, word = np.asarray(whole, bool), np.asarray(judged, bool)
    if outline.all() or not outline.any():
        return float("nan")
    return float((word[outline].mean() + (~word[~outline]).mean()) / 2)


def kid_over_floor(network: Features, images: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """KID of pictures against one half of the drawn scenes, and the floor: what it comes to between halves of them.

    Pictures are uint8 (N, 128, 128, 3). Between halves of one world KID is as often below 0 as above, so that the floor
    is how far from 0 it lies, the mean over `SPLITS` ways to halve the scenes.
    """
    x, y, half = features(network, images), features(network, drawn), len(drawn) // 2
    orders = (np.random.default_rng(split).permutation(len(drawn)) for split in range(SPLITS))
    floor = np.mean([abs(kid(y[order[:half]], y[order[half:]])) for order in orders])
    return kid(x, y[:half]), float(floor)


def outline_figures(folder: Path, drawn: Scenes, broken: Scenes, two: Scenes) -> Iterator[float]:
    """What the measure makes of scenes whose answer is known, as shares of them.

    Drawn scenes whole; the same through the autoencoder; drawn scenes, and those of two subjects apart from each
    other, with exactly one subject; broken scenes whole; drawn scenes whole where the words name another animal.
    """
    measure = shape_measure(folder)

    def whole(images: np.ndarray, wanted: Sequence[dict]) -> float:
        return float(np.mean([shape.whole for shape in measure([Image.fromarray(i) for i in images], wanted)]))

    yield whole(drawn.images, drawn.attributes)
    yield whole(_autoencoded(folder, drawn.images), drawn.attributes)
    yield float(np.mean(one_subject(measure.judge, list(drawn.images))))
    yield float(
        np.mean(one_subject(measure.judge, [i for i, m in zip(two.images, two.masks, strict=True) if apart(m)]))
    )
    wrecks = [i for i, a in enumerate(broken.attributes) if a.get("shape") == "broken"]
    # The scenes are those that `drawn` has: what a wreck was drawn as stands there.
    yield whole(broken.images[wrecks], [drawn.attributes[i] for i in wrecks])
    others = [ANIMALS[(ANIMALS.index(a["animal"]) + 1) % len(ANIMALS)] for a in drawn.attributes]
    yield whole(drawn.images, [{**a, "animal": other} for a, other in zip(drawn.attributes, others, strict=True)])


def apart(masks: np.ndarray) -> bool:
    """Whether the subjects of masks (2, H, W) are both in sight, at least a cell of the judge's from each other."""
    near = cv2.dilate(masks[0].astype(np.uint8), np.ones((4 * CELL + 1, 4 * CELL + 1), np.uint8)) > 0
    return bool(min(mask.sum() for mask in masks) > LEAST_CELLS * CELL**2 and not (near & masks[1]).any())


def _autoencoded(folder: Path, images: np.ndarray) -> np.ndarray:
    """The pictures as the autoencoder in `folder` gives them back."""
    ensure_torchvision()
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    found = []
    with torch.no_grad():
        for part in to_tensor(images).split(20):
            pixels = vae.decode(vae.encode(part).latents).sample.clamp(-1, 1)
            found.append(((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(found)
