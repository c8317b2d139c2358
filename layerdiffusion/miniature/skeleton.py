"""The skeleton of a four-legged toy: its proportions, and where its joints are in each of four poses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from layerdiffusion.miniature.clay import Colour, Point

POSES = ("standing", "jumping", "lying", "sitting")
NEAR, FAR = 0.12, -0.16  # the depths of the pair of legs in front and of the one behind


@dataclass(frozen=True)
class Build:
    """The proportions of an animal, in units; the body's `length` runs from hip to shoulder."""

    natural: Colour
    length: float = 0.66
    rump: float = 0.26  # the body's radius at the hip
    chest: float = 0.26  # and at the shoulder
    leg: float = 0.34  # from the ground to the belly
    thick: float = 0.115  # a leg's radius
    foot: float = 0.125
    neck: float = 0.22  # its length
    neck_angle: float = 52
    neck_radius: float = 0.17
    head: float = 0.25
    snout: float = 0.16
    snout_radius: float = 0.125
    ears: str = "floppy"
    tail: tuple[float, float, float] = (0.34, 50, 0.085)  # length, angle above the back, radius
    extra: str = ""
    face: Colour | None = None  # of head, ears and legs, where it isn't the body's


class Leg(NamedTuple):
    """The joints of a leg from the body down, and the depth that it lies at."""

    top: Point
    knee: Point
    heel: Point
    toe: Point
    depth: float


@dataclass(frozen=True)
class Skeleton:
    """Where the joints are: points in units, angles in degrees, counterclockwise from facing right."""

    hip: Point
    shoulder: Point
    tilt: float  # of the back
    legs: tuple[Leg, ...]  # those behind first
    thighs: tuple[tuple[Point, float], ...]  # of folded hind legs: the knee and the depth
    nape: Point
    head: Point
    neck_angle: float
    head_turn: float
    tail_root: Point
    tail_angle: float


Sway = Callable[[float], float]  # a number between −a and a, which makes each figure a little different


def turned(x: float, y: float, angle: float) -> Point:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return c * x - s * y, s * x + c * y


def from_point(point: Point, length: float, angle: float) -> Point:
    dx, dy = turned(length, 0, angle)
    return point[0] + dx, point[1] + dy


def skeleton(k: Build, pose: str, sway: Sway) -> Skeleton:
    """The joints of an animal of these proportions in that pose."""
    if pose == "standing":
        tilt, hip = sway(2), (-k.length / 2, k.leg + k.rump * 0.85)
        shoulder = (k.length / 2, k.leg + k.chest * 0.85 + sway(0.02))
    elif pose == "jumping":
        tilt, hip = 22 + sway(4), (-k.length / 2, 0.8)
        shoulder = from_point(hip, k.length, tilt)
    elif pose == "lying":
        tilt, hip = sway(1.5), (-k.length / 2, k.rump * 0.9)
        shoulder = (k.length / 2, k.chest * 0.95)
    else:
        tilt, hip = 52 + sway(4), (-0.2, k.rump * 0.92)
        shoulder = from_point(hip, k.length, tilt)
    legs: list[Leg] = []
    thighs: list[tuple[Point, float]] = []
    for depth, inward in ((FAR, 0.15), (NEAR, 0.0)):  # the legs behind show further inward
        legs += LEGS[pose](k, hip, shoulder, depth, inward, sway)
        if pose == "lying":
            thighs.append(((hip[0] + 0.08 + inward, k.rump * 0.72), depth + 0.06))
        if pose == "sitting":
            thighs.append(((hip[0] + 0.12 + 0.6 * inward, hip[1] + 0.02), depth))

    lift = {"standing": 0, "jumping": -6, "lying": -4, "sitting": 12}[pose]
    neck_angle = k.neck_angle + lift + sway(4)
    nape = from_point(shoulder, k.chest * 0.35, tilt * 0.4 + 20)
    head = from_point(nape, k.neck + k.chest * 0.2, neck_angle)
    turn = (-10 if k.neck > 0.4 else -4) + sway(4) + (10 if pose == "jumping" else 0)
    _, angle, radius = k.tail
    if pose == "sitting":  # it lies on the ground behind
        tail_root, tail_angle = (hip[0] - k.rump * 0.8, radius + 0.02), 168.0 if angle > 0 else 176.0
    else:
        tail_root = from_point(hip, k.rump * 0.8, 180 + tilt - (28 if angle > 0 else 12))
        tail_angle = 180 - angle + tilt
    return Skeleton(
        hip, shoulder, tilt, tuple(legs), tuple(thighs), nape, head, neck_angle, turn, tail_root, tail_angle
    )


def _sole(k: Build) -> float:
    """The height of a foot's middle on the ground."""
    return k.foot * 0.92


def _standing(k: Build, hip: Point, shoulder: Point, depth: float, inward: float, sway: Sway) -> list[Leg]:
    legs = []
    for (joint_x, joint_y), side in ((hip, 1), (shoulder, -1)):
        x = joint_x + side * (inward - 0.02) + sway(0.02)
        legs.append(Leg((x, joint_y - 0.1), (x, k.leg * 0.55), (x, _sole(k)), (x + 0.07, _sole(k)), depth))
    return legs


def _jumping(k: Build, hip: Point, shoulder: Point, depth: float, inward: float, sway: Sway) -> list[Leg]:
    """Hind legs stretched behind, forelegs ahead."""
    legs = []
    for joint, girth, angle, bend in (
        (hip, k.rump, -146 + 130 * inward, -14),
        (shoulder, k.chest, -16 - 190 * inward, -16),
    ):
        angle += sway(5)
        knee = from_point(joint, k.leg * 0.5 + 0.1 + 0.55 * girth, angle)
        heel = from_point(knee, k.leg * 0.5, angle + bend)
        legs.append(Leg(joint, knee, heel, from_point(heel, 0.06, angle + bend), depth))
    return legs


def _lying(k: Build, hip: Point, shoulder: Point, depth: float, inward: float, sway: Sway) -> list[Leg]:
    """Forelegs on the ground ahead; of the folded hind legs, the feet."""
    y, reach = _sole(k), 0.30 + k.leg * 0.55
    x = shoulder[0] + k.chest * 0.3 + 0.5 * inward
    top = (shoulder[0], shoulder[1] - 0.3 * k.chest)
    fore = Leg(top, (x, y), (x + reach + sway(0.02), y), (x + reach + 0.06, y), depth)
    x, reach = hip[0] + 0.1 + 0.5 * inward, 0.16 + k.leg * 0.5
    return [fore, Leg((x, y), (x, y), (x + reach, y), (x + reach + 0.06, y), depth + 0.12)]


def _sitting(k: Build, hip: Point, shoulder: Point, depth: float, inward: float, sway: Sway) -> list[Leg]:
    """Forelegs upright under the shoulder; of the folded hind legs, the feet."""
    y, x = _sole(k), shoulder[0] + 0.10 + 0.8 * inward
    knee = (shoulder[0] + 0.06 + 0.4 * inward, shoulder[1] * 0.5)
    fore = Leg(shoulder, knee, (x, y), (x + 0.07, y), depth)
    x = hip[0] + 0.06 + 0.6 * inward
    return [fore, Leg((x, y), (x, y), (x + 0.26, y), (x + 0.34, y), depth + 0.12)]


LEGS = {"standing": _standing, "jumping": _jumping, "lying": _lying, "sitting": _sitting}
