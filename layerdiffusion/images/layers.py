"""The two layers of an edit at the model's size: the placed subject, the background, and one laid over the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import MaskError, PlacementError
from layerdiffusion.images.geometry import Fit, fit_window
from layerdiffusion.images.masks import OpenedMask, bounding_box, grow, lay_over

GHOST = 0.1  # of a soft mask: what has more than this of a subject in it goes with it when that is inpainted


@dataclass(frozen=True)
class Layers:
    """Pictures, all of one size, and their bool masks (H, W)."""

    object_image: Image.Image  # the subject scaled, turned and moved to where it is wanted
    object_mask: np.ndarray  # M_t: True on the placed subject
    background_image: Image.Image
    background_mask: np.ndarray  # M_r: True on the background picture's own subject
    in_place: bool = False  # the two pictures are one, and the subject is where it always was
    object_alpha: np.ndarray | None = None  # of a soft object mask, float32 (H, W), 0 to 1
    background_alpha: np.ndarray | None = None  # likewise

    @property
    def subjects(self) -> np.ndarray:
        """True on the placed subject and on the background picture's own."""
        return self.object_mask | self.background_mask

    @cached_property
    def inpainted_background(self) -> Image.Image:
        """The background with its own subject inpainted."""
        hole = self.background_mask
        if self.background_alpha is not None and not (soft := hole | (self.background_alpha > GHOST)).all():
            hole = soft
        return inpaint(self.background_image, hole)

    @cached_property
    def composite(self) -> Image.Image:
        """The placed subject over the inpainted background: what `layers="composite"` trains on."""
        if self.in_place:  # inpainting and laying over would only harm the subject's rim
            return self.object_image
        mask = self.object_mask if self.object_alpha is None else self.object_alpha
        return lay_over(self.object_image, mask, self.inpainted_background)


def lay_out(edit: Edit, size: tuple[int, int], generated: Image.Image | None = None) -> Layers:
    """The edit's layers at `size` (W, H); `generated` is the picture to use for `background="generate"`.

    Pictures are cropped to that shape, the photo's so that its subject lies inside. The placement's moves are
    shares of the window. With `background="keep"` the background is the photo itself, its subject left where
    it was.
    """
    fit = object_fit(edit, size)
    if not fit.cut(edit.object_mask).any():
        raise PlacementError("The photo's window has nothing of the subject in it; move the window back over it.")
    image, mask = fit.image(edit.object_image), fit.mask(edit.object_mask)
    alpha = None if edit.object_alpha is None else fit.soft(edit.object_alpha)
    subject = (image, mask, alpha) if edit.placement.is_identity else _placed(edit, fit)
    behind: np.ndarray | None = None
    nothing = np.zeros(size[::-1], bool)
    if edit.background == "keep":
        background, behind = (image, mask), alpha
    elif edit.background_image is not None:
        window = background_fit(edit, size)
        marked = nothing if edit.background_mask is None else window.mask(edit.background_mask, half=False)
        behind = None if edit.background_alpha is None else window.soft(edit.background_alpha)
        background = window.image(edit.background_image), marked
    elif generated is None:
        raise ValueError('background is "generate": the generated picture is missing')
    else:
        background = generated, nothing
    in_place = edit.background == "keep" and edit.placement.is_identity
    return Layers(subject[0], subject[1], *background, in_place, subject[2], behind)


def object_fit(edit: Edit, size: tuple[int, int]) -> Fit:
    """The window of the object image that is seen at `size` (W, H)."""
    return fit_window(edit.object_image.size, size, edit.object_mask, edit.object_window)


def cut_note(edit: Edit, size: tuple[int, int]) -> str | None:
    """A sentence on a subject that the window at `size` (W, H) cuts; None where the window has all of it."""
    inside = object_fit(edit, size).cut(edit.object_mask).sum() / edit.object_mask.sum()
    if inside == 1:
        return None
    share = min(max(round(100 * (1 - inside)), 1), 99)
    return f"The photo's window cuts off {share} % of the subject; move the window, or choose another shape."


def background_fit(edit: Edit, size: tuple[int, int]) -> Fit:
    """The window of the reference that is seen at `size` (W, H)."""
    assert edit.background_image is not None
    return fit_window(edit.background_image.size, size, at=edit.background_window)


def background_window(edit: Edit, size: tuple[int, int]) -> Image.Image | None:
    """What is seen at `size` (W, H) of the background picture, in its own pixels; None where it is generated."""
    if edit.background == "keep":
        return edit.object_image.crop(object_fit(edit, size).box)
    if edit.background_image is None:
        return None
    return edit.background_image.crop(background_fit(edit, size).box)


def seen(edit: Edit, size: tuple[int, int]) -> Edit:
    """The edit with no more of its pictures than their windows at `size` (W, H): the same layers come of it.

    A picture stays whole where its window can't stand for it: it has no subject in it, or nothing else.
    """
    fits = {"object": object_fit(edit, size)}
    if edit.background_image is not None:
        fits["background"] = background_fit(edit, size)
    changes: dict[str, object] = {}
    for whose, fit in fits.items():
        image, mask, alpha = (getattr(edit, f"{whose}_{part}") for part in ("image", "mask", "alpha"))
        cut = None if mask is None else fit.cut(mask).copy()
        again = fit_window((fit.width, fit.height), size)
        whole = (fit.width, fit.height) == image.size or (again.width, again.height) != (fit.width, fit.height)
        if whole or (cut is not None and (cut.all() or not cut.any())):
            continue
        opened = None if cut is None else OpenedMask(cut, None if alpha is None else fit.cut(alpha).copy())
        changes |= {f"{whose}_image": image.crop(fit.box), f"{whose}_mask": opened}
        changes |= {f"{whose}_alpha": None, f"{whose}_window": None}
    return replace(edit, **changes) if changes else edit  # type: ignore[arg-type]


def _placed(edit: Edit, fit: Fit) -> tuple[Image.Image, np.ndarray, np.ndarray | None]:
    # On the photo's own pixels, so that a subject made larger stays as sharp as the photo has it.
    measures = fit.width, fit.height
    own, whole = replace(fit, size=measures), Fit(0, 0, *measures, fit.size)
    window, mask = edit.object_image.crop(fit.box), own.mask(edit.object_mask)
    if edit.object_alpha is None:
        image, mask = place(window, mask, edit.placement)
        return whole.image(image), whole.mask(mask), None
    image, alpha = place(window, own.soft(edit.object_alpha), edit.placement)
    return whole.image(image), whole.mask(alpha >= 0.5), whole.soft(alpha)


def place(image: Image.Image, mask: np.ndarray, placement: Placement) -> tuple[Image.Image, np.ndarray]:
    """The picture and its mask with the subject scaled, turned, mirrored and moved by one affine map.

    Colours under the new mask are averaged over subject pixels alone, so that no rim of the old background
    travels along; beyond the picture's edge the edge is repeated. The mask is bool, or soft: float32 from 0 to 1; so is
    the new one. Raises `PlacementError` if nothing of the subject is left.
    """
    if placement.is_identity:
        return image, mask
    soft = mask.dtype != bool
    matrix = placement_matrix(mask >= 0.5 if soft else mask, placement)
    shrink = 1 / placement.scale
    colours: np.ndarray = np.asarray(image, np.float32)
    weight: np.ndarray = mask.astype(np.float32)
    subject: np.ndarray = colours * weight[..., None]
    if shrink > 1:  # an affine warp picks single pixels: average first what one of them will stand for
        kernel = (0, 0), 0.4 * shrink
        colours, weight = cv2.GaussianBlur(colours, *kernel), cv2.GaussianBlur(weight, *kernel)
        subject = cv2.GaussianBlur(subject, *kernel)

    def warp(array: np.ndarray, border: int) -> np.ndarray:
        return cv2.warpAffine(array, matrix[:2], image.size, flags=cv2.INTER_LINEAR, borderMode=border)

    weight = warp(weight, cv2.BORDER_CONSTANT)
    subject = warp(subject, cv2.BORDER_CONSTANT) / np.maximum(weight, 1e-6)[..., None]
    moved = weight >= 0.5
    if not moved.any():
        raise PlacementError("The subject is placed outside the picture; move it back, or make it larger.")
    seen = weight > 0 if soft else moved
    placed = np.where(seen[..., None], subject, warp(colours, cv2.BORDER_REPLICATE))
    return Image.fromarray(np.clip(np.rint(placed), 0, 255).astype(np.uint8)), weight.clip(0, 1) if soft else moved


def placement_matrix(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """The 3 × 3 matrix that takes a pixel (x, y, 1) of the picture to where the placement puts it."""
    height, width = mask.shape
    left, top, right, bottom = bounding_box(mask)
    centre_x, centre_y = (left + right - 1) / 2, (top + bottom - 1) / 2
    angle = math.radians(placement.rotation)
    cos, sin = placement.scale * math.cos(angle), placement.scale * math.sin(angle)
    mirror = -1 if placement.flip else 1
    # Counter-clockwise to the eye, with y pointing down.
    turn = np.array([[cos * mirror, sin, 0], [-sin * mirror, cos, 0], [0, 0, 1]])
    there = np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1]])
    back = np.array([[1, 0, centre_x + placement.dx * width], [0, 1, centre_y + placement.dy * height], [0, 0, 1]])
    return back @ turn @ there


def inpaint(image: Image.Image, mask: np.ndarray, halo: int | None = None) -> Image.Image:
    """The picture with what is True in `mask` filled from its surroundings.

    What lies beside the hole at the same height is copied in where it continues the hole's rim: inpainting alone
    smears the rim inwards and leaves a ghost in the subject's outline. OpenCV's inpainting (Telea) does the rest. The
    mask is first grown by `halo` pixels (None: a hundredth of the shorter side), because a subject's soft rim lies
    just outside its mask and would be spread over the hole.
    """
    if not mask.any():
        return image
    halo = max(1, round(min(image.size) / 100)) if halo is None else halo
    hole = grow(mask, halo)
    if hole.all():
        hole = mask
    if hole.all():
        raise MaskError("The mask covers the whole picture, so there is nothing left to fill it from; mark less.")
    filled = np.asarray(image).copy()
    known = ~hole
    rest = hole.copy()
    for offset in _sideways_offsets(filled, hole):
        patch = rest & _sideways(known, offset)
        filled[patch] = _sideways(np.asarray(image), offset)[patch]
        rest &= ~patch
    return Image.fromarray(cv2.inpaint(filled, rest.astype(np.uint8), 3, cv2.INPAINT_TELEA))


def _sideways_offsets(pixels: np.ndarray, hole: np.ndarray, most: int = 4) -> list[int]:
    """How far to the right to shift the picture so that it fills the hole: the best offset first, then what fills up.

    An offset is good if the shifted picture agrees with the hole's rim and covers much of the hole; none is used whose
    rim is off by more than 16 of 255 levels. The search is done on a picture of at most 128 pixels a side.
    """
    ratio = max(1.0, max(hole.shape) / 128)
    size = round(hole.shape[1] / ratio), round(hole.shape[0] / ratio)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    rest = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    whole, known = rest.sum(), ~rest
    rim = grow(rest, max(2, round(max(size) / 20))) & known
    found = []
    for offset in range(1 - size[0], size[0]):
        covered = _sideways(known, offset)
        seen = rim & covered
        if (rest & covered).sum() >= 0.05 * whole and seen.sum() >= 0.25 * rim.sum():
            found.append((np.abs(small - _sideways(small, offset))[seen].mean(), offset, covered))
    offsets: list[int] = []
    while rest.any() and len(offsets) < most:
        usable = [
            (cost, offset, covered, (rest & covered).sum() / whole) for cost, offset, covered in found if cost <= 16
        ]
        usable = [choice for choice in usable if choice[3] >= 0.03]
        if not usable:
            break
        # The 4 keeps a perfect but tiny match from winning over a good one that fills the hole.
        _, offset, covered, _ = min(usable, key=lambda choice: (choice[0] + 4) / choice[3] ** 0.7)
        offsets.append(round(offset * ratio))
        rest &= ~covered
    return offsets


def _sideways(array: np.ndarray, offset: int) -> np.ndarray:
    """The array (H, W, …) shifted to the right by `offset` columns; zeros or False move in."""
    shifted = np.zeros_like(array)
    width = array.shape[1]
    shifted[:, max(offset, 0) : width + min(offset, 0)] = array[:, max(-offset, 0) : width - max(offset, 0)]
    return shifted
