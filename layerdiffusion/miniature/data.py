"""Drawn scenes as arrays, on as many processes as there are cores."""

from __future__ import annotations

import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch

from layerdiffusion.miniature.broken import break_scene
from layerdiffusion.miniature.world import SIDE, draw, held_out

FEW = 256  # scenes that are drawn sooner here than by processes that have to start first


@dataclass(frozen=True)
class Scenes:
    """`images` uint8 (N, H, W, 3); `masks` bool (N, K, H, W), one a subject; `attributes` N dicts."""

    images: np.ndarray
    masks: np.ndarray
    attributes: list[dict[str, str | None]]

    def __len__(self) -> int:
        return len(self.images)


def _draw_one(seed: int, side: int, subjects: int, empty: float, unseen: bool | None, broken: float):
    """Scene `seed`, or None if it is on the wrong side of the held-out combinations."""
    if empty and np.random.default_rng([seed, 99]).random() < empty:
        subjects = 0
    scene = draw(seed, side=side, subjects=subjects)
    if unseen is not None and held_out(scene.attributes) != unseen:
        return None
    if broken and scene.object_mask.any():
        rng = np.random.default_rng([seed, 98])
        scene = break_scene(scene, rng) if rng.random() < broken else scene
    masks = scene.masks or (scene.object_mask,)
    return np.asarray(scene.image), np.stack(masks), scene.attributes


def scenes(
    count: int,
    first_seed: int = 0,
    *,
    side: int = SIDE,
    subjects: int = 1,
    empty: float = 0.0,
    unseen: bool | None = False,
    broken: float = 0.0,
    processes: int | None = None,
) -> Scenes:
    """Draw `count` scenes from consecutive seeds.

    `empty`: the share of scenes with nobody in them. `unseen`: False leaves out the held-out combinations (for
    training), True draws only those, None draws whatever comes. `broken`: the share of subjects broken on purpose.
    """
    one = partial(_draw_one, side=side, subjects=subjects, empty=empty, unseen=unseen, broken=broken)
    if processes == 1 or count <= FEW:
        drawn = list(islice(filter(None, map(one, itertools.count(first_seed))), count))
    else:
        drawn, seed = [], first_seed
        with ProcessPoolExecutor(processes, mp_context=torch.multiprocessing.get_context("spawn")) as pool:
            while len(drawn) < count:
                ask = max(64, (4 if unseen else 2) * (count - len(drawn)))
                drawn += filter(None, pool.map(one, range(seed, seed + ask), chunksize=64))
                seed += ask
    images, masks, attributes = zip(*drawn[:count], strict=True)
    return Scenes(np.stack(images), np.stack(masks), list(attributes))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in −1 … 1, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: torch.Tensor) -> np.ndarray:
    """What `to_tensor` was given, rounded: float (N, 3, H, W), cut to −1 … 1, as uint8 (N, H, W, 3) on the CPU."""
    levels = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return levels.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def psnr(image: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures in −1 … 1, (N, 3, H, W), the mean over pictures of each one's.

    `mask`: bool (N, H, W), the pixels that count; pictures in which it is empty are left out.
    """
    error = ((image - other).clamp(-2, 2) ** 2).mean(1) / 4
    mask = torch.ones_like(error, dtype=torch.bool) if mask is None else mask
    some = mask.flatten(1).any(1)
    mean = (error * mask).flatten(1).sum(1)[some] / mask.flatten(1).sum(1)[some]
    return float((-10 * mean.clamp_min(1e-10).log10()).mean())
