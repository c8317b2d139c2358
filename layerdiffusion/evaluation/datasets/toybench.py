"""Toybench: edits of the toybox in the paper's kinds, whose right answer is known, drawn from seeds set aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError
from layerdiffusion.miniature.world import (
    ANIMALS,
    HELD_OUT_SEEDS,
    PAINTS,
    PLACES,
    POSES,
    SIZES,
    Scene,
    draw,
    join,
    phrase,
)

# Beyond the seeds of `evaluate edits`, of its tuning, of the figures and of the page: nothing was chosen on these.
BENCH_SEED = HELD_OUT_SEEDS + 2_000_000
BENCH_TUNING_SEED = HELD_OUT_SEEDS + 3_000_000
REFERENCES = 500_000  # from a photo's seed to its reference's
MOST_EDITS = 10_000

KINDS = {
    "background": "background replaced",
    "pose": "pose changed",
    "both": "pose and background changed",
    "size": "size changed",
    "attribute": "attribute changed",
    "kept": "scene kept",
}
JUDGED = ("animal", "pose", "place", "paint", "size")
_COLOURS = tuple(paint for paint in PAINTS if paint != "plain")


@dataclass(frozen=True, eq=False)
class BenchEdit:
    """One edit of a bench.

    `wanted`: attribute → the value that the result ought to show; of these the prompt names the `asked` ones, and
    the others (`kept`) are the subject's own, which only the photo shows. An edit of photographs wants nothing that
    can be judged and has no scenes.
    """

    id: str  # safe as a file's name, the same in every run
    kind: str
    edit: Edit
    wanted: dict[str, str]
    photo: Scene | None = None
    reference: Scene | None = None
    asked: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """What the result has to keep of the photo without being told."""
        return tuple(name for name in self.wanted if name not in self.asked)


def toybench(count: int = 60) -> list[BenchEdit]:
    """The bench's first `count` edits, each kind in turn: 60 are ten of each. The same ones on every machine.

    Every prompt names the animal, the pose and the place; the size and the paint only where they are what changes, so
    that elsewhere they have to come from the photo. The kinds:

    - background: the place of a reference, in the photo's pose;
    - pose: another pose, in a reference of the same sort of place;
    - both: another pose, in the place of a reference;
    - size: the subject scaled on the board and named in words, its feet where they were, in its own picture;
    - attribute: another paint, by words alone, in a reference of the same sort of place;
    - kept: another pose (every first) or paint (every second), in the photo's own, untouched scene.

    References show a subject of their own, another animal, which the mask leaves out. Raises `EditError` for a count
    outside 1 to 10,000.
    """
    return _edits(count, BENCH_SEED, "")


def tuning_edits(count: int = 12) -> list[BenchEdit]:
    """Edits of the same kinds that are not in the bench, to choose dials on: 12 are two of each."""
    return _edits(count, BENCH_TUNING_SEED, "tuning-")


def _edits(count: int, first_seed: int, prefix: str) -> list[BenchEdit]:
    if not 1 <= count <= MOST_EDITS:
        raise EditError(f"The bench can't have {count} edits; ask for 1 to {MOST_EDITS}.")
    return [_drawn(first_seed, index, prefix) for index in range(count)]


def _drawn(first_seed: int, index: int, prefix: str) -> BenchEdit:
    """Edit `index` of the bench that begins at `first_seed`, whatever the bench's length."""
    kind, number = list(KINDS)[index % len(KINDS)], index // len(KINDS)
    rng = np.random.default_rng([first_seed + index, 11])

    def dealt(values: Any) -> str:
        """From a pack shuffled anew when it is used up, so that a small bench has some of everything."""
        pack = list(values)
        shuffled = np.random.default_rng([first_seed, index // len(pack), len(pack)]).permutation(len(pack))
        return pack[shuffled[index % len(pack)]]

    def other(values: Any, value: str) -> str:
        return str(rng.choice([v for v in values if v != value]))

    shown = {
        "animal": dealt(ANIMALS),
        "pose": dealt(POSES),
        "place": dealt(PLACES),
        "paint": dealt(_COLOURS),
        "size": str(rng.choice(list(SIZES) if kind == "size" else ["medium", "big"])),
    }
    photo = draw(first_seed + index, **shown)
    changed = {
        "background": ("place",),
        "pose": ("pose",),
        "both": ("pose", "place"),
        "size": ("size",),
        "attribute": ("paint",),
        "kept": ("paint",) if number % 2 else ("pose",),
    }[kind]
    values = {"pose": POSES, "place": PLACES, "paint": _COLOURS, "size": SIZES}
    wanted = shown | {name: other(values[name], shown[name]) for name in changed}
    asked = tuple(name for name in JUDGED if name in ("animal", "pose", "place", *changed))
    thing, where = phrase({name: wanted[name] for name in asked})

    reference = None
    pictures: dict[str, Any] = {"background": "keep"}
    if kind not in ("size", "kept"):
        stranger = other(ANIMALS, shown["animal"])
        reference = draw(first_seed + REFERENCES + index, animal=stranger, place=wanted["place"], size="medium")
        pictures = {"background_image": reference.image, "background_mask": reference.object_mask}
    edit = Edit(
        object_image=photo.image,
        object_mask=photo.object_mask,
        prompt=join(thing, where),
        object_prompt=thing,
        background_prompt=where,
        placement=_resized(photo.object_mask, shown["size"], wanted["size"]) if kind == "size" else Placement(),
        **pictures,
    )
    return BenchEdit(f"{prefix}{kind}-{number:02d}", kind, edit, wanted, photo, reference, asked)


def _resized(mask: np.ndarray, size: str, wanted: str) -> Placement:
    """The placement that makes a subject of one size another, its feet at their height and all of it in the picture."""
    scale = round(sum(SIZES[wanted]) / sum(SIZES[size]), 4)

    def extent(axis: int) -> tuple[float, float]:
        inside, length = np.flatnonzero(mask.any(axis=axis)), mask.shape[1 - axis]
        return inside[0] / length, (inside[-1] + 1) / length

    (left, right), (top, bottom) = extent(0), extent(1)
    half = scale * (right - left) / 2
    centre = (left + right) / 2
    moved = min(max(centre, min(half, 0.5)), max(1 - half, 0.5))
    up = (scale - 1) * (bottom - top) / 2
    return Placement(scale=scale, dx=round(moved - centre, 4), dy=round(-up, 4))
