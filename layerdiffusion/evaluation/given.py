"""Results that somebody else made, as a variant of a bench: pictures in a folder, found by their names."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.evaluation.variants import METHOD_VARIANTS, ROWS, Variant
from layerdiffusion.images.io import open_image

GIVEN = "given"  # the method of such a variant


def given_variant(text: str) -> Variant:
    """The variant that `--results NAME=DIR` asks for. Raises `EditError`."""
    name, _, folder = text.partition("=")
    if not re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)*", name) or name in METHOD_VARIANTS | ROWS:
        raise EditError(f"--results {text} needs a new name of small letters, as in forgedit=DIR.")
    path = Path(folder).resolve()
    if not folder or not path.is_dir():
        raise EditError(f"--results {text}: there is no folder {folder}; check the path.")
    return Variant(name, GIVEN, options={"folder": str(path)}, description=f"pictures made elsewhere, in {path.name}")


def given_picture(folder: str | Path, edit: BenchEdit) -> Image.Image:
    """The edit's picture in `folder`, whatever folders it lies in there, of the photo's shape or square.

    It is named as the bench's own picture (PIE-Bench), or by the edit's id, its number, its prompt, or picture and
    prompt, spaces and punctuation aside. Of a strip of squares, as some publish them, it is the last one. Raises an
    `EditError` where there is none.
    """
    folder, (number, _, stem) = Path(folder), edit.id.partition("-")
    names = {_slug(name) for name in (edit.id, number, edit.edit.prompt, f"{stem}-{edit.edit.prompt}")}
    paths = [folder / edit.picture] if edit.picture and (folder / edit.picture).is_file() else []
    paths += [path for path in sorted(folder.rglob("*.*")) if _slug(path.stem) in names]
    if not paths:
        raise EditError(f"{folder} has no picture of {edit.id}; name it “{edit.id}.png”.")
    image = open_image(paths[0], paths[0].name)
    width, height = image.size
    if width > height and width % height == 0:
        image = image.crop((width - height, 0, width, height))
    return image


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
