"""What one edit is: `Edit`, its pictures, masks, words and placement, checked and frozen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
from PIL import Image

from layerdiffusion.errors import EditError, MaskError, PromptError, SettingsError
from layerdiffusion.images.io import open_image
from layerdiffusion.images.masks import OpenedMask, read_mask
from layerdiffusion.prompts import split_prompt
from layerdiffusion.settings import SEED, Limit, check_choice, check_number, shortened

MAX_PROMPT_CHARACTERS = 1000
BACKGROUNDS = ("keep", "reference", "generate")
SHARE = Limit(0.0, 1.0, 0.01)
PLACEMENT = {
    "scale": Limit(0.2, 4.0, 0.05),
    "dx": Limit(-1.0, 1.0, 0.01),
    "dy": Limit(-1.0, 1.0, 0.01),
    "rotation": Limit(-180.0, 180.0, 1.0),
}


LEFT_OUT = cast(str, None)  # a field that follows from the others, as `Edit` describes; no finished `Edit` has it
ADDED = ("object_alpha", "background_alpha", "object_window", "background_window")  # since version 2 of recipes


@dataclass(frozen=True)
class Placement:
    """Where the subject is laid down: one affine map for `object_image` and `object_mask` alike (Fig. 3).

    `scale`, `rotation` (degrees, counter-clockwise) and `flip` (left for right) turn about the centre of the
    subject's bounding box; `dx` and `dy` then move it right and down by that share of the picture's width and
    height, so that a placement means the same at every size.
    """

    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    rotation: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        for name in PLACEMENT:
            object.__setattr__(self, name, check_number(name, getattr(self, name), PLACEMENT[name]))
        if not isinstance(self.flip, bool | np.bool_):
            raise SettingsError(f"flip is {shortened(self.flip)}: it must be true or false.")
        object.__setattr__(self, "flip", bool(self.flip))

    @property
    def is_identity(self) -> bool:
        return self == Placement()


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit: whose subject, before which background, and the words for both.

    Pictures are given as PIL images, uint8 arrays (H, W, 3), bytes or paths and kept as RGB `PIL.Image`; masks as
    bool arrays, PIL images, bytes or paths, kept as read-only bool arrays (H, W) of their picture's size. Every mask
    is True on the subject of its picture. Of a soft mask, `object_alpha` or `background_alpha` keeps the values in
    between for where layers are laid over each other; `notes` says so, and where a mask was scaled to its picture.

    `background` says where the background comes from: "keep" (the object image's own), "reference"
    (`background_image`, without its own subject, which `background_mask` marks) or "generate" (the untouched model
    makes it from `background_prompt` and `background_seed`). Left at None it follows from whether there is a
    `background_image`. Prompts left at None are split off `prompt`; to change `prompt` with
    `dataclasses.replace`, reset both parts.

    A picture of another shape than the result's is cut to a window. `object_window` and `background_window` say where
    it lies: shares (x, y) of the way from the left and the top, 0, to the right and the bottom, 1.

    Raises an `EditError` subclass (`ImageError`, `MaskError`, `PromptError`, `SettingsError`) that names the
    field.
    """

    object_image: Image.Image
    object_mask: np.ndarray  # True on the subject that is kept
    background_image: Image.Image | None = None
    background_mask: np.ndarray | None = None  # True on the reference's own subject; None: all of it is background
    prompt: str = LEFT_OUT
    object_prompt: str = LEFT_OUT
    background_prompt: str = LEFT_OUT
    background: str = LEFT_OUT  # one of BACKGROUNDS
    background_seed: int = 0
    placement: Placement = Placement()
    object_alpha: np.ndarray | None = None  # uint8 (H, W), of a soft object_mask, which is True from 128 on
    background_alpha: np.ndarray | None = None  # likewise
    object_window: tuple[float, float] | None = None  # see `Edit`; None: where the subject needs it
    background_window: tuple[float, float] | None = None  # likewise; None: the middle
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._put(background_seed=check_number("background_seed", self.background_seed, SEED))
        if not isinstance(self.placement, Placement):
            raise SettingsError(f"placement is {shortened(self.placement)}: it must be a Placement.")
        for name in ("object_window", "background_window"):
            self._put(**{name: check_window(name, getattr(self, name))})
        self._put(**check_prompts(self.prompt, self.object_prompt, self.background_prompt))

        if self.object_image is None:
            raise EditError("There is no photo: object_image is missing; choose a picture first.")
        self._put(object_image=open_image(self.object_image, name="object_image"))
        if self.object_mask is None:
            raise MaskError("No subject is marked: object_mask is missing; click on the subject first.")
        self._read_mask("object")
        if not self.object_mask.any():
            raise MaskError("object_mask is empty: no pixel is marked as the subject; click on the subject first.")
        if self.object_mask.all():
            raise MaskError("object_mask covers the whole picture, which leaves no background; mark the subject alone.")
        mode = self.background or ("keep" if self.background_image is None else "reference")
        self._put(background=check_choice("background", mode, BACKGROUNDS))
        if mode == "reference":
            self._check_reference()
        else:
            self._check_no_reference()

    def _check_no_reference(self) -> None:
        self._put(background_alpha=None, background_window=None)
        if self.background_image is not None or self.background_mask is not None:
            raise EditError(
                f'background is "{self.background}" but a background picture or mask is given: '
                'leave it out, or set background to "reference".'
            )
        if self.background == "generate" and not self.background_prompt:
            raise PromptError(
                "background_prompt is empty, so there is nothing to generate a background from; describe the place."
            )

    def _check_reference(self) -> None:
        if self.background_image is None:
            raise EditError('background is "reference" but background_image is missing; choose a reference picture.')
        self._put(background_image=open_image(self.background_image, name="background_image"))
        if self.background_mask is None:
            return
        self._read_mask("background")
        if not self.background_mask.any():
            raise MaskError(
                "background_mask is empty: no pixel is marked as the reference's own subject; mark it, or leave the "
                "mask out to take all of the reference."
            )
        if self.background_mask.all():
            raise MaskError(
                "background_mask covers the whole reference, which leaves no background; "
                "mark only the reference's own subject."
            )

    def _read_mask(self, whose: str) -> None:
        source, image = getattr(self, f"{whose}_mask"), getattr(self, f"{whose}_image")
        opened = source if isinstance(source, OpenedMask) else read_mask(source, image.size, f"{whose}_mask")
        alpha = getattr(self, f"{whose}_alpha") if opened.alpha is None else opened.alpha
        # Of a mask that was replaced by another since, the soft edge means nothing.
        fits = isinstance(alpha, np.ndarray) and np.array_equal(alpha >= 128, opened.mask)
        self._put(**{f"{whose}_mask": opened.mask, f"{whose}_alpha": alpha if fits else None})
        self._put(notes=(*self.notes, *opened.notes))

    def _put(self, **values: object) -> None:
        """Set fields while the edit is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def swapped(self) -> Edit:
        """The mirror case: the reference gives the subject and the photo the background."""
        if self.background_image is None:
            raise EditError("The roles can't be swapped without a reference picture; choose one first.")
        if self.background_mask is None:
            raise MaskError("No subject is marked on the reference, so it can't give the subject; click on it first.")
        return replace(
            self,
            object_image=self.background_image,
            object_mask=OpenedMask(self.background_mask, self.background_alpha, self.notes),  # type: ignore[arg-type]
            background_image=self.object_image,
            background_mask=OpenedMask(self.object_mask, self.object_alpha),  # type: ignore[arg-type]
            object_alpha=None,
            background_alpha=None,
            object_window=self.background_window,
            background_window=self.object_window,
        )

    def fingerprint(self) -> str:
        """A hash of everything in the edit: equal edits have equal fingerprints, on every machine."""
        digest = hashlib.sha256()
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "notes" or (value is None and one.name in ADDED):
                continue  # of how it was read; and what edits didn't have before, so that theirs stay the same
            if isinstance(value, Image.Image):
                value = (value.size, hashlib.sha256(value.tobytes()).hexdigest())
            elif isinstance(value, np.ndarray):
                bits = np.packbits(value) if value.dtype == bool else np.ascontiguousarray(value)
                value = (value.shape, hashlib.sha256(bits.tobytes()).hexdigest())
            digest.update(repr((one.name, value)).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())


def check_prompts(
    prompt: str | None, object_prompt: str | None = None, background_prompt: str | None = None
) -> dict[str, str]:
    """The three prompts of an edit, missing parts split off the whole; raises `PromptError`."""
    whole = _prompt("prompt", prompt)
    subject, place = _prompt("object_prompt", object_prompt), _prompt("background_prompt", background_prompt)
    if whole is None:
        whole = " ".join(part for part in (subject, place) if part)
    if not whole:
        raise PromptError("The prompt is empty; say what the picture should show, as in “a dog jumping on the beach”.")
    # With the subject's words given, what the prompt says beyond them is what the splitter calls background.
    parts = split_prompt(whole)
    subject, place = (part if own is None else own for own, part in zip((subject, place), parts, strict=True))
    if not subject:
        raise PromptError(
            "object_prompt is empty: nothing says what the subject should do; name it, as in “a dog jumping”."
        )
    return {"prompt": whole, "object_prompt": subject, "background_prompt": place}


def check_window(name: str, value: Any) -> tuple[float, float] | None:
    """A window's place, two shares from 0 to 1, or None; raises `SettingsError`."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise SettingsError(f"{name} is {shortened(value)}: it must be two shares from 0 to 1, (x, y).")
    x, y = (float(check_number(name, part, SHARE)) for part in value)
    return x, y


def _prompt(name: str, text: Any) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise PromptError(f"{name} is {shortened(text)}: it must be text.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"{name} holds characters that are not text; type it again.") from error
    text = " ".join(text.replace("\0", " ").split())
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise PromptError(
            f"{name} has {len(text.split())} words and {len(text)} characters, more than the {MAX_PROMPT_CHARACTERS} "
            "characters allowed, of which the model reads only the first few dozen words; shorten it."
        )
    return text
