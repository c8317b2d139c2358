"""What a toybox scene shows, in words: in the same ones every time, or in one of several wordings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_PLACE_WORDS = {
    "meadow": ("in the meadow", "in a meadow", "in a green meadow"),
    "beach": ("on the beach", "on a sandy beach", "at the beach"),
    "forest": ("in the forest", "in a forest", "in the woods"),
    "desert": ("in the desert", "in a desert"),
    "snow": ("in the snow", "in a snowy landscape"),
    "sea": ("in the sea", "on the sea", "in the ocean"),
    "city": ("in the city", "in a city", "in a city street"),
    "moon": ("on the moon", "on the surface of the moon"),
}
_SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium-sized", "mid-sized"), "big": ("big", "large")}
_POSE_WORDS = {  # as it follows "a cat …", and as it follows "a cat that …"
    "standing": (("standing",), ("stands", "is standing")),
    "jumping": (("jumping", "leaping"), ("jumps", "is jumping")),
    "lying": (("lying down", "lying"), ("lies down", "is lying down")),
    "sitting": (("sitting", "sitting down"), ("sits", "is sitting")),
}


def phrase(attributes: Mapping[str, str | None], rng: np.random.Generator | None = None) -> tuple[str, str]:
    """The subject and the place in words, leaving out what `attributes` leaves out (absent or None).

    `rng` chooses among several natural wordings; without it, always the first.
    """

    def pick(options: tuple[str, ...]) -> str:
        return options[0] if rng is None else options[int(rng.integers(len(options)))]

    size, paint, animal, pose, place = (attributes.get(key) for key in ("size", "paint", "animal", "pose", "place"))
    looks = [pick(_SIZE_WORDS[size])] if size else []
    looks += [paint] if paint else []
    thing = ""
    if animal:
        noun = " ".join([*looks, animal])
        thing = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        if pose:
            after, that = _POSE_WORDS[pose]
            style = 0 if rng is None else int(rng.integers(4))
            thing += f" that {pick(that)}" if style == 3 else f" {pick(after)}"
    return thing, pick(_PLACE_WORDS[place]) if place else ""


def join(thing: str, place: str, rng: np.random.Generator | None = None) -> str:
    """One sentence of the two parts, either of which may be empty."""
    if not (thing and place):
        return thing or place
    return f"{place}, {thing}" if rng is not None and rng.random() < 0.2 else f"{thing} {place}"


def describe(attributes: Mapping[str, str | None], rng: np.random.Generator) -> tuple[str, str, str]:
    """The complete caption, the subject's and the place's; of an empty place, all but the subject's are the place's."""
    thing, place = phrase(attributes, rng)
    return join(thing, place, rng), thing, place


def training_caption(attributes: Mapping[str, str | None], rng: np.random.Generator) -> str:
    """A caption to train on: complete, or with parts left out at random, or of the subject alone.

    The place alone is what an empty scene says. A picture with a subject always names the animal.
    """
    named = dict(attributes)
    if rng.random() < 0.5:
        for key, chance in (("size", 0.5), ("paint", 0.5), ("pose", 0.3)):
            if rng.random() < chance:
                named[key] = None
        if named["animal"] and rng.random() < 0.3:
            named["place"] = None
    thing, place = phrase(named, rng)
    return join(thing, place, rng)
