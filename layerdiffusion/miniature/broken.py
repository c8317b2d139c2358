"""Drawn subjects broken on purpose, so that the judge learns what no picture ought to show.

Five ways, those in which a small diffusion model fails: melted, torn, with a part missing, doubled, or a lump of the
right colour. Each goes on until the outline is clearly not the animal's in its pose.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from layerdiffusion.miniature.outline import best_overlap
from layerdiffusion.miniature.world import Scene, silhouette

BROKEN = 0.72  # at most this IoU with the silhouette; `outline.WHOLE` is well above it
TRIES = 6


def break_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with its subject broken, at random; `attributes` has "shape": "broken" if that could be done.

    Animal, pose, size and marking are None then: a network taught to name them would learn to see them in a wreck.
    """
    layer = np.dstack([np.asarray(scene.image), np.where(scene.object_mask, 255, 0)]).astype(np.uint8)
    outline = silhouette(scene.attributes["animal"], scene.attributes["pose"])
    for attempt in range(TRIES):
        how = WAYS[int(rng.integers(len(WAYS)))]
        broken = how(layer, rng, 0.7 + 0.15 * attempt)
        mask = broken[..., 3] > 127
        if mask.sum() > 60 and best_overlap(mask, outline) <= BROKEN:
            alpha = cv2.GaussianBlur(broken[..., 3:], (3, 3), 0)[..., None].astype(np.float32) / 255
            pixels = broken[..., :3] * alpha + _without(scene) * (1 - alpha)
            unnamed = dict.fromkeys(("animal", "pose", "size", "marking", "accent"))
            return replace(
                scene,
                image=Image.fromarray(pixels.round().astype(np.uint8)),
                object_mask=mask,
                masks=(mask,),
                attributes={**scene.attributes, **unnamed, "shape": "broken"},
            )
    return scene


def _without(scene: Scene) -> np.ndarray:
    """The scene without its subject, float32 (H, W, 3); its shadow stays, continued smoothly where it was hidden.

    Every drawn subject has a whole shadow: a wreck without one, or with a hole in it, could be told by that alone.
    """
    background = np.asarray(scene.background, np.float32)
    hidden = cv2.dilate(scene.object_mask.astype(np.uint8), np.ones((5, 5), np.uint8))
    in_sight = (1 - hidden)[..., None].astype(np.float32)
    shade = (np.asarray(scene.image, np.float32) - background) * in_sight
    sigma = 0.03 * len(hidden)
    near = cv2.GaussianBlur(in_sight, (0, 0), sigma)[..., None]
    continued = cv2.GaussianBlur(shade, (0, 0), sigma) / np.maximum(near, 1e-3)
    return background + np.where(hidden[..., None], continued, shade)


def _box(layer: np.ndarray) -> tuple[float, float, float]:
    """The subject's middle (x, y) and its longer side, in pixels."""
    ys, xs = np.nonzero(layer[..., 3] > 127)
    return (xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2, float(max(np.ptp(xs), np.ptp(ys)) + 1)


def _moved(layer: np.ndarray, dx: np.ndarray | float, dy: np.ndarray | float) -> np.ndarray:
    """The layer with what lies at (x + dx, y + dy) brought to (x, y); nothing beyond the picture's edge."""
    y, x = np.mgrid[: layer.shape[0], : layer.shape[1]].astype(np.float32)
    return cv2.remap(layer, (x + dx).astype(np.float32), (y + dy).astype(np.float32), cv2.INTER_LINEAR)


def melted(layer: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Its outline run in waves."""
    _, _, longer = _box(layer)
    cells = int(rng.integers(5, 9))
    field = rng.normal(0, 0.12 * strength * longer, (2, cells, cells)).astype(np.float32)
    dx, dy = (cv2.resize(part, layer.shape[1::-1], interpolation=cv2.INTER_CUBIC) for part in field)
    return _moved(layer, dx, dy)


def torn(layer: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """One side of a cut through it slid along."""
    far_side, along = _cut(layer, rng, 0.5)
    slide = 0.3 * strength * _box(layer)[2] * rng.choice((-1, 1))
    stays, goes = layer.copy(), layer.copy()
    stays[far_side, 3], goes[~far_side, 3] = 0, 0
    return _laid(_moved(goes, slide * along[0], slide * along[1]), stays)


def partial(layer: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """What lies beyond a cut gone: a head, or the legs."""
    far_side, _ = _cut(layer, rng, 1 - 0.35 * min(strength, 1.4))
    rest = layer.copy()
    rest[far_side, 3] = 0
    return rest


def doubled(layer: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """It and its copy grown together."""
    angle, reach = rng.uniform(0, 2 * np.pi), 0.4 * strength * _box(layer)[2]
    copy = layer[:, ::-1] if rng.random() < 0.5 else layer
    shift = _box(copy)[0] - _box(layer)[0]
    return _laid(_moved(copy, reach * np.cos(angle) + shift, reach * np.sin(angle)), layer)


def lump(layer: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A smooth blob of its colours."""
    middle_x, middle_y, longer = _box(layer)
    sigma = 0.10 * strength * longer
    weight = (layer[..., 3:] > 127).astype(np.float32)
    spread = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    colours = cv2.GaussianBlur(layer[..., :3] * weight, (0, 0), 0.6 * sigma)
    share = cv2.GaussianBlur(weight, (0, 0), 0.6 * sigma)[..., None]
    rgb = (colours / np.maximum(share, 0.02)).clip(0, 255)
    blob = np.dstack([rgb, np.where(spread > rng.uniform(0.35, 0.55), 255, 0)]).astype(np.uint8)
    return melted(blob, rng, 0.4) if (blob[..., 3] > 127).any() else blob


def _cut(layer: np.ndarray, rng: np.random.Generator, share: float) -> tuple[np.ndarray, tuple[float, float]]:
    """A straight cut with `share` of the subject on its near side: the far side, bool (H, W), and its direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: layer.shape[0], : layer.shape[1]]
    across = x * np.cos(angle) + y * np.sin(angle)
    return across > np.quantile(across[layer[..., 3] > 127], share), (-np.sin(angle), np.cos(angle))


def _laid(top: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Two layers as one."""
    return np.where(top[..., 3:] > 127, top, below)


WAYS = (melted, torn, partial, doubled, lump)
