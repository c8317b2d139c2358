"""Toybench: edits of the toybox in the paper's kinds, whose right answer is known, drawn from seeds set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError
from layerdiffusion.miniature.captions import join, phrase
from layerdiffusion.miniature.world import ANIMALS, HELD_OUT_SEEDS, PAINTS, PLACES, POSES, SIZES, Scene, draw

POSE_SEED = HELD_OUT_SEEDS + 500_000  # of `pose_edits` that figures are reported on
POSE_TUNING_SEED = HELD_OUT_SEEDS + 600_000  # of those that defaults are chosen on
POSE_REFERENCES = 50_000
# Beyond the seeds of `pose_edits`, of their tuning, of the figures and of the page: nothing was chosen on these.
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
FULL = dict.fromkeys(KINDS, 20) | {"both": 30}  # edits of each kind in the whole bench
# What the edits of each kind change, in turn.
CHANGED: dict[str, tuple[tuple[str, ...], ...]] = {
    "background": (("place",),),
    "pose": (("pose",),),
    "both": (("pose", "place"),),
    "size": (("size",),),
    "attribute": (("paint",),),
    "kept": (("pose",), ("paint",)),
}
JUDGED = ("animal", "pose", "place", "paint", "size")
LOOKS = ("marking", "accent")  # which no prompt names
_COLOURS = tuple(paint for paint in PAINTS if paint != "plain")


@dataclass(frozen=True, eq=False)
class BenchEdit:
    """One edit of a bench.

    `wanted`: attribute → the value that the result ought to show; of these the prompt names the `asked` ones, and
    `preserved` ones are the subject's own, which only the photo shows. An edit of photographs wants nothing that can be
    judged and has no scenes.
    """

    id: str  # safe as a file's name, the same in every run
    kind: str
    edit: Edit
    wanted: dict[str, str]
    photo: Scene | None = None
    reference: Scene | None = None
    asked: tuple[str, ...] = ()

    @property
    def preserved(self) -> tuple[str, ...]:
        """What the result has to keep of the photo without being told."""
        return tuple(name for name in self.wanted if name not in self.asked)


def toybench(count: int | Mapping[str, int] = FULL) -> list[BenchEdit]:
    """The bench's edits, each kind in turn: the first `count`, or the first so many of each kind; always the same ones.

    Every prompt names the animal, the pose and the place; the size and the paint only where they are what changes, so
    that elsewhere they have to come from the photo, as the marking and its accent always have to. The kinds:

    - background: the place of a reference, in the photo's pose;
    - pose: another pose, in a reference of the same sort of place;
    - both: another pose, in the place of a reference;
    - size: the subject scaled on the board and named in words, its feet where they were, in its own picture;
    - attribute: another paint, by words alone, in a reference of the same sort of place;
    - kept: another pose (every first) or paint (every second), in the photo's own, untouched scene.

    References show a subject of their own, another animal, which the mask leaves out. Raises `EditError` for a kind
    that there isn't, and for a count outside 1 to 10,000.
    """
    return _edits(count, BENCH_SEED, "")


def tuning_edits(count: int | Mapping[str, int] = 12) -> list[BenchEdit]:
    """Edits of the same kinds that are not in the bench, to choose dials on: 12 are two of each."""
    return _edits(count, BENCH_TUNING_SEED, "tuning-")


def pose_edits(count: int, first_seed: int = POSE_SEED) -> list[BenchEdit]:
    """`count` edits of pose and place, see `pose_and_place`, from consecutive seeds."""
    return [pose_and_place(seed) for seed in range(first_seed, first_seed + count)]


def pose_and_place(seed: int) -> BenchEdit:
    """A subject in a paint no prompt names, to be seen in another pose, in the place of a reference picture.

    The reference has a subject of its own, another animal, which its mask leaves out.
    """
    rng = np.random.default_rng([seed, 7])
    paint = str(rng.choice(_COLOURS))
    size = str(rng.choice(["medium", "big"]))
    animal, pose, place = (str(rng.choice(values)) for values in (ANIMALS, POSES, PLACES))
    photo = draw(seed, animal=animal, paint=paint, size=size, pose=pose, place=place)
    others: dict[str, Any] = {"animal": _other(rng, ANIMALS, animal), "place": _other(rng, PLACES, place)}
    reference = draw(seed + POSE_REFERENCES, **others, size="medium")
    wanted = {"animal": animal, "pose": _other(rng, POSES, pose), "place": others["place"], "paint": paint}
    asked = ("animal", "pose", "place")
    return _bench_edit(f"both-{seed}", "both", photo, wanted, asked, reference, Placement())


def _bench_edit(
    id: str,
    kind: str,
    photo: Scene,
    wanted: dict[str, str],
    asked: tuple[str, ...],
    reference: Scene | None,
    placement: Placement,
) -> BenchEdit:
    """The edit that asks in words for the `asked` attributes, in the reference's place or in the photo's own."""
    thing, where = phrase({name: wanted[name] for name in asked})
    pictures: dict[str, Any] = {"background": "keep"}
    if reference is not None:
        pictures = {"background_image": reference.image, "background_mask": reference.object_mask}
    edit = Edit(
        object_image=photo.image,
        object_mask=photo.object_mask,
        prompt=join(thing, where),
        object_prompt=thing,
        background_prompt=where,
        placement=placement,
        **pictures,
    )
    looks = {name: value for name in LOOKS if (value := photo.attributes[name]) is not None}
    return BenchEdit(id, kind, edit, wanted | looks, photo, reference, asked)


def _other(rng: np.random.Generator, values: Iterable[str], value: str) -> str:
    return str(rng.choice([v for v in values if v != value]))


def _dealt(first_seed: int, index: int, values: Iterable[str]) -> str:
    """From a pack shuffled anew when it is used up, so that a small bench has some of everything."""
    pack = list(values)
    shuffled = np.random.default_rng([first_seed, index // len(pack), len(pack)]).permutation(len(pack))
    return pack[shuffled[index % len(pack)]]


def _edits(count: int | Mapping[str, int], first_seed: int, prefix: str) -> list[BenchEdit]:
    kinds = list(KINDS)
    if not isinstance(count, int) and (unknown := sorted(count.keys() - KINDS.keys())):
        raise EditError(f"The bench has no kind {unknown[0]!r}; choose from {', '.join(KINDS)}.")
    total = count if isinstance(count, int) else sum(count.values())
    if not 1 <= total <= MOST_EDITS:
        raise EditError(f"The bench can't have {total} edits; ask for 1 to {MOST_EDITS}.")
    if isinstance(count, int):
        indices = list(range(count))
    else:
        indices = sorted(n * len(kinds) + kinds.index(kind) for kind, number in count.items() for n in range(number))
    return [_drawn(first_seed, index, prefix) for index in indices]


def _drawn(first_seed: int, index: int, prefix: str) -> BenchEdit:
    """Edit `index` of the bench that begins at `first_seed`, whatever the bench's length."""
    kind, number = list(KINDS)[index % len(KINDS)], index // len(KINDS)
    rng = np.random.default_rng([first_seed + index, 11])
    packs = {"animal": ANIMALS, "pose": POSES, "place": PLACES, "paint": _COLOURS}
    shown: dict[str, Any] = {name: _dealt(first_seed, index, pack) for name, pack in packs.items()}
    shown["size"] = str(rng.choice(list(SIZES) if kind == "size" else ["medium", "big"]))
    photo = draw(first_seed + index, **shown)
    changed = CHANGED[kind][number % len(CHANGED[kind])]
    wanted = shown | {name: _other(rng, (packs | {"size": SIZES})[name], shown[name]) for name in changed}
    asked = tuple(name for name in JUDGED if name in ("animal", "pose", "place", *changed))
    reference = None
    if kind not in ("size", "kept"):
        stranger = _other(rng, ANIMALS, shown["animal"])
        reference = draw(first_seed + REFERENCES + index, animal=stranger, place=wanted["place"], size="medium")
    placement = _resized(photo.object_mask, shown["size"], wanted["size"]) if kind == "size" else Placement()
    return _bench_edit(f"{prefix}{kind}-{number:02d}", kind, photo, wanted, asked, reference, placement)


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
