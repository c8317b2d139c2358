"""The toybox: a world of clay animals in clay places, small enough for a small model to learn fully.

`draw(seed)` makes one scene with everything there is to know about it: the picture, the subject's mask, captions
of the whole, of the subject alone and of the place alone, and the attributes they describe. The same seed gives the
same pixels, and each aspect (place, looks, pose, words) has a random stream of its own, so that
`draw(7, pose="jumping")` is scene 7 with nothing changed but the pose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from layerdiffusion.miniature import animals
from layerdiffusion.miniature.animals import ACCENTS, MARKINGS, silhouette
from layerdiffusion.miniature.captions import describe
from layerdiffusion.miniature.clay import Colour
from layerdiffusion.miniature.places import GROUND, draw_place
from layerdiffusion.miniature.places import PLACES as _PLACES
from layerdiffusion.miniature.skeleton import POSES

__all__ = ["ACCENTS", "MARKINGS", "POSES", "draw", "draw_attributes", "held_out", "silhouette", "Scene"]

SIDE = 128  # pixels of the miniature's pictures
ANIMALS = tuple(animals.ANIMALS)
PLACES = tuple(_PLACES)
PAINTS: dict[str, Colour | None] = {  # None leaves the animal its natural colour
    "plain": None,
    "red": (232, 44, 40),
    "yellow": (250, 205, 30),
    "green": (70, 160, 36),
    "blue": (44, 96, 240),
    "purple": (140, 56, 200),
    "pink": (255, 96, 180),
}
SIZES = {"small": (0.40, 0.46), "medium": (0.54, 0.62), "big": (0.72, 0.82)}  # longer side / picture side
FACINGS = ("left", "right")
SHAPES = ("whole", "broken")  # every drawn subject is whole; see `layerdiffusion.miniature.broken`
POSITIONS = ("left", "centre", "right")

# Seeds from here on are never trained on: figures and benches draw from them.
HELD_OUT_SEEDS = 1_000_000_000


@dataclass(frozen=True)
class Scene:
    """One drawn scene. `image`: RGB, `side` × `side`; masks: bool (H, W), True on a subject.

    `attributes` has animal, paint, pose, size, place, facing, position, marking and accent, the marking's colour;
    those of the subject are None in an empty scene, and so is the accent of no marking. With two subjects,
    `object_mask` and the attributes are the first one's and `masks` has both, each only where its subject is in sight.
    `background` is the same place with nobody in it.
    """

    image: Image.Image
    object_mask: np.ndarray
    caption: str
    object_caption: str
    background_caption: str
    attributes: dict[str, str | None]
    background: Image.Image
    masks: tuple[np.ndarray, ...] = field(default=())
    animals: tuple[str | None, ...] = field(default=())  # of each subject


def held_out(attributes: dict[str, str | None]) -> bool:
    """Whether this is one of the combinations kept out of training: one place and one paint for each animal."""
    if attributes["animal"] is None:
        return False
    index = ANIMALS.index(attributes["animal"])
    unseen_place = PLACES[(3 * index + index // 8) % len(PLACES)]
    unseen_paint = tuple(PAINTS)[1 + index % (len(PAINTS) - 1)]
    return attributes["place"] == unseen_place or attributes["paint"] == unseen_paint


def draw(seed: int, *, subjects: int = 1, side: int = SIDE, **wanted: str) -> Scene:
    """Make scene `seed`.

    `subjects`: 0 (an empty place), 1, or 2 (side by side, for learning to tell them apart). `side`: pixels.
    `wanted` fixes any of animal, paint, pose, size, place, facing, position, marking; the others keep the values
    that the seed gives them. Raises ValueError for an unknown attribute or value.
    """
    _check(wanted)
    place_rng, looks_rng, pose_rng, words_rng, other_rng = (
        np.random.default_rng([seed, stream]) for stream in range(5)
    )
    drawn_place = str(place_rng.choice(PLACES))
    place = wanted.get("place", drawn_place)
    background = draw_place(place, place_rng, side)

    attributes = draw_attributes(looks_rng, pose_rng, place, wanted)
    image = background.copy()
    masks: list[np.ndarray] = []
    animals = [attributes["animal"]] if subjects else []
    if subjects == 2:
        first, second = ("left", "right") if attributes["position"] != "right" else ("right", "left")
        attributes["position"] = first
        attributes["size"] = "small"  # two larger ones would hide each other
        other = draw_attributes(other_rng, other_rng, place, {"position": second})
        other["size"] = "small"
        masks.append(_add_subject(image, other, other_rng, other_rng))
        animals.append(other["animal"])
    if subjects >= 1:
        masks.insert(0, _add_subject(image, attributes, looks_rng, pose_rng))
        for i in range(1, len(masks)):
            masks[i] = masks[i] & ~masks[0]
    else:
        attributes = {key: None for key in attributes} | {"place": place}

    captions = describe(attributes, words_rng)
    mask = masks[0] if masks else np.zeros((side, side), bool)
    return Scene(image, mask, *captions, attributes, background, tuple(masks), tuple(animals))


def _check(wanted: dict[str, str]) -> None:
    known = {"animal": ANIMALS, "paint": tuple(PAINTS), "pose": POSES, "size": tuple(SIZES), "place": PLACES,
             "facing": FACINGS, "position": POSITIONS, "marking": MARKINGS}  # fmt: skip
    for key, value in wanted.items():
        if key not in known:
            raise ValueError(f"the toybox has no attribute {key!r}; it has {', '.join(known)}")
        if value not in known[key]:
            raise ValueError(f"{key} can't be {value!r}; choose from {', '.join(known[key])}")


def draw_attributes(looks_rng, pose_rng, place: str, wanted: dict[str, str]) -> dict[str, str | None]:
    """What scene is to be drawn: the attributes of `Scene`, each `wanted` or at random."""
    # Every value is drawn, wanted or not, so that fixing one leaves the others as the seed has them.
    drawn = {
        "animal": looks_rng.choice(ANIMALS),
        "paint": looks_rng.choice(tuple(PAINTS), p=(0.34, *[0.11] * 6)),
        "marking": looks_rng.choice(MARKINGS, p=(0.4, *[0.15] * 4)),
        "pose": pose_rng.choice(POSES),
        "size": pose_rng.choice(tuple(SIZES)),
        "facing": pose_rng.choice(FACINGS),
        "position": pose_rng.choice(POSITIONS),
        "place": place,
    }
    return {**{key: wanted.get(key, str(value)) for key, value in drawn.items()}, "accent": None}


def _add_subject(image: Image.Image, attributes: dict, looks_rng, pose_rng) -> np.ndarray:
    """Lay the subject and its shadow over `image` in place; its mask. Sets `attributes`' position and accent."""
    side = image.width
    longer = side * pose_rng.uniform(*SIZES[attributes["size"]])
    # Streams of their own: what a marking or a pose draws leaves what comes after it as the seed has it.
    looks, moves = (int(rng.integers(2**32)) for rng in (looks_rng, pose_rng))
    animal, paint, marking = attributes["animal"], PAINTS[attributes["paint"]], attributes["marking"]
    limbs = animals.figure(
        animal, attributes["pose"], paint, marking, np.random.default_rng(looks), np.random.default_rng(moves)
    )
    accent = animals.accent_of(animal, paint, np.random.default_rng(looks))
    attributes["accent"] = None if marking == "none" else accent
    subject = Image.fromarray(animals.render(limbs, longer), "RGBA")
    if attributes["facing"] == "left":
        subject = subject.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    aim = {"left": 0.28, "centre": 0.5, "right": 0.72}[attributes["position"]] + pose_rng.uniform(-0.05, 0.05)
    half, height = subject.width / side / 2, subject.height / side
    centre = float(np.clip(aim, min(0.5, half + 0.02), max(0.5, 1 - half - 0.02)))
    attributes["position"] = POSITIONS[int(centre > 0.39) + int(centre > 0.61)]
    floor = max(pose_rng.uniform(*GROUND), height + 0.02)
    jump = pose_rng.uniform(0.10, 0.15)
    lift = min(jump, floor - height - 0.02) if attributes["pose"] == "jumping" else 0.0  # it stays in the picture
    left, top = round(centre * side - subject.width / 2), round((floor - lift) * side - subject.height)

    shadow = Image.new("L", image.size)
    reach, flat = half * (0.85 if lift else 0.95), 0.025
    ImageDraw.Draw(shadow).ellipse(
        [side * v for v in (centre - reach, floor - flat, centre + reach, floor + flat)],
        fill=90 if lift else 130,
    )
    image.paste((10, 12, 30), mask=shadow.filter(ImageFilter.GaussianBlur(side / 90)))
    image.paste(subject, (left, top), subject)
    alpha = Image.new("L", image.size)
    alpha.paste(subject.getchannel("A"), (left, top))
    return np.asarray(alpha) > 127
