"""Edits on disk and inside pictures: `edit.json`, whose pictures lie beside it or inside it, and PNGs that carry one.

Version 2 of the format marks the reference's own subject in `background_mask`, as every mask marks a subject. Version 1
marked what lies off it. Version 3 has pictures of any shape, where those before had square ones alone. All are still
read as they were meant.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError, RecipeError, printable
from layerdiffusion.files import saving, write_files
from layerdiffusion.images.geometry import reduce
from layerdiffusion.images.io import open_image, png_bytes
from layerdiffusion.images.masks import open_mask, read_mask
from layerdiffusion.settings import RETIRED, Settings, known_fields, shortened

RECIPE_VERSION = 3
CARRIED = "layerdiffusion"  # the PNG text that holds a recipe


class Recipe(NamedTuple):
    """What `edit.json` holds."""

    edit: Edit
    settings: Settings
    model: str | None = None  # what they are meant for, if it is named
    detail: bool = False  # whether results are saved with the background's own pixels; see `Result.detailed`
    notes: tuple[str, ...] = ()  # a sentence on retired settings that were left out


_PICTURES = {
    "object_image": "object.png",
    "object_mask": "object_mask.png",
    "background_image": "background.png",
    "background_mask": "background_mask.png",
}
_EMBEDDED = "data:image/png;base64,"


def recipe_to_dict(
    edit: Edit,
    settings: Settings,
    model: str | None = None,
    detail: bool = False,
    files: dict[str, bytes] | None = None,
) -> dict:
    """The recipe as JSON data; pictures are put into `files` by name, as PNG, or embedded if it is None."""
    data: dict[str, Any] = {}
    for name in _names(Edit):
        value = getattr(edit, name)
        if value is None:
            continue
        if name in _PICTURES:
            soft = getattr(edit, name.replace("_mask", "_alpha")) if name.endswith("_mask") else None
            content = png_bytes(value if soft is None else Image.fromarray(soft))
            if files is None:
                value = _EMBEDDED + base64.b64encode(content).decode()
            else:
                value = _PICTURES[name]
                files[value] = content
        elif isinstance(value, Placement):
            value = {part.name: getattr(value, part.name) for part in fields(value)}
        data[name] = value
    recipe = {"layerdiffusion": RECIPE_VERSION, "edit": data, "settings": settings.to_dict()}
    return recipe | ({} if model is None else {"model": model}) | ({"detail": True} if detail else {})


def recipe_from_dict(data: Any, folder: Path | None = None, settings: type[Settings] = Settings) -> Recipe:
    """The recipe that `recipe_to_dict` wrote; files are looked up in `folder` and never outside it.

    Raises `RecipeError` for extra, missing or wrong fields, and the edit's own errors for what the fields
    say.
    """
    if not isinstance(data, Mapping) or "layerdiffusion" not in data:
        raise RecipeError('This is no recipe: it lacks the "layerdiffusion" version that every edit.json carries.')
    version = data["layerdiffusion"]
    if isinstance(version, bool) or version not in range(1, RECIPE_VERSION + 1):
        raise RecipeError(
            f"The recipe's version is {shortened(version)}, but this program reads versions 1 to {RECIPE_VERSION}; "
            "open it with the release that wrote it."
        )
    extra = sorted(set(data) - {"layerdiffusion", "edit", "settings", "model", "detail"})
    if extra:
        raise RecipeError(
            f'The recipe has an unknown field "{printable(extra[0])}"; remove it or correct its spelling.'
        )
    model = data.get("model")
    if model is not None and (not isinstance(model, str) or "\0" in model):
        raise RecipeError(f"The recipe's model is {shortened(model)}: it must be a name in quotes.")
    values: dict[str, Any] = known_fields(data.get("edit"), _names(Edit), "edit")
    for name in ("object_image", "object_mask"):
        if values.get(name) is None:
            raise RecipeError(f"The recipe's edit lacks \"{name}\"; add the picture's file name.")
    for name in _PICTURES:
        if values.get(name) is not None:
            values[name] = _picture_source(name, values[name], folder)
    if values.get("placement") is not None:
        values["placement"] = Placement(
            **cast("dict[str, Any]", known_fields(values["placement"], _names(Placement), "placement"))
        )
    values = {name: value for name, value in values.items() if value is not None}
    if version < 3:
        _as_before(values, off_subject=version == 1)
    dials, retired = without_retired(data.get("settings", {}))
    chosen = settings.from_dict(dials)
    if version < 3:
        chosen = replace(chosen, shape="square")
    detail = data.get("detail") is True or retired.pop("detail", "off") == "on"
    names = ", ".join(f"{name}={value}" for name, value in retired.items())
    note = f"The recipe sets {names}, which there is no longer: the paper's own way is taken."
    return Recipe(Edit(**values), chosen, model, detail, (note,) if names else ())


def without_retired(data: Any) -> tuple[Any, dict[str, Any]]:
    """The settings of a recipe without retired fields, and those of them that are not as in the paper."""
    if not isinstance(data, Mapping):
        return data, {}
    known = {name: value for name, value in data.items() if name not in RETIRED and name != "detail"}
    retired = {name: data[name] for name in data if name not in known and data[name] != RETIRED.get(name)}
    if known.get("layers") == "overlay":
        known["layers"], retired["layers"] = "composite", "overlay"
    return known, retired


def _as_before(values: dict[str, Any], off_subject: bool) -> None:
    """The masks as versions before 3 had them: with hard edges.

    Version 1's `background_mask` marked what lies `off_subject` of the reference; all True marked no subject.
    """
    for whose in ("object", "background"):
        picture, mask = f"{whose}_image", f"{whose}_mask"
        if picture in values and mask in values:
            values[picture] = open_image(values[picture], picture)
            values[mask] = open_mask(values[mask], values[picture].size, mask)
    if off_subject and {"background_image", "background_mask"} <= values.keys():
        values["background_mask"] = ~values["background_mask"]
        if not values["background_mask"].any():
            del values["background_mask"]


def recipe_files(edit: Edit, settings: Settings, model: str | None = None, detail: bool = False) -> dict[str, bytes]:
    """By name what a folder holds of a recipe: `edit.json` and its pictures."""
    files: dict[str, bytes] = {}
    data = recipe_to_dict(edit, settings, model, detail, files)
    return {"edit.json": (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode(), **files}


def files_to_write(
    folder: Path, files: Mapping[str, bytes | None], overwrite: bool = False, inputs: Iterable[Path] = ()
) -> dict[Path, bytes]:
    """Those of an edit's `files`, content by name, that are not in `folder` already.

    None stands for content that is not made yet, and is only checked.

    Raises a `RecipeError` for a name at which there is one of the `inputs`, or, without `overwrite`, a file that no
    earlier edit wrote.
    """
    inputs, earlier = list(inputs), _is_recipe(folder / "edit.json")
    needed = {}
    for name, content in files.items():
        path = folder / name
        if os.path.lexists(path):
            if content is not None and _holds(path, content):
                continue
            if any(path.exists() and given.exists() and path.samefile(given) for given in inputs):
                raise RecipeError(
                    f"{path} is what this edit is made of, and would be written over; choose another folder."
                )
            if not overwrite and not (earlier and (not name.startswith("seed-") or is_result(path))):
                raise RecipeError(
                    f"{path} is there already, and no earlier edit wrote it; choose another folder, or say --overwrite."
                )
        if content is not None:
            needed[path] = content
    return needed


def _holds(path: Path, content: bytes) -> bool:
    """Whether the file is that, or the same picture or mask in another form."""
    try:
        if path.read_bytes() == content:
            return True
        if path.name not in _PICTURES.values():
            return False
        there, wanted = open_image(path), open_image(content)
        if path.name not in (_PICTURES["object_mask"], _PICTURES["background_mask"]):
            return there.size == wanted.size and there.tobytes() == wanted.tobytes()
        masks = [read_mask(source, wanted.size, path.name) for source in (path, content)]
        return all(np.array_equal(*pair) for pair in zip(*((mask.mask, mask.alpha) for mask in masks), strict=True))
    except (OSError, EditError):
        return False


def _is_recipe(path: Path) -> bool:
    try:
        return "layerdiffusion" in json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def is_result(path: Path) -> bool:
    """Whether the file is a picture that carries a recipe."""
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return CARRIED in file.info
    except (OSError, ValueError, SyntaxError):
        return False


def save_recipe(
    edit: Edit,
    settings: Settings,
    folder: str | Path,
    model: str | None = None,
    detail: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write `edit.json` and its pictures to `folder`, and return the path of the former.

    Raises a `RecipeError` where that can't be, or, without `overwrite`, would replace what no earlier edit wrote.
    """
    folder = Path(folder)
    with saving("The recipe", folder, error=RecipeError):
        write_files(files_to_write(folder, recipe_files(edit, settings, model, detail), overwrite))
    return folder / "edit.json"


def load_recipe(path: str | Path) -> Recipe:
    """Read `edit.json`, or the one in the folder `path`."""
    path = Path(path)
    if path.is_dir():
        path = path / "edit.json"
    shown = printable(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
    except FileNotFoundError as error:
        raise RecipeError(f"There is no recipe at {shown}; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {shown} can't be read as text; give a saved edit's edit.json.") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise RecipeError(f"The recipe {shown} is not valid JSON{where}; save the edit again or correct it.") from error
    return recipe_from_dict(data, path.parent)


def _picture_source(name: str, value: Any, folder: Path | None) -> bytes | Path:
    if not isinstance(value, str) or not value:
        raise RecipeError(f"The recipe's {name} is {shortened(value)}: it must be a file name or an embedded PNG.")
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
    if not os.path.exists(path):  # it may be written as Windows writes it, whose absolute paths mean nothing here
        windows = PureWindowsPath(value)
        path = Path(windows.drive or folder, windows.as_posix()).resolve()
    if not path.is_relative_to(Path(folder).resolve()):
        raise RecipeError(f"The recipe's {name} lies outside the recipe's folder; put the picture beside edit.json.")
    return path


def _names(cls: type) -> tuple[str, ...]:
    """The fields of a recipe's part; what a mask's file holds already is none of them."""
    return tuple(field.name for field in fields(cls) if field.init and not field.name.endswith("_alpha"))


def carried_recipe(edit: Edit, settings: Settings, model: str | None = None, detail: bool = False) -> dict[str, Any]:
    """The recipe that a result's PNG carries: its pictures inside, no larger than the page works on them."""
    small: dict[str, Any] = {}
    for whose in ("object", "background"):
        image, mask, alpha = (getattr(edit, f"{whose}_{part}") for part in ("image", "mask", "alpha"))
        if image is not None:
            image, mask = reduce(image, mask)
            if alpha is not None and mask is not None and alpha.shape != mask.shape:
                share = np.asarray(Image.fromarray(alpha).resize(image.size, Image.Resampling.BOX))
                mask = share if (share >= 128).any() else mask
            small |= {f"{whose}_image": image, f"{whose}_mask": mask}
    return recipe_to_dict(replace(edit, **small), settings, model, detail=detail)


def result_png(image: Image.Image, seed: int, recipe: dict[str, Any]) -> bytes:
    """One result as a PNG that carries its seed and `recipe`, a `carried_recipe`, for that seed alone."""
    one = {**recipe, "settings": {**recipe["settings"], "seeds": [seed]}}
    text = PngInfo()
    text.add_itxt(CARRIED, json.dumps(one, ensure_ascii=False))
    text.add_text("seed", str(seed))
    return png_bytes(image, text)
