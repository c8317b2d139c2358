"""Edits of the toybox whose right answer is known, drawn from seeds set aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.miniature.world import ANIMALS, HELD_OUT_SEEDS, PLACES, POSES, Scene, draw, join, phrase

FIRST_SEED = HELD_OUT_SEEDS + 500_000  # of the edits that figures are reported on
TUNING_SEED = HELD_OUT_SEEDS + 600_000  # of the edits that defaults are chosen on


@dataclass(frozen=True, eq=False)
class ToyEdit:
    """An edit, the scenes it was made of, and what its result ought to show (attribute → value)."""

    seed: int
    edit: Edit
    photo: Scene
    reference: Scene
    wanted: dict[str, str]


def pose_and_place(seed: int) -> ToyEdit:
    """A subject in a paint no prompt names, to be seen in another pose, in the place of a reference picture.

    The reference has a subject of its own, another animal, which its mask leaves out.
    """
    rng = np.random.default_rng([seed, 7])
    paint = str(rng.choice(["red", "yellow", "green", "blue", "purple", "pink"]))
    size = str(rng.choice(["medium", "big"]))
    animal, pose, place = (str(rng.choice(values)) for values in (ANIMALS, POSES, PLACES))
    photo = draw(seed, animal=animal, paint=paint, size=size, pose=pose, place=place)

    def other(values: tuple[str, ...], value: str) -> str:
        return str(rng.choice([v for v in values if v != value]))

    reference = draw(seed + 50_000, animal=other(ANIMALS, animal), place=other(PLACES, place), size="medium")
    wanted = {"animal": animal, "pose": other(POSES, pose), "place": reference.attributes["place"], "paint": paint}
    thing, where = phrase({key: wanted[key] for key in ("animal", "pose", "place")})
    edit = Edit(
        object_image=photo.image,
        object_mask=photo.object_mask,
        background_image=reference.image,
        background_mask=reference.object_mask,
        prompt=join(thing, where),
        object_prompt=thing,
        background_prompt=where,
    )
    return ToyEdit(seed, edit, photo, reference, wanted)


def toy_edits(count: int, first_seed: int = FIRST_SEED) -> Iterator[ToyEdit]:
    """`count` edits of pose and place from consecutive seeds."""
    return (pose_and_place(seed) for seed in range(first_seed, first_seed + count))


def background_psnr(image: Image.Image, toy: ToyEdit, subject: np.ndarray) -> float:
    """How like the reference the result is, in dB, where neither has a subject.

    `subject`: bool (H, W), True on the result's own subject. NaN where nothing is left to compare.
    """
    outside = ~(subject | toy.reference.object_mask)
    difference = np.asarray(image, np.float64)[outside] - np.asarray(toy.reference.image, np.float64)[outside]
    return float(10 * np.log10(255**2 / np.mean(difference**2))) if outside.any() else float("nan")
