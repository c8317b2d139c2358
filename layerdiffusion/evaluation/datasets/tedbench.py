"""TEdBench: edits of photographs, from a folder laid out as it is.

    input_list.json     [{"img_name": "dog.jpeg", "target_text": "a jumping dog"}, …]
    originals/dog.jpeg

TEdBench has no masks. The subject is what SAM finds at the picture's centre, or at the clicks that a file of points
gives for it; the mask is saved beside the records, to be looked at, and is used again as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.files import saving, write_files
from layerdiffusion.images.io import open_image, png_bytes
from layerdiffusion.images.masks import open_mask

if TYPE_CHECKING:
    from PIL import Image

    from layerdiffusion.models.segmenter import Segmenter

CLICKS = ("points", "not_points", "box")


def tedbench(
    folder: str | Path,
    segmenter: Callable[[], Segmenter],
    masks: str | Path,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    count: int | None = None,
) -> list[BenchEdit]:
    """The edits of a folder laid out as TEdBench's, in the order of its list, each in its own scene.

    `segmenter` is asked for when the first mask is missing from the folder `masks`; `points` are clicks by a
    picture's name, as `read_points` gives them. Raises an `EditError` that names the file.
    """
    folder, masks = Path(folder), Path(masks)
    wishes = _read_list(folder / "input_list.json")
    if count is not None and not 1 <= count <= len(wishes):
        raise EditError(f"--edits is {count}: {folder} has {len(wishes)}.")
    points = points or {}
    unknown = sorted(points.keys() - {name for name, _ in wishes})
    if unknown:
        raise EditError(f"The points are for {unknown[0]} too, which {folder / 'input_list.json'} doesn't list.")
    subjects: dict[str, tuple[Image.Image, Any]] = {}
    edits = []
    for index, (name, text) in enumerate(wishes[:count]):
        try:
            if name not in subjects:
                image = open_image(folder / "originals" / name, name)
                subjects[name] = image, _mask(name, image, segmenter, masks, points.get(name, {}))
            image, mask = subjects[name]
            edit = Edit(object_image=image, object_mask=mask, prompt=text, background="keep")
        except EditError as error:
            raise EditError(f"Edit {index} of {folder} can't be made: {error}") from error
        stem = re.sub(r"[^\w-]+", "-", Path(name).stem)
        edits.append(BenchEdit(f"{index:03d}-{stem}", "kept", edit, {}))
    return edits


def read_points(path: str | Path | None) -> dict[str, dict[str, Any]]:
    """Clicks by a picture's name: "points", "not_points" and "box", as far as given. Raises an `EditError`."""
    if path is None:
        return {}
    data = read_json(Path(path))
    if not isinstance(data, dict):
        raise EditError(f'{path} holds no points: it must be an object, as in {{"dog.jpeg": [[120, 200]]}}.')
    found = {}
    for name, clicks in data.items():
        clicks = {"points": clicks} if isinstance(clicks, list) else clicks
        known = isinstance(clicks, dict) and clicks and set(clicks) <= set(CLICKS)
        if not known or not all(_fits(kind, value) for kind, value in clicks.items()):
            raise EditError(f"{path} is unclear about {name}: give [[x, y], …], or points, not_points and box.")
        found[name] = clicks
    return found


def _mask(
    name: str, image: Image.Image, segmenter: Callable[[], Segmenter], masks: Path, clicks: Mapping[str, Any]
) -> Any:
    """The subject's mask, bool (H, W): from its file, or found and written there."""
    path = masks / f"{name}.png"
    if path.exists():
        return open_mask(path, image.size, f"{name}'s mask {path}")
    on, off, box = clicks.get("points", []), clicks.get("not_points", []), clicks.get("box")
    if not (on or box):
        on = [[image.width / 2, image.height / 2]]
    mask = segmenter().mask([*on, *off], [1] * len(on) + [0] * len(off), box, image=image)
    with saving("The masks", masks):
        write_files({path: png_bytes(mask)})
    return mask


def _read_list(path: Path) -> list[tuple[str, str]]:
    """(picture, text) of each entry."""
    data = read_json(path)
    if not isinstance(data, list) or not data:
        raise EditError(f"{path} is no list of edits; give TEdBench's folder, with its input_list.json.")
    wishes = []
    for index, entry in enumerate(data):
        name, text = (entry.get(key) for key in ("img_name", "target_text")) if isinstance(entry, dict) else (0, 0)
        if not (isinstance(name, str) and isinstance(text, str)):
            raise EditError(f"Entry {index} of {path} lacks img_name or target_text; each needs both, as text.")
        if Path(name).name != name or name in ("", ".", ".."):
            raise EditError(f"Entry {index} of {path} has img_name {name!r}: it must be a file in originals/.")
        wishes.append((name, text))
    return wishes


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise EditError(f"There is no {path}; check the path.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise EditError(f"{path} can't be read as JSON; correct it or fetch it again.") from error


def _fits(kind: str, value: Any) -> bool:
    """Whether it is a box of four numbers, or a list of points of two."""

    def numbers(item: Any, count: int) -> bool:
        return (
            isinstance(item, list)
            and len(item) == count
            and all(isinstance(number, int | float) and not isinstance(number, bool) for number in item)
        )

    return numbers(value, 4) if kind == "box" else isinstance(value, list) and all(numbers(point, 2) for point in value)
