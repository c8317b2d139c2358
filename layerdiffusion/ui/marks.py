"""A picture on the page and the marks that single out its subject: clicks, a box, words, strokes, a loaded mask."""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from PIL import Image

from layerdiffusion.errors import EditError, MaskError, SegmentError
from layerdiffusion.images.geometry import reduce
from layerdiffusion.images.masks import OpenedMask, grow, read_mask
from layerdiffusion.ui.widgets.drawing import mask_url, picture_url

MAX_POINTS = 64
MAX_STROKE_POINTS = 4000
MAX_GROWTH = 64
HISTORY = 40
Look = Callable[[list, list, np.ndarray, Any], list]  # (points, labels, pixels, box) → SAM's candidates
_versions = itertools.count(time.time_ns() // 10**6)


def next_version() -> int:
    """A number above all before it, in this process and those before it: the browser can tell which value is newer."""
    return next(_versions)


@dataclass(frozen=True)
class Marks:
    """The marks on one picture; the mask is SAM's, grown, with brush and lasso having the last word."""

    points: tuple[tuple[int, int, int], ...] = ()  # (x, y, 1 on the subject or 0 off it)
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom, about the subject
    words: str = ""  # what the candidates were found by, if by words
    candidates: tuple[Any, ...] = ()  # SAM's, from a part to the whole; those found by words, the likeliest first
    pick: int | None = None
    given: OpenedMask | None = None  # a mask that was loaded instead of clicked
    brushed: np.ndarray | None = None  # int8: 1 brushed or lassoed on, -1 rubbed out
    growth: int = 0
    window: tuple[float, float] | None = None  # where what the model sees was moved to, as `Edit` has it

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """Bool (H, W), True on the subject."""
        mask = np.zeros(size[::-1], bool) if self.given is None else self.given.mask
        if self.pick is not None:
            mask = self.candidates[self.pick].mask
        if self.growth:
            mask = grow(mask, self.growth)
        if self.brushed is not None:
            mask = (mask | (self.brushed > 0)) & ~(self.brushed < 0)
        return mask

    def alpha(self) -> np.ndarray | None:
        """The soft edge, uint8 (H, W), of a mask that was loaded and not grown since; the brush's edges are hard."""
        alpha = None if self.given is None or self.growth else self.given.alpha
        if alpha is not None and self.brushed is not None:
            alpha = np.where(self.brushed > 0, 255, np.where(self.brushed < 0, 0, alpha)).astype(np.uint8)
        return alpha


@dataclass
class MarkedPicture:
    """A picture and the marks that single out its subject, with their history."""

    image: Image.Image | None = None
    name: str = ""
    own: bool = False  # brought by the user, not drawn from the toybox
    marks: Marks = Marks()
    history: list[Marks] = field(default_factory=list)
    undone: list[Marks] = field(default_factory=list)
    version: int = field(default_factory=next_version)  # of picture and marks
    picture_version: int = 0  # that with which the picture came; 0 before there was any

    def show(self, image: Image.Image | None, name: str = "", own: bool = False) -> None:
        """Take a new picture (or none), no larger than the page works on, and forget the marks of the last."""
        self.image, self.name, self.own = None if image is None else reduce(image)[0], name, own
        self.marks, self.history, self.undone = Marks(), [], []
        self.picture_version = self.renew()

    def renew(self) -> int:
        """A new version, once the rest is as it should be seen."""
        self.version = next_version()
        return self.version

    @property
    def mask(self) -> np.ndarray | None:
        """Bool (H, W), or None without a picture."""
        return None if self.image is None else self.marks.mask(self.image.size)

    @property
    def opened(self) -> OpenedMask | None:
        """The mask with its soft edge, or None without a picture."""
        return None if self.image is None else OpenedMask(self.marks.mask(self.image.size), self.marks.alpha())

    @property
    def marked(self) -> bool:
        mask = self.mask
        return mask is not None and bool(mask.any())

    def change(self, **values: Any) -> None:
        self._put(replace(self.marks, **values))

    def _put(self, marks: Marks) -> None:
        self.history, self.undone = [*self.history[1 - HISTORY :], self.marks], []
        self.marks = marks
        self.renew()

    def undo(self) -> None:
        self._step(self.history, self.undone)

    def redo(self) -> None:
        self._step(self.undone, self.history)

    def _step(self, source: list[Marks], other: list[Marks]) -> None:
        if source:
            other.append(self.marks)
            self.marks = source.pop()
            self.renew()

    def clear(self) -> None:
        self._put(Marks(window=self.marks.window))

    def point(self, x: Any, y: Any, label: Any, candidates: Look) -> None:
        """A click: SAM looks at all of them again, and at the box, as `candidates(points, labels, pixels, box)`."""
        image = self._image()
        if len(self.marks.points) >= MAX_POINTS:
            raise SegmentError(f"There are {MAX_POINTS} clicks on the picture already; undo some or clear them.")
        x, y = _pixel(x, image.width), _pixel(y, image.height)
        points = (*self.marks.points, (x, y, 1 if label in (1, True) else 0))
        if self.marks.box is None and not any(sign for _, _, sign in points):
            raise SegmentError("Click on the subject first; then clicks beside it take away what is too much.")
        self._prompt(points, self.marks.box, candidates)

    def frame(self, corners: Any, candidates: Look) -> None:
        """A box dragged about the subject, from one corner (x, y) to the other: SAM looks inside."""
        image = self._image()
        if not isinstance(corners, list) or len(corners) != 2:
            raise SegmentError("That was no box on the picture; drag one about the subject.")
        ends = self._path(corners)
        (left, right), (top, bottom) = (
            sorted(min(max(round(end[axis]), 0), length) for end in ends) for axis, length in enumerate(image.size)
        )
        if right - left < 2 or bottom - top < 2:
            raise SegmentError("The box is too small to hold anything; drag it about the whole subject.")
        self._prompt((), (left, top, right, bottom), candidates)

    def _prompt(self, points: tuple[tuple[int, int, int], ...], box: Any, candidates: Look) -> None:
        pixels = np.asarray(self._image())
        found = candidates([(x, y) for x, y, _ in points], [sign for _, _, sign in points], pixels, box)
        best = max(found, key=lambda candidate: candidate.iou)
        found = sorted(found, key=lambda candidate: int(candidate.mask.sum()))
        pick = next(index for index, candidate in enumerate(found) if candidate is best)
        self.change(points=points, box=box, words="", candidates=tuple(found), pick=pick, given=None)

    def find(self, words: Any, look: Callable[[str, np.ndarray], list]) -> None:
        """The subject by words: the likeliest of those that `look(words, pixels)` gives, which clicks go on from."""
        found = tuple(look(words if isinstance(words, str) else "", np.asarray(self._image())))
        self.change(**_clicks_of(found[0]), words=words, candidates=found, pick=0, given=None)

    def choose(self, index: Any) -> None:
        if index not in range(len(self.marks.candidates)):
            raise SegmentError("There is no such candidate; click on the subject first.")
        clicks = _clicks_of(self.marks.candidates[index]) if self.marks.words else {}
        self.change(pick=int(index), **clicks)

    def stroke(self, points: Any, radius: Any, erase: Any) -> None:
        """A stroke of the brush or the eraser, in picture pixels."""
        image = self._image()
        if not isinstance(points, list) or not 1 <= len(points) <= MAX_STROKE_POINTS:
            raise MaskError(f"A stroke must have 1 to {MAX_STROKE_POINTS} points; paint it in parts.")
        path = self._path(points)
        radius = min(max(_number(radius), 0.5), max(image.size))
        sheet = np.zeros(image.size[::-1], np.uint8)
        corners = np.rint(np.array(path) - 0.5).astype(np.int32)  # pixel centres are whole numbers to OpenCV
        cv2.polylines(sheet, [corners], False, 1, thickness=max(1, round(2 * radius)))
        for x, y in corners[[0, -1]]:
            cv2.circle(sheet, (int(x), int(y)), max(1, round(radius)), 1, cv2.FILLED)
        self._brush(sheet > 0, erase)

    def lasso(self, points: Any, erase: Any) -> None:
        """What a closed line goes around, in picture pixels, is added, or taken away."""
        image = self._image()
        if not isinstance(points, list) or not 3 <= len(points) <= MAX_STROKE_POINTS:
            raise MaskError(f"A lasso must have 3 to {MAX_STROKE_POINTS} points; draw it around what you mean.")
        path = self._path(points)
        sheet = np.zeros(image.size[::-1], np.uint8)
        corners = np.rint((np.array(path) - 0.5) * 256).astype(np.int32)  # as OpenCV takes fractions of pixels
        cv2.fillPoly(sheet, [corners], 1, shift=8)
        self._brush(sheet > 0, erase)

    def _path(self, points: list) -> list[tuple[float, float]]:
        """The points (x, y) in picture pixels; they may leave the picture by its own length."""
        width, height = self._image().size
        return [(_pixel(x, width, 1.0), _pixel(y, height, 1.0)) for x, y in map(_pair, points)]

    def _brush(self, where: np.ndarray, erase: Any) -> None:
        brushed = np.zeros(where.shape, np.int8) if self.marks.brushed is None else self.marks.brushed.copy()
        brushed[where] = -1 if erase else 1
        self.change(brushed=brushed)

    def grow(self, pixels: int) -> None:
        growth = min(max(self.marks.growth + pixels, -MAX_GROWTH), MAX_GROWTH)
        self.change(growth=growth)

    def move_window(self, x: Any, y: Any) -> None:
        """Where in the picture the window lies that the model sees, as shares of its way."""
        x, y = (min(max(_number(share), 0.0), 1.0) for share in (x, y))
        self.change(window=(x, y))

    def load_mask(self, source: bytes | np.ndarray) -> None:
        """A mask from a file, or bool (H, W), instead of clicks; of the picture's shape, at any size."""
        mask = read_mask(source, self._image().size, "The mask")
        self._put(Marks(given=mask, window=self.marks.window))

    def board(self, description: str, hint: str = "Click on the subject.") -> str:
        """The marks as the board reads them (JSON); `hint` is what to do while there are none."""
        # Before the marks: should they change meanwhile, the value is refused for the newer one that follows.
        versions = {"version": self.version, "picture_version": self.picture_version}
        if self.image is None:
            return json.dumps(versions)
        mask = self.marks.mask(self.image.size)
        share = float(mask.mean())
        notes = () if self.marks.given is None else self.marks.given.notes
        return json.dumps(
            {
                **versions,
                "picture": True,
                "width": self.image.width,
                "height": self.image.height,
                "points": self.marks.points,
                "box": self.marks.box,
                "found": self.marks.words,
                "mask": mask_url(mask) if share else None,
                "area": int(mask.sum()),
                "marked": bool(share),
                "undoable": bool(self.history),
                "redoable": bool(self.undone),
                "candidates": len(self.marks.candidates),
                "pick": self.marks.pick,
                "description": f"{description} {len(self.marks.points)} clicks, {share:.0%} of the picture marked.",
                "readout": " ".join([f"{share:.0%} of the picture marked.", *notes]) if share else hint,
            }
        )

    def picture(self) -> str:
        """The picture as the board reads it (JSON)."""
        version, image = self.picture_version, self.image
        return json.dumps({"version": version, "url": "" if image is None else picture_url(image)})

    def _image(self) -> Image.Image:
        if self.image is None:
            raise EditError("There is no picture to mark; choose one first.")
        return self.image


def _clicks_of(found: Any) -> dict[str, Any]:
    """The clicks and the box that lead SAM to a subject found by words."""
    box = None if found.box is None else tuple(round(value) for value in found.box)
    return {"points": tuple((round(x), round(y), 1) for x, y in found.points), "box": box}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**31:
        raise SegmentError("That was no place on the picture; click inside it.")
    return float(value)


def _pixel(value: Any, length: int, slack: float = 0.0) -> float | int:
    """A coordinate on the picture; a stroke may leave it by a picture's length (`slack`)."""
    number = _number(value)
    if not -slack * length <= number < length * (1 + slack):
        raise SegmentError("That was no place on the picture; click inside it.")
    return number if slack else int(number)


def _pair(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise SegmentError("That was no place on the picture; click inside it.")
    return value[0], value[1]
