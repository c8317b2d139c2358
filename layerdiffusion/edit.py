"""What one edit is: `Edit` (pictures, masks, words, placement) and `Settings`, both checked and frozen.

Both travel as a recipe, `edit.json`, whose pictures lie beside it as PNG or inside it as base64.
"""

import base64
import binascii
import hashlib
import json
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from layerdiffusion.errors import EditError, MaskError, PromptError, RecipeError, SettingsError
from layerdiffusion.images.io import ImageSource, open_image, png_bytes
from layerdiffusion.images.masks import open_mask
from layerdiffusion.prompts import split_prompt

__all__ = [
    "BACKGROUNDS",
    "CHOICES",
    "LIMITS",
    "MAX_SEEDS",
    "PAPER",
    "Edit",
    "EditError",
    "Limit",
    "Placement",
    "Recipe",
    "Settings",
    "check_choice",
    "check_number",
    "check_prompts",
    "load_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
    "save_recipe",
]

MAX_SEEDS = 16
MAX_PROMPT_CHARACTERS = 1000
RECIPE_VERSION = 1


class Limit(NamedTuple):
    """An allowed range, ends included; `step` is a slider's, `whole` says that only integers make sense."""

    low: float
    high: float
    step: float
    whole: bool = False


LIMITS: dict[str, Limit] = {
    "alpha": Limit(0.0, 1.0, 0.05),
    "object_weight": Limit(0.0, 10.0, 0.5),
    "background_weight": Limit(0.0, 10.0, 0.5),
    "embedding_steps": Limit(0, 2000, 10, whole=True),
    "embedding_lr": Limit(0.0, 0.1, 1e-4),
    "finetune_steps": Limit(0, 2000, 10, whole=True),
    "finetune_lr": Limit(0.0, 0.1, 1e-6),
    "sampling_steps": Limit(1, 1000, 1, whole=True),
    "guidance_scale": Limit(0.0, 30.0, 0.5),
    "noise_offset": Limit(0.0, 1.0, 0.05),
    "seeds": Limit(0, 2**32 - 1, 1, whole=True),
    "training_seed": Limit(0, 2**32 - 1, 1, whole=True),
    "background_seed": Limit(0, 2**32 - 1, 1, whole=True),
    "scale": Limit(0.2, 4.0, 0.05),
    "dx": Limit(-1.0, 1.0, 0.01),
    "dy": Limit(-1.0, 1.0, 0.01),
    "rotation": Limit(-180.0, 180.0, 1.0),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": ("alternate", "object", "edit"),
    "embedding_mask": ("background", "around", "object", "everything"),
    "tune": ("full", "lora"),
    "layers": ("composite", "overlay", "separate"),
}

BACKGROUNDS = ("keep", "reference", "generate")


def _seeds(value: Any) -> tuple[int, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable | numbers.Number):
        raise SettingsError(f"seeds is {_shown(value)}: it must be a list of whole numbers.")
    values = list(value) if isinstance(value, Iterable) and getattr(value, "ndim", 1) else [value]
    if not 1 <= len(values) <= MAX_SEEDS:
        raise SettingsError(f"seeds has {len(values)} numbers: it must have 1 to {MAX_SEEDS}, one for each picture.")
    seeds = tuple(_number("seeds", seed) for seed in values)
    twice = [seed for index, seed in enumerate(seeds) if seed in seeds[:index]]
    if twice:
        raise SettingsError(f"seeds has {twice[0]} twice, which would make the same picture twice; name it once.")
    return seeds


def _number(name: str, value: Any) -> float | int:
    return check_number(name, value, LIMITS[name])


def check_number(name: str, value: Any, limit: Limit) -> float | int:
    """The value as a plain number inside the limit; raises a `SettingsError` that names it and what is allowed."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    kind = "a whole number" if limit.whole else "a number"
    allowed = f"{name} must be {kind} from {limit.low:.10g} to {limit.high:.10g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise SettingsError(f"{allowed}, not {_shown(value)}.")
    number = float(value)
    if not math.isfinite(number) or (limit.whole and number != math.floor(number)):
        raise SettingsError(f"{allowed}, not {_shown(value)}.")
    if not limit.low <= number <= limit.high:
        raise SettingsError(f"{allowed}, not {_shown(value)}.")
    return int(value) if limit.whole else number


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """The value, one of the words allowed; raises a `SettingsError` that names them."""
    if not isinstance(value, str) or value not in allowed:
        raise SettingsError(f"{name} is {_shown(value)}: it must be {', '.join(allowed[:-1])} or {allowed[-1]}.")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


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
        for name in ("scale", "dx", "dy", "rotation"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if not isinstance(self.flip, bool | np.bool_):
            raise SettingsError(f"flip is {_shown(self.flip)}: it must be true or false.")
        object.__setattr__(self, "flip", bool(self.flip))

    @property
    def is_identity(self) -> bool:
        return self == Placement()


@dataclass(frozen=True)
class Settings:
    """The dials of the method; a field left at None takes the model's own default (see `resolve`).

    Numbers outside `LIMITS` and words outside `CHOICES` are refused with a `SettingsError` that names the
    field and what is allowed. Zero steps of stage 1 or stage 2 are legal: they are Table 1's rows (g) and
    (h).
    """

    alpha: float | None = None  # Eq. 2: the share of the object embedding in the edit embedding
    object_weight: float | None = None  # λ1 of Eq. 5
    background_weight: float | None = None  # λ2 of Eq. 5
    embedding_steps: int | None = None  # stage 1
    embedding_lr: float | None = None
    finetune_steps: int | None = None  # stage 2
    finetune_lr: float | None = None
    sampling_steps: int | None = None  # stage 3
    guidance_scale: float | None = None
    schedule: str | None = None  # Eq. 7: which condition a step of stage 3 gets
    embedding_mask: str | None = None  # which part of the picture stage 1 looks at
    seeds: tuple[int, ...] | None = None  # one picture each, sampled as one batch
    training_seed: int | None = None  # the noise of stages 1 and 2
    noise_offset: float | None = None  # how far that noise is moved as a whole; the paper has none
    tune: str | None = None
    layers: str | None = None  # stage 2: one composite picture for both terms, or each its own

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name == "seeds":
                value = _seeds(value)
            elif field.name in CHOICES:
                value = check_choice(field.name, value, CHOICES[field.name])
            else:
                value = _number(field.name, value)
            object.__setattr__(self, field.name, value)

    def resolve(self, defaults: "Settings | None" = None) -> "Settings":
        """These settings, every gap filled: first from `defaults` (the model's own), then from `PAPER`."""
        filled = {}
        for field in fields(self):
            candidates = (getattr(source, field.name) for source in (self, defaults, PAPER) if source is not None)
            filled[field.name] = next(value for value in candidates if value is not None)
        return Settings(**filled)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as JSON holds them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if name == "seeds" else value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Settings":
        return cls(**_known_fields(data, cls, "settings"))


# method.md's defaults: the paper's own, SD v1.4 at 512 × 512.
PAPER = Settings(
    alpha=0.7,
    object_weight=2.0,
    background_weight=1.0,
    embedding_steps=500,
    embedding_lr=1e-3,
    finetune_steps=250,
    finetune_lr=2e-6,
    sampling_steps=50,
    guidance_scale=7.5,
    schedule="alternate",
    embedding_mask="background",
    seeds=(0, 1, 2, 3),
    training_seed=0,
    noise_offset=0.0,
    tune="full",
    layers="composite",
)


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit: whose subject, before which background, and the words for both.

    Pictures are given as PIL images, uint8 arrays (H, W, 3), bytes or paths and kept as RGB `PIL.Image`;
    masks as bool arrays, PIL images or paths, kept as read-only bool arrays (H, W) of their picture's size.

    `background` says where the background comes from: "keep" (the object image's own), "reference"
    (`background_image`, whose own subject `background_mask` leaves out) or "generate" (the untouched model
    paints it from `background_prompt` and `background_seed`). Left at None it follows from whether there is a
    `background_image`. Prompts left at None are split off `prompt`; to change `prompt` with
    `dataclasses.replace`, reset both parts.

    Raises an `EditError` subclass (`ImageError`, `MaskError`, `PromptError`, `SettingsError`) that names the
    field.
    """

    object_image: ImageSource
    object_mask: Any  # True on the subject
    background_image: ImageSource | None = None
    background_mask: Any = None  # True off the reference's own subject; None: all of it is background
    prompt: str | None = None
    object_prompt: str | None = None
    background_prompt: str | None = None
    background: str | None = None
    background_seed: int = 0
    placement: Placement = Placement()

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("background_seed", _number("background_seed", self.background_seed))
        if not isinstance(self.placement, Placement):
            raise SettingsError(f"placement is {_shown(self.placement)}: it must be a Placement.")
        for name, value in check_prompts(self.prompt, self.object_prompt, self.background_prompt).items():
            put(name, value)

        if self.object_image is None:
            raise EditError("There is no photo: object_image is missing; choose a picture first.")
        put("object_image", open_image(self.object_image, name="object_image"))
        if self.object_mask is None:
            raise MaskError("No subject is marked: object_mask is missing; click on the subject first.")
        put("object_mask", open_mask(self.object_mask, self.object_image.size, name="object_mask"))
        if not self.object_mask.any():
            raise MaskError("object_mask is empty: no pixel is marked as the subject; click on the subject first.")
        if self.object_mask.all():
            raise MaskError("object_mask covers the whole picture, which leaves no background; mark the subject alone.")
        self._check_background(put)

    def _check_background(self, put) -> None:
        mode = self.background or ("keep" if self.background_image is None else "reference")
        put("background", check_choice("background", mode, BACKGROUNDS))
        if mode != "reference":
            if self.background_image is not None or self.background_mask is not None:
                raise EditError(
                    f'background is "{mode}" but a background picture or mask is given: '
                    'leave it out, or set background to "reference".'
                )
            if mode == "generate" and not self.background_prompt:
                raise PromptError(
                    "background_prompt is empty, so there is nothing to generate a background from; describe the place."
                )
            return
        if self.background_image is None:
            raise EditError('background is "reference" but background_image is missing; choose a reference picture.')
        put("background_image", open_image(self.background_image, name="background_image"))
        size = self.background_image.size
        mask = np.ones(size[::-1], bool) if self.background_mask is None else self.background_mask
        put("background_mask", open_mask(mask, size, name="background_mask"))
        if not self.background_mask.any():
            raise MaskError(
                "background_mask is empty: no pixel of the reference is left as background; "
                "mark only the reference's own subject to leave out."
            )

    def swapped(self) -> "Edit":
        """The mirror case: the reference gives the subject and the photo the background."""
        if self.background != "reference":
            raise EditError("The roles can't be swapped without a reference picture; choose one first.")
        if self.background_mask.all():
            raise MaskError("No subject is marked on the reference, so it can't give the subject; click on it first.")
        return replace(
            self,
            object_image=self.background_image,
            object_mask=~self.background_mask,
            background_image=self.object_image,
            background_mask=~self.object_mask,
        )

    def fingerprint(self) -> str:
        """A hash of everything in the edit: equal edits have equal fingerprints, on every machine."""
        digest = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Image.Image):
                value = (value.size, hashlib.sha256(value.tobytes()).hexdigest())
            elif isinstance(value, np.ndarray):
                value = (value.shape, hashlib.sha256(np.packbits(value).tobytes()).hexdigest())
            digest.update(repr((field.name, value)).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())


class Recipe(NamedTuple):
    """What `edit.json` holds: an edit, its settings and, if it says so, the model they are meant for."""

    edit: Edit
    settings: Settings
    model: str | None = None


_PICTURES = {
    "object_image": "object.png",
    "object_mask": "object_mask.png",
    "background_image": "background.png",
    "background_mask": "background_mask.png",
}
_EMBEDDED = "data:image/png;base64,"


def recipe_to_dict(edit: Edit, settings: Settings, model: str | None = None, folder: Path | None = None) -> dict:
    """The recipe as JSON data; pictures are written to `folder` as PNG, or embedded if it is None."""
    data: dict[str, Any] = {}
    for field in fields(edit):
        value = getattr(edit, field.name)
        if value is None:
            continue
        if field.name in _PICTURES:
            content = png_bytes(value)
            if folder is None:
                value = _EMBEDDED + base64.b64encode(content).decode()
            else:
                value = _PICTURES[field.name]
                (Path(folder) / value).write_bytes(content)
        elif isinstance(value, Placement):
            value = {part.name: getattr(value, part.name) for part in fields(value)}
        data[field.name] = value
    recipe = {"layerdiffusion": RECIPE_VERSION, "edit": data, "settings": settings.to_dict()}
    return recipe if model is None else {**recipe, "model": model}


def recipe_from_dict(data: Any, folder: Path | None = None) -> Recipe:
    """The recipe that `recipe_to_dict` wrote; files are looked up in `folder` and never outside it.

    Raises `RecipeError` for extra, missing or wrong fields, and the edit's own errors for what the fields
    say.
    """
    if not isinstance(data, Mapping) or "layerdiffusion" not in data:
        raise RecipeError('This is no recipe: it lacks the "layerdiffusion" version that every edit.json carries.')
    if data["layerdiffusion"] != RECIPE_VERSION:
        raise RecipeError(
            f"The recipe's version is {_shown(data['layerdiffusion'])}, but this program reads version "
            f"{RECIPE_VERSION}; save it again with the same release."
        )
    extra = sorted(set(data) - {"layerdiffusion", "edit", "settings", "model"})
    if extra:
        raise RecipeError(f'The recipe has an unknown field "{extra[0]}"; remove it or correct its spelling.')
    model = data.get("model")
    if model is not None and not isinstance(model, str):
        raise RecipeError(f"The recipe's model is {_shown(model)}: it must be a name in quotes.")
    values = _known_fields(data.get("edit"), Edit, "edit")
    for name in ("object_image", "object_mask"):
        if values.get(name) is None:
            raise RecipeError(f"The recipe's edit lacks \"{name}\"; add the picture's file name.")
    for name in _PICTURES:
        if values.get(name) is not None:
            values[name] = _picture_source(name, values[name], folder)
    if values.get("placement") is not None:
        values["placement"] = Placement(**_known_fields(values["placement"], Placement, "placement"))
    values = {name: value for name, value in values.items() if value is not None}
    return Recipe(Edit(**values), Settings.from_dict(data.get("settings", {})), model)


def save_recipe(edit: Edit, settings: Settings, folder: str | Path, model: str | None = None) -> Path:
    """Write `edit.json` and its pictures to `folder`, and return the path of the former."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = recipe_to_dict(edit, settings, model, folder)
        path = folder / "edit.json"
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"The recipe can't be saved to {folder} ({error.strerror or error}); free some space or choose "
            "another folder."
        ) from error
    return path


def load_recipe(path: str | Path) -> Recipe:
    """Read `edit.json`, or the one in the folder `path`."""
    path = Path(path)
    if path.is_dir():
        path = path / "edit.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"There is no recipe at {path}; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} can't be read as text; give a saved edit's edit.json.") from error
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise RecipeError(f"The recipe {path} is not valid JSON{where}; save the edit again or mend it.") from error
    return recipe_from_dict(data, path.parent)


def _picture_source(name: str, value: Any, folder: Path | None) -> bytes | Path:
    if not isinstance(value, str) or not value:
        raise RecipeError(f"The recipe's {name} is {_shown(value)}: it must be a file name or an embedded PNG.")
    if value.startswith(_EMBEDDED):
        try:
            return base64.b64decode(value[len(_EMBEDDED) :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise RecipeError(f"The recipe's {name} is not valid base64; save the edit again.") from error
    if folder is None:
        raise RecipeError(
            f"The recipe's {name} is a file name, but this recipe came alone; open a result that was saved with it."
        )
    if "\0" in value:
        raise RecipeError(f"The recipe's {name} is no file name; give the name of a file beside the recipe.")
    path = (Path(folder) / value).resolve()
    if not path.is_relative_to(Path(folder).resolve()):
        raise RecipeError(f"The recipe's {name} lies outside the recipe's folder; put the picture beside edit.json.")
    return path


def _known_fields(data: Any, cls: type, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise RecipeError(f'The recipe\'s "{where}" is {_shown(data)}: it must be a JSON object.')
    extra = sorted(str(name) for name in set(data) - {field.name for field in fields(cls)})
    if extra:
        raise RecipeError(
            f'The recipe\'s {where} has an unknown field "{extra[0]}"; remove it or correct its spelling.'
        )
    return dict(data)


def check_prompts(
    prompt: str | None, object_prompt: str | None = None, background_prompt: str | None = None
) -> dict[str, str]:
    """The three prompts of an edit, missing parts split off the whole; raises `PromptError`."""
    words = {"prompt": prompt, "object_prompt": object_prompt, "background_prompt": background_prompt}
    words = {name: _prompt(name, text) for name, text in words.items()}
    if words["prompt"] is None:
        words["prompt"] = " ".join(part for part in (words["object_prompt"], words["background_prompt"]) if part)
    if not words["prompt"]:
        raise PromptError("The prompt is empty; say what the picture should show, as in “a dog jumping on the beach”.")
    object_part, background_part = split_prompt(words["prompt"])
    if words["object_prompt"] is None:
        words["object_prompt"] = object_part
    if words["background_prompt"] is None:
        # With the object's words given, what the prompt says beyond them is what the splitter calls
        # background.
        words["background_prompt"] = background_part
    if not words["object_prompt"]:
        raise PromptError(
            "object_prompt is empty: nothing says what the subject should do; name it, as in “a dog jumping”."
        )
    return words


def _prompt(name: str, text: Any) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise PromptError(f"{name} is {_shown(text)}: it must be text.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"{name} holds characters that are not text; type it again.") from error
    text = " ".join(text.replace("\0", " ").split())
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise PromptError(
            f"{name} has {len(text.split())} words and {len(text)} characters, more than the "
            f"{MAX_PROMPT_CHARACTERS} "
            "characters allowed, of which the model reads only the first few dozen words; shorten it."
        )
    return text
