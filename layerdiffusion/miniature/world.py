"""The toybox: a world of toy animals and vehicles, small enough for a small model to learn fully.

`draw(seed)` paints one scene with everything there is to know about it: the picture, the subject's mask, captions
of the whole, of the subject alone and of the place alone, and the attributes they describe. The same seed gives the
same pixels, and each aspect (place, looks, pose, words) has a random stream of its own, so that
`draw(7, pose="jumping")` is scene 7 with nothing changed but the pose.

Sprites are Fluent 3D emoji (MIT licence, see `assets/toybox/LICENSE`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from layerdiffusion.miniature.captions import describe

SPRITES = Path(__file__).parents[2] / "assets" / "toybox"
SIDE = 128  # pixels of the miniature's pictures

ANIMALS = (
    "dog", "cat", "horse", "elephant", "giraffe", "camel", "rabbit", "deer",
    "kangaroo", "dinosaur", "sheep", "duck", "rooster", "snail", "car", "train",
)  # fmt: skip
PAINTS = {  # the colour that a sprite's luminance is mapped to; None leaves the sprite as it is
    "plain": None,
    "red": (232, 44, 40),
    "yellow": (250, 205, 30),
    "green": (70, 160, 36),
    "blue": (44, 96, 240),
    "purple": (140, 56, 200),
    "pink": (255, 96, 180),
}
POSES = ("standing", "jumping", "lying", "upside down")
TURNS = {"standing": 0, "jumping": 21, "lying": 90, "upside down": 180}  # degrees, counterclockwise, on average
SIZES = {"small": (0.27, 0.32), "medium": (0.43, 0.50), "big": (0.62, 0.70)}  # longer side / picture side
MARKINGS = ("none", "spots", "stripes", "saddle")  # looks that no caption names
PLACES = ("meadow", "beach", "forest", "desert", "snow", "sea", "city", "moon")
FACINGS = ("left", "right")
SHAPES = ("whole", "broken")  # every drawn subject is whole; see `layerdiffusion.miniature.broken`
POSITIONS = ("left", "centre", "right")

# Seeds from here on are never trained on: figures and benches draw from them.
HELD_OUT_SEEDS = 1_000_000_000


@dataclass(frozen=True)
class Scene:
    """One drawn scene. `image`: RGB, `side` × `side`; masks: bool (H, W), True on a subject.

    `attributes` has animal, paint, pose, size, place, facing, position and marking; those of the subject are None
    in an empty scene. With two subjects, `object_mask` and the attributes are the first one's and `masks` has
    both, each only where its subject is in sight. `background` is the same place with nobody in it.
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
    """Paint scene `seed`.

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
    background, ground = _paint_place(place, place_rng, side)

    attributes = draw_attributes(looks_rng, pose_rng, place, wanted)
    image = background.copy()
    masks: list[np.ndarray] = []
    animals = [attributes["animal"]] if subjects else []
    if subjects == 2:
        first, second = ("left", "right") if attributes["position"] != "right" else ("right", "left")
        attributes["position"] = first
        attributes["size"] = "medium" if attributes["size"] == "big" else attributes["size"]
        other = draw_attributes(other_rng, other_rng, place, {"position": second})
        other["size"] = "medium" if other["size"] == "big" else other["size"]
        masks.append(_paint_subject(image, other, other_rng, other_rng, ground))
        animals.append(other["animal"])
    if subjects >= 1:
        masks.insert(0, _paint_subject(image, attributes, looks_rng, pose_rng, ground))
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
        "paint": looks_rng.choice(tuple(PAINTS), p=(0.28, *[0.12] * 6)),
        "marking": looks_rng.choice(MARKINGS, p=(0.7, 0.1, 0.1, 0.1)),
        "pose": pose_rng.choice(POSES),
        "size": pose_rng.choice(tuple(SIZES)),
        "facing": pose_rng.choice(FACINGS),
        "position": pose_rng.choice(POSITIONS),
        "place": place,
    }
    return {key: wanted.get(key, str(value)) for key, value in drawn.items()}


# --- subjects -------------------------------------------------------------------------------------------------------


@cache
def _sprite(name: str) -> Image.Image:
    """The sprite, cut to what is visible, RGBA."""
    sprite = Image.open(SPRITES / f"{name}.webp").convert("RGBA")
    return sprite.crop(sprite.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())


@lru_cache(maxsize=512)
def _sized(name: str, height: int) -> Image.Image:
    """The sprite at a height in pixels; a cache, as props of one height recur."""
    sprite = _sprite(name)
    return sprite.resize((max(1, round(sprite.width * height / sprite.height)), height), Image.Resampling.BOX)


def _coloured(animal: str, paint: str, marking: str, rng: np.random.Generator, longer: int) -> Image.Image:
    """The subject's sprite at its size, in its paint and with its marking, facing right, RGBA."""
    sprite = _sprite(animal)
    scale = longer / max(sprite.size)
    size = (max(2, round(sprite.width * scale)), max(2, round(sprite.height * scale)))
    pixels = np.asarray(sprite.resize(size, Image.Resampling.BOX), np.float32) / 255
    rgb, alpha = pixels[:, ::-1, :3], pixels[:, ::-1, 3:]  # every sprite looks left in its file
    if PAINTS[paint] is not None:
        luminance = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
        middle = float(np.average(luminance, weights=alpha[..., 0] + 1e-6))
        # Around the sprite's own middle grey: darker goes to black, lighter to white, eyes and folds stay.
        level = np.clip(0.5 + 0.8 * (luminance - middle), 0, 1)[..., None]
        colour = np.array(PAINTS[paint], np.float32) / 255
        rgb = np.where(level < 0.5, colour * (0.25 + 1.5 * level), colour + (1 - colour) * (2 * level - 1) * 0.8)
    marks, tone = _marking(marking, size, rng)
    rgb = rgb * (1 - marks) + marks * tone * (0.35 + 0.65 * rgb.mean(-1, keepdims=True))
    return Image.fromarray((np.concatenate([rgb, alpha], -1).clip(0, 1) * 255 + 0.5).astype(np.uint8), "RGBA")


def _marking(marking: str, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where a marking covers the sprite, (h, w, 1) in 0…1, and its tone, (3,) in 0…1."""
    width, height = size
    tone = np.array([(1.0, 1.0, 1.0), (0.13, 0.10, 0.16)][int(rng.integers(2))], np.float32)
    canvas = Image.new("L", (4 * width, 4 * height))
    pen = ImageDraw.Draw(canvas)
    longer = 4 * max(size)
    if marking == "spots":
        for _ in range(7):
            x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
            radius = longer * rng.uniform(0.045, 0.075)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif marking == "stripes":
        pitch, start = longer * rng.uniform(0.17, 0.23), rng.uniform(0, 1)
        for i in range(int(canvas.width / pitch) + 2):
            x = (i - start) * pitch
            pen.rectangle((x, 0, x + 0.32 * pitch, canvas.height), fill=255)
    elif marking == "saddle":
        middle, half = canvas.width * rng.uniform(0.42, 0.58), canvas.width * 0.12
        pen.rectangle((middle - half, 0, middle + half, canvas.height), fill=255)
    return np.asarray(canvas.resize(size, Image.Resampling.BOX), np.float32)[..., None] / 255, tone


def _posed(sprite: Image.Image, pose: str, turn: float) -> Image.Image:
    """The sprite turned by `turn` degrees, cut to what is visible, facing right."""
    if pose == "upside down":  # turned over sideways, so that facing stays what it was
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    return sprite.crop(sprite.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox())


@lru_cache(maxsize=64)
def silhouette(animal: str, pose: str) -> np.ndarray:
    """The subject's outline in that pose: bool (h, w), True inside, cut to what is visible, facing right."""
    sprite = _sprite(animal).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(_posed(sprite, pose, TURNS[pose]).getchannel("A")) > 127


def _paint_subject(image: Image.Image, attributes: dict, looks_rng, pose_rng, ground: tuple[float, float]):
    """Lay the subject and its shadow over `image` in place; its mask. Corrects `attributes["position"]`."""
    side = image.width
    longer = round(side * pose_rng.uniform(*SIZES[attributes["size"]]))
    sprite = _coloured(attributes["animal"], attributes["paint"], attributes["marking"], looks_rng, longer)
    turns = {  # a draw for each pose: fixing the pose leaves what is drawn after it as the seed has it
        "standing": pose_rng.uniform(-3, 3),
        "jumping": pose_rng.uniform(17, 25),
        "lying": 90 + pose_rng.uniform(-4, 4),
        "upside down": 180 + pose_rng.uniform(-4, 4),
    }
    sprite = _posed(sprite, attributes["pose"], turns[attributes["pose"]])
    if attributes["facing"] == "left":
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    aim = {"left": 0.28, "centre": 0.5, "right": 0.72}[attributes["position"]] + pose_rng.uniform(-0.05, 0.05)
    half = sprite.width / side / 2
    centre = float(np.clip(aim, min(0.5, half + 0.02), max(0.5, 1 - half - 0.02)))
    attributes["position"] = POSITIONS[int(centre > 0.39) + int(centre > 0.61)]
    floor = pose_rng.uniform(*ground)
    lift = pose_rng.uniform(0.10, 0.15) if attributes["pose"] == "jumping" else 0.0
    lift = max(0.0, min(lift, floor - sprite.height / side - 0.01))  # a big jumper stays in the picture
    left = round(centre * side - sprite.width / 2)
    top = round((floor - lift) * side - sprite.height)

    shadow = Image.new("L", image.size)
    reach, flat = half * (0.85 if lift else 0.95), 0.022
    ImageDraw.Draw(shadow).ellipse(
        [side * v for v in (centre - reach, floor - flat, centre + reach, floor + flat)],
        fill=90 if lift else 130,
    )
    image.paste((10, 12, 30), mask=shadow.filter(ImageFilter.GaussianBlur(side / 90)))
    image.paste(sprite, (left, top), sprite)
    alpha = Image.new("L", image.size)
    alpha.paste(sprite.getchannel("A"), (left, top))
    return np.asarray(alpha) > 127


# --- places ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """How a place is painted: colours top to bottom, what stands on the horizon, what lies about on the ground."""

    sky: tuple
    soil: tuple
    far: tuple = ()  # (sprite, least and greatest height / picture side)
    count: tuple[int, int] = (1, 4)
    near: tuple = ()
    above: tuple = ()  # what hangs in the sky


_PLACES = {
    "meadow": _Place(((96, 176, 250), (214, 236, 252)), ((150, 205, 84), (86, 160, 50)),
                     (("tree", 0.20, 0.34),), (0, 3), (("sunflower", 0.12), ("tulip", 0.11)), ("cloud",)),
    "beach": _Place(((88, 176, 240), (200, 234, 250)), ((250, 222, 160), (226, 180, 110)),
                    (("palm", 0.34, 0.50),), (1, 3), (("umbrella", 0.20), ("shell", 0.08)), ("cloud",)),
    "forest": _Place(((120, 180, 190), (190, 220, 190)), ((52, 104, 44), (30, 70, 32)),
                     (("tree", 0.34, 0.52), ("pine", 0.34, 0.52)), (4, 6), (("mushroom", 0.10),), ()),
    "desert": _Place(((250, 176, 96), (255, 226, 170)), ((236, 158, 84), (206, 116, 56)),
                     (("cactus", 0.20, 0.36), ("mountain", 0.22, 0.34)), (1, 3), (("rock", 0.08),), ("sun",)),
    "snow": _Place(((170, 200, 236), (226, 232, 248)), ((246, 250, 255), (216, 230, 240)),
                   (("pine", 0.20, 0.34), ("snowy-mountain", 0.28, 0.42)), (2, 4), (("snowman", 0.20),), ()),
    "sea": _Place(((130, 196, 246), (222, 240, 250)), ((40, 120, 200), (24, 70, 160)),
                  (("boat", 0.14, 0.24),), (0, 2), (), ("cloud",)),
    "city": _Place(((150, 170, 200), (214, 214, 224)), ((128, 128, 134), (88, 88, 96)),
                   (("office", 0.34, 0.50), ("hotel", 0.30, 0.44), ("bank", 0.26, 0.34)), (3, 5), (), ()),
    "moon": _Place(((8, 8, 26), (30, 28, 66)), ((150, 150, 160), (104, 104, 116)),
                   (("rock", 0.08, 0.14), ("tent", 0.14, 0.20)), (0, 2), (), ("earth", "planet")),
}  # fmt: skip


def _paint_place(place: str, rng: np.random.Generator, side: int) -> tuple[Image.Image, tuple[float, float]]:
    """The empty place, and where feet may stand (least and greatest y / side)."""
    spec = _PLACES[place]
    horizon = rng.uniform(0.44, 0.58)
    light = rng.uniform(0.80, 1.06) * np.array([1, 1, 1]) + rng.uniform(-0.07, 0.07) * np.array([1, 0, -1])
    y = np.linspace(0, 1, side)[:, None]
    sky, soil = (np.array(pair, float) for pair in (spec.sky, spec.soil))
    in_sky, in_soil = np.clip(y / horizon, 0, 1), np.clip((y - horizon) / (1 - horizon), 0, 1)
    rows = np.where(y < horizon, sky[0] + (sky[1] - sky[0]) * in_sky, soil[0] + (soil[1] - soil[0]) * in_soil)
    if place == "beach":
        rows = np.where((y >= horizon - 0.11) & (y < horizon), (46, 140, 204), rows)
    image = Image.fromarray(np.repeat(rows[:, None].clip(0, 255).astype(np.uint8), side, 1), "RGB")
    pen = ImageDraw.Draw(image)

    def put(name: str, height: float, x: float, bottom: float) -> None:
        sprite = _sized(name, max(4, round(height * side)))
        image.paste(sprite, (round(x * side - sprite.width / 2), round(bottom * side - sprite.height)), sprite)

    if place == "moon":
        for x, y_star in rng.uniform((0, 0), (1, horizon), (28, 2)) * side:
            pen.ellipse((x, y_star, x + side / 110, y_star + side / 110), fill=(235, 235, 250))
        for x, y_pit in rng.uniform((0, horizon + 0.08), (1, 1), (6, 2)) * side:
            reach = side * (0.02 + 0.05 * (y_pit / side - horizon))
            pen.ellipse((x - 2 * reach, y_pit - reach * 0.7, x + 2 * reach, y_pit + reach * 0.7), fill=(112, 112, 124))
    for name in spec.above:
        if rng.random() < 0.6:
            height = rng.uniform(0.10, 0.15)
            put(name, height, rng.uniform(0.08, 0.92), height + rng.uniform(0.02, 0.18))
    places = (np.arange(6) + rng.uniform(0.1, 0.9, 6)) / 6  # spread out, so that props seldom pile up
    for x in rng.permutation(places)[: rng.integers(spec.count[0], spec.count[1] + 1)]:
        name, least, greatest = spec.far[rng.integers(len(spec.far))]
        put(name, rng.uniform(least, greatest), x, horizon + rng.uniform(0.01, 0.05))
    if place == "city":
        line = round(side * rng.uniform(0.78, 0.84))
        pen.rectangle((0, line, side, line + side // 50), fill=(226, 226, 226))
    if place == "sea":
        for x, y_wave in rng.uniform((0, horizon + 0.04), (1, 0.98), (14, 2)) * side:
            pen.line((x, y_wave, x + side * 0.06, y_wave), fill=(120, 190, 240), width=max(1, side // 100))
    if spec.near:
        for x in rng.permutation(places)[: rng.integers(0, 4)]:
            name, height = spec.near[rng.integers(len(spec.near))]
            put(name, height, x, rng.uniform(max(horizon + 0.14, 0.66), 0.98))
    if place == "snow":
        for x, y_flake in rng.uniform(0, side, (18, 2)):
            pen.ellipse((x, y_flake, x + side / 64, y_flake + side / 64), fill=(255, 255, 255))
    lit = np.asarray(image, np.float32) * light.astype(np.float32)
    return Image.fromarray((lit.clip(0, 255) + 0.5).astype(np.uint8), "RGB"), (0.82, 0.93)
