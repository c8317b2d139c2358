"""The toybox's animals: one skeleton of a four-legged toy, twelve sets of proportions, four poses made by its joints.

`figure` answers with limbs (see `clay`), facing right, standing on y = 0. Looks that no caption names (spots, a saddle,
socks, a scarf) are clay on the body, placed along the back and across it, so that they move with the pose.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

from layerdiffusion.miniature.clay import Colour, Limb, Point, ball, bounds, sculpt
from layerdiffusion.miniature.skeleton import Build, Skeleton, from_point, skeleton, turned

MARKINGS = ("none", "spots", "saddle", "socks", "scarf")
ACCENTS: dict[str, Colour] = {
    "white": (250, 250, 250),
    "dark": (52, 46, 70),
    "cyan": (40, 200, 210),
    "orange": (250, 130, 40),
}
EYE: Colour = (34, 28, 38)
WHITE: Colour = (255, 255, 255)
CLEAR = 130.0  # least distance between an accent and the paint beneath it, in sRGB


ANIMALS: dict[str, Build] = {
    "dog": Build(
        (196, 132, 78), tail=(0.36, 58, 0.085), snout=0.2, snout_radius=0.13,
    ),
    "cat": Build(
        (242, 166, 84), length=0.6, rump=0.22, chest=0.21, leg=0.32, thick=0.1, foot=0.11, head=0.27, neck=0.2,
        snout=0.05, snout_radius=0.12, ears="pointed", tail=(0.3, 62, 0.085), extra="long tail",
    ),
    "horse": Build(
        (150, 98, 66), length=0.78, leg=0.56, thick=0.11, foot=0.12, neck=0.5, neck_angle=56, neck_radius=0.17,
        head=0.2, snout=0.3, snout_radius=0.14, ears="small", tail=(0.5, -52, 0.12), extra="mane",
    ),
    "elephant": Build(
        (158, 166, 184), length=0.5, rump=0.37, chest=0.38, leg=0.36, thick=0.16, foot=0.165, neck=0.24,
        neck_angle=40, neck_radius=0.26, head=0.32, snout=0, ears="big", tail=(0.3, -50, 0.07), extra="trunk",
    ),
    "giraffe": Build(
        (242, 196, 96), length=0.56, rump=0.25, chest=0.26, leg=0.56, thick=0.105, foot=0.115, neck=0.86,
        neck_angle=70, neck_radius=0.135, head=0.19, snout=0.2, snout_radius=0.12, ears="small",
        tail=(0.3, -60, 0.065), extra="horns",
    ),
    "rabbit": Build(
        (232, 222, 212), length=0.42, rump=0.29, chest=0.22, leg=0.24, thick=0.105, foot=0.12, neck=0.2,
        neck_angle=58, head=0.26, snout=0.05, snout_radius=0.13, ears="long", tail=(0.06, 30, 0.14),
    ),
    "bear": Build(
        (142, 98, 70), length=0.56, rump=0.34, chest=0.32, leg=0.34, thick=0.15, foot=0.165, neck=0.3, neck_angle=58,
        neck_radius=0.24, head=0.31, snout=0.15, snout_radius=0.15, ears="round", tail=(0.05, 40, 0.1),
    ),
    "pig": Build(
        (248, 172, 176), length=0.74, rump=0.32, chest=0.31, leg=0.24, thick=0.115, foot=0.12, neck=0.16,
        neck_angle=14, neck_radius=0.24, head=0.26, snout=0.22, snout_radius=0.13, ears="folded",
        tail=(0.16, 40, 0.075), extra="curl",
    ),
    "camel": Build(
        (216, 176, 116), length=0.74, rump=0.26, chest=0.27, leg=0.52, thick=0.11, foot=0.125, neck=0.6,
        neck_angle=48, neck_radius=0.14, head=0.19, snout=0.22, snout_radius=0.13, ears="small",
        tail=(0.26, -58, 0.065), extra="humps",
    ),
    "sheep": Build(
        (244, 240, 230), length=0.5, rump=0.27, chest=0.27, leg=0.38, thick=0.1, foot=0.105, neck=0.26, neck_angle=44,
        neck_radius=0.15, head=0.2, snout=0.18, snout_radius=0.125, ears="droopy", tail=(0.06, 30, 0.12),
        extra="wool", face=(92, 84, 88),
    ),
    "lion": Build(
        (236, 180, 90), length=0.68, rump=0.24, chest=0.26, leg=0.34, thick=0.12, foot=0.135, neck=0.24,
        neck_angle=46, head=0.24, snout=0.13, snout_radius=0.13, ears="round", tail=(0.42, 36, 0.06), extra="lion",
    ),
    "dinosaur": Build(
        (122, 186, 104), length=0.56, rump=0.33, chest=0.27, leg=0.32, thick=0.13, foot=0.14, neck=0.46,
        neck_angle=58, neck_radius=0.16, head=0.21, snout=0.2, snout_radius=0.15, ears="none", tail=(0.78, -14, 0.21),
        extra="spikes",
    ),
}  # fmt: skip


def shaded(colour: Colour, share: float, towards: Colour = (40, 30, 40)) -> Colour:
    """The colour taken `share` of the way to another."""
    r, g, b = (c + (t - c) * share for c, t in zip(colour, towards, strict=True))
    return r, g, b


def figure(
    animal: str,
    pose: str,
    paint: Colour | None = None,
    marking: str = "none",
    looks: np.random.Generator | None = None,
    moves: np.random.Generator | None = None,
) -> list[Limb]:
    """The animal in clay, facing right, its feet on y = 0 or above it in a jump.

    `paint`: its colour instead of its natural one. `looks` decides on where the marking lies and its accent, `moves` on
    how it holds itself; without them both are as they are on average.
    """
    k = ANIMALS[animal]
    bones = skeleton(k, pose, (lambda a: float(moves.uniform(-a, a))) if moves is not None else (lambda a: 0.0))
    base = k.natural if paint is None else paint
    face = base if k.face is None else (k.face if paint is None else shaded(base, 0.6))
    dark = shaded(base, 0.55)
    accent = ACCENTS[accent_of(animal, paint, looks)]
    # From the back to the front.
    limbs = _tail(k, bones, base, dark, curled=pose == "sitting")
    limbs += _legs(k, bones, base, face, accent if marking == "socks" else None)
    limbs.append(Limb(bones.hip, k.rump, bones.shoulder, k.chest, 0.0, base))
    limbs += EXTRAS[k.extra](k, bones, base) if k.extra in EXTRAS else []
    limbs += _marks(k, bones, marking, accent, looks)
    hide = base if k.extra == "wool" else face
    limbs.append(Limb(bones.nape, k.neck_radius, bones.head, k.neck_radius * 0.95, 0.02, hide))
    if marking == "scarf":
        limbs += _scarf(k, bones, accent)
    return limbs + _head(k, bones, face, dark, base)


def _tail(k: Build, bones: Skeleton, base: Colour, dark: Colour, curled: bool) -> list[Limb]:
    length, _, radius = k.tail
    tip = from_point(bones.tail_root, length, bones.tail_angle)
    tip = (tip[0], max(tip[1], radius * 0.7))
    limbs = [Limb(bones.tail_root, radius * 1.1, tip, radius * (0.3 if k.extra == "spikes" else 0.85), -0.05, base)]
    if k.extra == "long tail":
        end = from_point(tip, length * 0.9, bones.tail_angle - (70 if curled else 38))
        limbs.append(Limb(tip, radius * 0.85, end, radius * 0.8, -0.05, base))
    if k.extra == "lion":
        limbs.append(ball(tip, 0.12, -0.02, dark))
    if k.extra == "curl":
        limbs.append(ball(from_point(tip, 0.1, bones.tail_angle - 80), radius, -0.03, base))
    return limbs


def _legs(k: Build, bones: Skeleton, base: Colour, face: Colour, sock: Colour | None) -> list[Limb]:
    limbs = []
    hoof, skin = sock or shaded(face, 0.25), shaded(face, 0.06)
    for top, knee, heel, toe, depth in bones.legs:
        limbs.append(Limb(top, k.thick * 1.2, knee, k.thick, depth, skin))
        limbs.append(Limb(knee, k.thick, heel, k.thick, depth, skin))
        if sock:
            middle = ((knee[0] + heel[0]) / 2, (knee[1] + heel[1]) / 2)
            limbs.append(Limb(middle, k.thick * 1.06, heel, k.thick * 1.06, depth, sock))
        limbs.append(Limb(heel, k.foot, toe, k.foot * 0.95, depth, hoof))
    return limbs + [ball(knee, k.rump * 0.66, depth, shaded(base, 0.06)) for knee, depth in bones.thighs]


def accent_of(animal: str, paint: Colour | None, looks: np.random.Generator | None) -> str:
    """The name of an accent that shows on the animal in this paint, the first thing that `looks` decides on."""
    base = ANIMALS[animal].natural if paint is None else paint
    clear = [name for name, colour in ACCENTS.items() if math.dist(colour, base) > CLEAR] or list(ACCENTS)
    return clear[int(looks.integers(len(clear)))] if looks is not None else clear[0]


def _on_back(bones: Skeleton, along: float, across: float) -> Point:
    """The point `along` (0 at the hip, 1 at the shoulder) the back and `across` it, towards the back's top."""
    (x0, y0), (x1, y1) = bones.hip, bones.shoulder
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    dx, dy = turned(0, across, angle)
    return x0 + along * (x1 - x0) + dx, y0 + along * (y1 - y0) + dy


def _marks(k: Build, bones: Skeleton, marking: str, accent: Colour, looks: np.random.Generator | None) -> list[Limb]:
    """Spots or a saddle on the body."""
    if marking == "saddle":
        girth = (1.3 if k.extra == "wool" else 1.06) * max(k.rump, k.chest)
        return [Limb(_on_back(bones, 0.42, 0.02), girth, _on_back(bones, 0.58, 0.02), girth, 0.0, accent)]
    if marking != "spots":
        return []
    found = []
    for i in range(5):
        along, across = (float(looks.uniform(-1, 1)) for _ in range(2)) if looks is not None else (0.0, 0.0)
        u = -0.12 + 0.31 * i + 0.08 * along
        girth = k.rump + (k.chest - k.rump) * min(max(u, 0), 1)
        v = girth * ((0.55 if i % 2 else 0.05) + 0.12 * across)
        height = math.sqrt(girth * girth - v * v)
        found.append(ball(_on_back(bones, u, v), 0.15, height - (0.04 if k.extra == "wool" else 0.11), accent))
    return found


def _scarf(k: Build, bones: Skeleton, accent: Colour) -> list[Limb]:
    """A ring around the neck, with an end that hangs down."""
    low = from_point(bones.nape, k.neck * 0.25 + k.chest * 0.1, bones.neck_angle)
    high = from_point(low, 0.09, bones.neck_angle)
    front = from_point(low, k.neck_radius * 0.75, bones.neck_angle - 90)
    return [
        Limb(low, k.neck_radius * 1.2, high, k.neck_radius * 1.15, 0.06, accent),
        Limb(front, 0.075, (front[0] + 0.02, front[1] - 0.2), 0.09, 0.2, accent),
    ]


def _wool(k: Build, bones: Skeleton, base: Colour) -> list[Limb]:
    edge = [(-0.28, 0.3), (-0.05, 0.85), (0.35, 1.0), (0.7, 0.95), (1.1, 0.7), (-0.2, -0.45), (0.3, -0.6), (0.8, -0.6)]
    return [ball(_on_back(bones, u, v * k.rump), 0.16, 0.08, base) for u, v in edge]


def _humps(k: Build, bones: Skeleton, base: Colour) -> list[Limb]:
    return [
        Limb(_on_back(bones, u, k.rump * 0.6), 0.2, _on_back(bones, u, k.rump * 0.6 + 0.24), 0.12, 0.0, base)
        for u in (0.22, 0.75)
    ]


def _along_neck(k: Build, bones: Skeleton, share: float, out: float) -> Point:
    """The point at that share of the neck's length, `out` of its middle towards its back."""
    middle = from_point(bones.nape, share * (k.neck + k.chest * 0.2), bones.neck_angle)
    return from_point(middle, out, bones.neck_angle + 90)


def _spikes(k: Build, bones: Skeleton, base: Colour) -> list[Limb]:
    back = k.chest * 0.85
    spikes = [(_on_back(bones, u, back), _on_back(bones, u - 0.05, back + 0.26)) for u in (-0.05, 0.4, 0.85)]
    for share in (0.35, 0.85):
        foot = _along_neck(k, bones, share, k.neck_radius * 0.8)
        spikes.append((foot, from_point(foot, 0.2, bones.neck_angle + 100)))
    return [Limb(foot, 0.14, tip, 0.05, -0.02, shaded(base, 0.55)) for foot, tip in spikes]


EXTRAS = {"wool": _wool, "humps": _humps, "spikes": _spikes}
MANE = (0.1, 0.4, 0.7, 1.0)  # where along the neck


# From and to, in head radii from the head's middle; radii in units; depth; how far it is shaded.
EARS: dict[str, tuple[tuple[Point, float, Point, float, float, float], ...]] = {
    "none": (),
    "floppy": (((-0.4, 0.6), 0.1, (-0.85, -0.35), 0.12, 0.26, 0.35),),
    "pointed": (((0.42, 0.75), 0.13, (0.55, 1.4), 0.055, -0.06, 0),
                ((-0.32, 0.75), 0.14, (-0.55, 1.45), 0.055, 0.1, 0.18)),
    "folded": (((0.15, 0.85), 0.11, (0.45, 1.15), 0.06, 0.02, 0), ((-0.35, 0.8), 0.12, (-0.2, 1.25), 0.06, 0.14, 0.18)),
    "round": (((0.55, 0.9), 0.125, (0.55, 0.9), 0.125, -0.06, 0.18),
              ((-0.45, 0.95), 0.14, (-0.45, 0.95), 0.14, 0.1, 0.18)),
    "small": (((-0.35, 0.8), 0.085, (-0.75, 1.35), 0.06, 0.1, 0.18),),
    "droopy": (((-0.35, 0.5), 0.09, (-1.15, 0.05), 0.1, 0.26, 0),),
    "long": (((0.15, 0.8), 0.095, (0.1, 2.2), 0.09, -0.06, 0), ((-0.3, 0.75), 0.1, (-0.7, 2.15), 0.095, 0.12, 0.18)),
    "big": (((-0.7, 0.35), 0.237, (-0.95, -0.15), 0.224, 0.24, 0.12),),
}  # fmt: skip
TRUNK = ((0.65, -0.15), 0.16), ((1.3, -0.75), 0.135), ((1.75, -1.05), 0.12), ((2.15, -0.7), 0.11)


def _head(k: Build, bones: Skeleton, face: Colour, dark: Colour, wool: Colour) -> list[Limb]:
    """Head, ears, snout, eye, and what hair there is around them."""
    r = k.head

    def at(x: float, y: float) -> Point:
        """A place in head radii, turned with the head."""
        dx, dy = turned(x * r, y * r, bones.head_turn)
        return bones.head[0] + dx, bones.head[1] + dy

    limbs: list[Limb] = []
    if k.extra == "lion":
        around = range(40, 330, 29)
        limbs += [
            ball(from_point(bones.head, r * 0.95, angle + bones.head_turn), 0.17, -0.06, dark) for angle in around
        ]
    if k.extra == "mane":
        limbs += [ball(_along_neck(k, bones, share, k.neck_radius * 0.85), 0.11, 0.0, dark) for share in MANE]
        limbs.append(Limb(at(-0.3, 0.9), 0.1, at(0.35, 0.85), 0.08, 0.12, dark))
    limbs.append(ball(bones.head, r, 0.06, face))
    limbs += [Limb(at(*a), r0, at(*b), r1, depth, shaded(face, share)) for a, r0, b, r1, depth, share in EARS[k.ears]]
    if k.extra == "horns":
        limbs.append(Limb(at(-0.1, 0.85), 0.06, at(-0.2, 1.6), 0.075, 0.06, dark))
    if k.extra == "wool":
        limbs.append(ball(at(-0.2, 0.85), 0.16, 0.16, wool))
    if k.extra == "trunk":
        limbs += [Limb(at(*a), r0, at(*b), r1, 0.1, face) for (a, r0), (b, r1) in pairwise(TRUNK)]
    else:
        reach = 0.5 + k.snout / r
        muzzle = face if k.extra in ("wool", "spikes") else shaded(face, 0.35, WHITE)
        limbs.append(Limb(at(0.45, -0.2), k.snout_radius * 1.08, at(reach, -0.3), k.snout_radius, 0.1, muzzle))
        if k.extra == "curl":
            limbs.append(ball(at(reach + 0.2, -0.3), 0.14, 0.12, shaded(face, 0.2)))
        else:
            limbs.append(ball(at(reach + k.snout_radius / r * 0.75, -0.08), 0.055, 0.14, EYE))
    limbs.append(ball(at(0.6 if k.ears == "big" else 0.38, 0.28), 0.08, 0.06 + r * 0.83, EYE))
    return limbs


def render(limbs: list[Limb], longer: float) -> np.ndarray:
    """The figure with its longer side `longer` pixels: uint8 RGBA, cut to what is visible."""
    left, bottom, right, top = bounds(limbs)
    return sculpt(limbs, longer / max(right - left, top - bottom))


@lru_cache(maxsize=64)
def silhouette(animal: str, pose: str) -> np.ndarray:
    """The outline in that pose: bool (h, w), True inside, cut to what is visible, facing right, 256 pixels long."""
    return render(figure(animal, pose), 256)[..., 3] > 127
