"""Clay: smooth toy shapes from balls, tapered limbs and rounded boxes, lit from above, at any resolution.

Every shape is a core (a point, a segment or a rectangle) with clay of some radius around it, seen from the front. Its
height above the picture plane is that of a sphere rolled along the core; where two shapes meet, a smooth maximum of
their heights joins them (Quilez, https://iquilezles.org/articles/smin/). One height field gives the normals, and so
the light; the greatest distance from any shape's edge gives an anti-aliased outline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]  # sRGB, 0…255
Point = tuple[float, float]

OVERSAMPLING = 2  # samples a pixel, along each side
JOIN = 0.06  # units; how far around a meeting of two shapes their surfaces are rounded into each other
FLOOR = -0.35  # the height where there is nothing
BEHIND = 0.72  # the light on what lies behind
LIGHT = np.array([-0.38, 0.66, 0.65], np.float32)  # towards the light: from the upper left, in front
HIGHLIGHT = np.array([-0.24, 0.48, 0.84], np.float32)  # half way from the light to the eye


@dataclass(frozen=True)
class Limb:
    """Clay from `start` to `end`, its radius going from `r0` to `r1`; x to the right, y up, in units of the figure.

    `depth`: the core's height above the picture plane, below 0 for what lies behind. `box`: half width and half height
    of a rectangle around `start` that is the core instead.
    """

    start: Point
    r0: float
    end: Point
    r1: float
    depth: float = 0.0
    colour: Colour = (200.0, 200.0, 200.0)
    box: Point | None = None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        (x0, y0), (x1, y1) = self.start, self.end
        if self.box is not None:
            w, h = (half + self.r0 for half in self.box)
            return x0 - w, y0 - h, x0 + w, y0 + h
        return (
            min(x0 - self.r0, x1 - self.r1),
            min(y0 - self.r0, y1 - self.r1),
            max(x0 + self.r0, x1 + self.r1),
            max(y0 + self.r0, y1 + self.r1),
        )

    def distance(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
        """How far the points (x, y) are from the core, and the radius of the clay there."""
        (x0, y0), (x1, y1) = self.start, self.end
        if self.box is not None:
            beside, above = np.abs(x - x0) - self.box[0], np.abs(y - y0) - self.box[1]
            return np.hypot(np.maximum(beside, 0), np.maximum(above, 0)), self.r0
        dx, dy = x1 - x0, y1 - y0
        square = dx * dx + dy * dy + 1e-9
        along = ((x - x0) * dx + (y - y0) * dy) / square
        if abs(slope := (self.r0 - self.r1) / math.sqrt(square)) < 1:  # the side of a cone is tangent to both balls
            lean = slope / math.sqrt(1 - slope * slope) / square
            along -= lean * np.abs((x - x0) * dy - (y - y0) * dx)
        along = along.clip(0, 1)
        return np.hypot(x - x0 - along * dx, y - y0 - along * dy), self.r0 + (self.r1 - self.r0) * along


def ball(at: Point, radius: float, depth: float = 0.0, colour: Colour = (200, 200, 200)) -> Limb:
    """A sphere."""
    return Limb(at, radius, at, radius, depth, colour)


def bounds(limbs: Sequence[Limb]) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of all of them."""
    edges = np.array([limb.bounds for limb in limbs])
    left, bottom = edges[:, :2].min(0)
    right, top = edges[:, 2:].max(0)
    return float(left), float(bottom), float(right), float(top)


def sculpt(limbs: Sequence[Limb], scale: float) -> np.ndarray:
    """The limbs as a picture cut to what is visible, uint8 RGBA (h, w, 4); `scale` is in pixels a unit."""
    left, bottom, right, top = bounds(limbs)
    width, height = (max(1, int(np.ceil(length * scale))) for length in (right - left, top - bottom))
    step = 1 / (OVERSAMPLING * scale)
    xs = (left + (np.arange(width * OVERSAMPLING) + 0.5) * step).astype(np.float32)
    ys = (top - (np.arange(height * OVERSAMPLING) + 0.5) * step).astype(np.float32)
    shape = (len(ys), len(xs))
    surface, highest = np.full(shape, FLOOR, np.float32), np.full(shape, FLOOR, np.float32)
    inside, in_sight = np.full(shape, -1.0, np.float32), np.zeros(shape, np.uint8)
    for number, limb in enumerate(limbs):
        low_x, low_y, high_x, high_y = limb.bounds
        columns = slice(np.searchsorted(xs, low_x - step), np.searchsorted(xs, high_x + step))
        rows = slice(np.searchsorted(-ys, -high_y - step), np.searchsorted(-ys, -low_y + step))
        distance, radius = limb.distance(xs[None, columns], ys[rows, None])
        depth_in = radius - distance
        np.maximum(inside[rows, columns], depth_in, out=inside[rows, columns])
        lump = np.sqrt(np.maximum(depth_in * (radius + distance), 0)) + limb.depth
        lump[depth_in <= 0] = FLOOR
        np.copyto(in_sight[rows, columns], number, where=(lump >= highest[rows, columns]) & (depth_in > 0))
        np.maximum(highest[rows, columns], lump, out=highest[rows, columns])
        here = surface[rows, columns]
        meeting = np.maximum(JOIN - np.abs(here - lump), 0)
        surface[rows, columns] = np.maximum(here, lump) + meeting * meeting * (0.25 / JOIN)
    colours = np.array([limb.colour for limb in limbs], np.float32) / 255
    behind = np.array([BEHIND if limb.depth < -0.1 else 1.0 for limb in limbs], np.float32)
    shade, gloss = _light(surface, step)
    rgb = (colours * behind[:, None])[in_sight] * shade[..., None] + gloss[..., None]
    return _pixels(rgb, (inside / step + 0.5).clip(0, 1))


def _light(surface: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """How brightly each sample is lit, and what its gloss adds, from the slopes of the surface."""
    down, right = np.gradient(surface, step)
    facing = 1 / np.sqrt(1 + right * right + down * down)
    normal = (-right * facing, down * facing, facing)
    lambert = sum(n * d for n, d in zip(normal, LIGHT, strict=True)).clip(0, 1)
    gloss = sum(n * d for n, d in zip(normal, HIGHLIGHT, strict=True)).clip(0, 1)
    gloss = gloss * gloss
    gloss = gloss * gloss * gloss * gloss
    sky = 0.5 + 0.5 * normal[1]
    return 0.50 + 0.20 * sky + 0.42 * lambert, 0.15 * gloss * gloss


def _pixels(rgb: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Samples averaged into pixels, with colours that the uncovered ones don't tint."""
    layered = np.concatenate([rgb.clip(0, 1) * coverage[..., None], coverage[..., None]], -1)
    h, w = coverage.shape[0] // OVERSAMPLING, coverage.shape[1] // OVERSAMPLING
    layered = layered.reshape(h, OVERSAMPLING, w, OVERSAMPLING, 4).mean((1, 3))
    layered[..., :3] /= np.maximum(layered[..., 3:], 1e-4)
    return (layered * 255 + 0.5).clip(0, 255).astype(np.uint8)
