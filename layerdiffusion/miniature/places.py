"""The toybox's eight places: sky, ground, and clay props that stand about, by chance and in changing light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from layerdiffusion.miniature.clay import Colour, Limb, ball, bounds, sculpt

WOOD: Colour = (150, 104, 76)
LEAF: Colour = (92, 172, 84)
PINE: Colour = (52, 138, 96)
STONE: Colour = (150, 150, 164)
SNOW: Colour = (250, 252, 255)
PANE: Colour = (150, 214, 250)


def _limb(x0, y0, r0, x1, y1, r1, colour: Colour, depth: float = 0.0) -> Limb:
    return Limb((x0, y0), r0, (x1, y1), r1, depth, colour)


def _box(x: float, y: float, half_width: float, half_height: float, colour: Colour, depth: float = 0.0) -> Limb:
    corner = 0.05
    core = (half_width - corner, half_height - corner)
    return Limb((x, y), corner, (x, y), corner, depth, colour, box=core)


def _around(x: float, y: float, reach: float, count: int, start: float = 0.0) -> list[tuple[float, float]]:
    turns = (math.radians(start + 360 * i / count) for i in range(count))
    return [(x + reach * math.cos(turn), y + reach * math.sin(turn)) for turn in turns]


def _house(half_width: float, height: float, wall: Colour, roof: Colour, columns: int, rows: int) -> list[Limb]:
    limbs = [_box(0, height / 2, half_width, height / 2, wall)]
    limbs.append(_box(0, height, half_width + 0.06, 0.08, roof, 0.06))
    for i in range(columns):
        for j in range(rows):
            x = (i - (columns - 1) / 2) * 2 * half_width / columns
            limbs.append(_box(x, 0.3 + (j + 0.3) * (height - 0.35) / rows, 0.1, 0.13, PANE, 0.06))
    return limbs


PROPS: dict[str, list[Limb]] = {
    "tree": [
        _limb(0, 0, 0.11, 0, 0.5, 0.09, WOOD), ball((-0.24, 0.72), 0.27, -0.02, LEAF),
        ball((0.24, 0.74), 0.27, 0.0, LEAF), ball((0, 1.0), 0.3, 0.04, (104, 184, 92)),
    ],
    "pine": [
        _limb(0, 0, 0.1, 0, 0.3, 0.1, WOOD), _limb(0, 0.42, 0.36, 0, 0.75, 0.12, PINE, 0.0),
        _limb(0, 0.72, 0.29, 0, 1.05, 0.09, (58, 148, 102), 0.06),
        _limb(0, 1.02, 0.21, 0, 1.32, 0.05, (66, 158, 110), 0.12),
    ],
    "palm": [
        _limb(0, 0, 0.1, 0.06, 0.4, 0.085, WOOD), _limb(0.06, 0.4, 0.085, 0.0, 0.85, 0.075, WOOD),
        *(_limb(0, 0.88, 0.09, x, y, 0.1, LEAF, 0.05) for x, y in ((-0.35, 0.95), (0.35, 0.95), (-0.2, 1.1),
        (0.2, 1.1))),
        *(_limb(x, y, 0.1, 1.5 * x, y - 0.22, 0.05, (80, 160, 76), 0.05) for x, y in ((-0.35, 0.95), (0.35, 0.95))),
        ball((-0.07, 0.82), 0.075, 0.2, (120, 80, 60)), ball((0.09, 0.82), 0.075, 0.2, (120, 80, 60)),
    ],
    "sunflower": [
        _limb(0, 0, 0.06, 0, 0.6, 0.06, LEAF), _limb(0.05, 0.2, 0.07, 0.25, 0.32, 0.06, LEAF),
        *(ball(at, 0.15, 0.0, (252, 200, 50)) for at in _around(0, 0.8, 0.24, 8)),
        ball((0, 0.8), 0.2, 0.06, (130, 84, 54)),
    ],
    "tulip": [
        _limb(0, 0, 0.06, 0, 0.55, 0.06, LEAF), _limb(-0.05, 0.12, 0.07, -0.22, 0.36, 0.05, LEAF),
        *(_limb(0, 0.6, 0.14, x, 0.85, 0.1, (238, 90, 150), 0.05) for x in (-0.16, 0.16, 0)),
    ],
    "cloud": [
        ball((-0.5, 0.3), 0.3, 0, SNOW), ball((-0.1, 0.48), 0.4, 0, SNOW), ball((0.35, 0.38), 0.34, 0, SNOW),
        _limb(-0.5, 0.2, 0.2, 0.6, 0.2, 0.2, SNOW),
    ],
    "umbrella": [
        _limb(0, 0, 0.05, 0, 0.7, 0.05, (236, 226, 214)), _limb(-0.36, 0.72, 0.14, 0.36, 0.72, 0.14, (236, 72, 74)),
        _limb(-0.16, 0.8, 0.2, 0.16, 0.8, 0.2, (236, 72, 74), 0.02), ball((0, 0.82), 0.22, 0.06, SNOW),
    ],
    "shell": [_limb(-0.3, 0.2, 0.2, 0.3, 0.2, 0.2, (250, 214, 190)), ball((0, 0.3), 0.28, 0.1, (246, 190, 170))],
    "mushroom": [
        _limb(0, 0.1, 0.16, 0, 0.4, 0.14, (246, 236, 220)),
        _limb(-0.22, 0.55, 0.2, 0.22, 0.55, 0.2, (226, 62, 58), 0.04), ball((0, 0.66), 0.26, 0.04, (226, 62, 58)),
        ball((-0.16, 0.66), 0.09, 0.24, SNOW), ball((0.18, 0.6), 0.09, 0.22, SNOW),
    ],
    "cactus": [
        _limb(0, 0, 0.17, 0, 1.0, 0.17, (86, 160, 84)), _limb(-0.1, 0.4, 0.11, -0.4, 0.45, 0.11, (86, 160, 84)),
        _limb(-0.4, 0.45, 0.11, -0.4, 0.78, 0.11, (86, 160, 84)),
        _limb(0.1, 0.55, 0.11, 0.38, 0.6, 0.11, (86, 160, 84)),
        _limb(0.38, 0.6, 0.11, 0.38, 0.88, 0.11, (86, 160, 84)),
    ],
    "mountain": [
        _limb(0, 0, 0.95, 0.05, 0.95, 0.24, (176, 124, 98)),
        _limb(0.75, -0.05, 0.6, 0.75, 0.4, 0.2, (188, 134, 104), 0.1),
    ],
    "snowy-mountain": [
        _limb(0, 0, 0.95, 0.05, 0.95, 0.24, (128, 136, 166)), _limb(0.035, 0.8, 0.36, 0.05, 0.96, 0.24, SNOW, 0.02),
    ],
    "rock": [ball((-0.2, 0.15), 0.42, 0, STONE), ball((0.3, 0.05), 0.32, 0.06, (166, 166, 178))],
    "sun": [ball((0, 0.5), 0.5, 0, (255, 226, 110))],
    "snowman": [
        ball((0, 0.3), 0.36, 0, SNOW), ball((0, 0.78), 0.27, 0.05, SNOW), ball((0, 1.14), 0.2, 0.08, SNOW),
        _limb(-0.17, 0.96, 0.07, 0.17, 0.96, 0.07, (232, 80, 80), 0.24),
        ball((0.07, 1.18), 0.045, 0.26, (34, 28, 38)), _limb(0.1, 1.1, 0.05, 0.26, 1.08, 0.03, (246, 140, 50), 0.24),
        _box(0, 1.4, 0.14, 0.14, (70, 64, 90), 0.1), _limb(-0.18, 1.3, 0.05, 0.18, 1.3, 0.05, (70, 64, 90), 0.14),
    ],
    "boat": [
        _limb(-0.42, 0.16, 0.16, 0.42, 0.16, 0.16, (206, 92, 70), 0.05),
        _limb(-0.02, 0.2, 0.04, -0.02, 1.1, 0.04, WOOD),
        _limb(0.16, 0.48, 0.16, 0.05, 1.0, 0.05, (252, 248, 238), 0.02),
        _limb(-0.2, 0.46, 0.13, -0.1, 0.84, 0.05, (255, 206, 96), 0.02),
    ],
    "office": _house(0.34, 1.5, (156, 178, 204), (126, 146, 176), 2, 3),
    "hotel": _house(0.48, 1.1, (240, 150, 130), (206, 96, 88), 3, 2),
    "bank": _house(0.46, 0.8, (240, 222, 190), (190, 160, 130), 3, 1),
    "tent": [_limb(0, 0, 0.6, 0, 0.55, 0.06, (240, 152, 70)), _limb(0, 0, 0.2, 0, 0.2, 0.05, (110, 66, 50), 0.5)],
    "earth": [
        ball((0, 0.5), 0.5, 0, (74, 140, 230)), ball((-0.15, 0.65), 0.26, 0.22, (110, 190, 110)),
        ball((0.2, 0.3), 0.2, 0.24, (110, 190, 110)),
    ],
    "planet": [
        ball((0, 0.5), 0.4, 0, (244, 170, 90)), _limb(-0.62, 0.36, 0.075, 0.62, 0.64, 0.075, (255, 222, 160), 0.36),
    ],
}  # fmt: skip


@lru_cache(maxsize=512)
def _prop(name: str, height: int) -> Image.Image:
    """The prop at a height in pixels, what would be under the ground cut off, RGBA; cached, as heights recur."""
    _, bottom, _, top = bounds(PROPS[name])
    scale = height / top
    pixels = sculpt(PROPS[name], scale)
    under = max(0, round(-bottom * scale))
    return Image.fromarray(pixels[: len(pixels) - under] if under else pixels, "RGBA")


@dataclass(frozen=True)
class Place:
    """How a place is drawn: colours top to bottom, what stands on the horizon, what lies about on the ground."""

    sky: tuple[Colour, Colour]
    soil: tuple[Colour, Colour]
    far: tuple[tuple[str, float, float], ...] = ()  # prop, least and greatest height / picture side
    count: tuple[int, int] = (1, 4)
    near: tuple[tuple[str, float], ...] = ()  # prop, height / picture side
    above: tuple[str, ...] = ()  # what hangs in the sky


PLACES = {
    "meadow": Place(((96, 176, 250), (214, 236, 252)), ((150, 205, 84), (96, 170, 60)),
                    (("tree", 0.22, 0.36),), (0, 3), (("sunflower", 0.16), ("tulip", 0.14)), ("cloud",)),
    "beach": Place(((88, 176, 240), (200, 234, 250)), ((250, 222, 160), (230, 188, 122)),
                   (("palm", 0.34, 0.48),), (1, 3), (("umbrella", 0.22), ("shell", 0.09)), ("cloud",)),
    "forest": Place(((120, 180, 190), (190, 220, 190)), ((62, 118, 54), (36, 82, 40)),
                    (("tree", 0.34, 0.52), ("pine", 0.34, 0.52)), (4, 6), (("mushroom", 0.13),), ()),
    "desert": Place(((250, 176, 96), (255, 226, 170)), ((236, 158, 84), (206, 116, 56)),
                    (("cactus", 0.22, 0.36), ("mountain", 0.22, 0.34)), (1, 3), (("rock", 0.09),), ("sun",)),
    "snow": Place(((170, 200, 236), (226, 232, 248)), ((246, 250, 255), (216, 230, 240)),
                  (("pine", 0.22, 0.34), ("snowy-mountain", 0.26, 0.40)), (2, 4), (("snowman", 0.24),), ()),
    "sea": Place(((130, 196, 246), (222, 240, 250)), ((40, 120, 200), (24, 70, 160)),
                 (("boat", 0.18, 0.28),), (0, 2), (), ("cloud",)),
    "city": Place(((150, 170, 200), (214, 214, 224)), ((128, 128, 134), (88, 88, 96)),
                  (("office", 0.36, 0.50), ("hotel", 0.32, 0.42), ("bank", 0.24, 0.32)), (3, 5), (), ()),
    "moon": Place(((14, 14, 38), (38, 34, 78)), ((150, 150, 160), (104, 104, 116)),
                  (("rock", 0.10, 0.16), ("tent", 0.16, 0.22)), (0, 2), (), ("earth", "planet")),
}  # fmt: skip

GROUND = (0.82, 0.93)  # where feet may stand: least and greatest y / side


def draw_place(place: str, rng: np.random.Generator, side: int) -> Image.Image:
    """The empty place, RGB, `side` pixels wide and high."""
    spec = PLACES[place]
    horizon = rng.uniform(0.44, 0.58)
    light = rng.uniform(0.80, 1.06) + rng.uniform(-0.07, 0.07) * np.array([1, 0, -1])
    image = _sky_and_soil(spec, place == "beach", horizon, side)
    pen = ImageDraw.Draw(image)

    def put(name: str, height: float, x: float, bottom: float) -> None:
        prop = _prop(name, max(4, round(height * side)))
        image.paste(prop, (round(x * side - prop.width / 2), round(bottom * side - prop.height)), prop)

    if place == "moon":
        _moon(pen, rng, horizon, side)
    for name in spec.above:
        if rng.random() < 0.6:
            height = rng.uniform(0.11, 0.16)
            put(name, height, rng.uniform(0.08, 0.92), height + rng.uniform(0.02, 0.18))
    places = (np.arange(6) + rng.uniform(0.1, 0.9, 6)) / 6  # spread out, so that props seldom pile up
    for x in rng.permutation(places)[: rng.integers(spec.count[0], spec.count[1] + 1)]:
        name, least, greatest = spec.far[rng.integers(len(spec.far))]
        put(name, rng.uniform(least, greatest), x, horizon + rng.uniform(0.01, 0.05))
    if place == "city":
        line = round(side * rng.uniform(0.78, 0.84))
        pen.rectangle((0, line, side, line + side // 40), fill=(214, 214, 216))
    if place == "sea":
        for x, y in rng.uniform((0, horizon + 0.06), (1, 0.98), (9, 2)) * side:
            reach = side * (0.015 + 0.02 * y / side)
            pen.ellipse((x - 3 * reach, y - reach / 2, x + 3 * reach, y + reach / 2), fill=(72, 146, 216))
    if spec.near:
        for x in rng.permutation(places)[: rng.integers(0, 4)]:
            name, height = spec.near[rng.integers(len(spec.near))]
            put(name, height, x, rng.uniform(max(horizon + 0.14, 0.66), 0.98))
    if place == "snow":
        for x, y in rng.uniform(0, side, (10, 2)):
            pen.ellipse((x, y, x + side / 45, y + side / 45), fill=(255, 255, 255))
    lit = np.asarray(image, np.float32) * light.astype(np.float32)
    return Image.fromarray((lit.clip(0, 255) + 0.5).astype(np.uint8), "RGB")


def _sky_and_soil(spec: Place, water: bool, horizon: float, side: int) -> Image.Image:
    y = (np.arange(side)[:, None] + 0.5) / side
    sky, soil = np.array(spec.sky), np.array(spec.soil)
    in_sky, in_soil = (y / horizon).clip(0, 1), ((y - horizon) / (1 - horizon)).clip(0, 1)
    rows = np.where(y < horizon, sky[0] + (sky[1] - sky[0]) * in_sky, soil[0] + (soil[1] - soil[0]) * in_soil)
    if water:
        rows = np.where((y >= horizon - 0.11) & (y < horizon), (58, 150, 210), rows)
    return Image.fromarray(np.repeat(rows[:, None].clip(0, 255).astype(np.uint8), side, 1), "RGB")


def _moon(pen: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: float, side: int) -> None:
    """Stars and craters."""
    for x, y in rng.uniform((0, 0), (1, horizon - 0.02), (14, 2)) * side:
        pen.ellipse((x, y, x + side / 64, y + side / 64), fill=(226, 226, 246))
    for x, y in rng.uniform((0, horizon + 0.08), (1, 1), (6, 2)) * side:
        reach = side * (0.02 + 0.05 * (y / side - horizon))
        pen.ellipse((x - 2 * reach, y - reach * 0.7, x + 2 * reach, y + reach * 0.7), fill=(112, 112, 124))
