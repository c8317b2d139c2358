"""The named endpoints: /segment, /split_prompt and /edit, for gradio_client, curl and MCP."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from layerdiffusion.edit import Edit, Placement, check_window
from layerdiffusion.errors import EditError, PromptError, SegmentError, SettingsError
from layerdiffusion.images.io import open_image, png_bytes, points_in_opened
from layerdiffusion.images.masks import OpenedMask, read_mask
from layerdiffusion.prompts import split_prompt as parts_of
from layerdiffusion.settings import Settings, shortened
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.bundle import save_pictures
from layerdiffusion.ui.events import BESIDE, IN_TURN, friendly
from layerdiffusion.ui.marks import MAX_POINTS

TEXT, SEED, SWITCH = ({"anyOf": [{"type": kind}, {"type": "null"}]} for kind in ("string", "integer", "boolean"))
NUMBERS = {"type": "array", "items": {"type": "number"}}
POINTS = {"type": "array", "items": NUMBERS}
LABELS = {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}
BOX = WINDOW = {"anyOf": [NUMBERS, {"type": "null"}]}
FIELDS = {"anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}]}


def _data(label: str, schema: dict[str, Any]) -> gr.JSON:
    """A `gr.JSON` that says what it takes; its own {"type": {}} is no JSON schema, and MCP refuses every call to it.

    Texts and numbers come by it too: it hands over what was sent, where Gradio's own turn 5 into "5" and 1.7 into 2.
    """
    component = gr.JSON(label=label)
    component.api_info = lambda: schema
    return component


def connect(backend: Backend) -> None:
    """Add the endpoints; their components are never drawn."""
    with gr.Column(visible=False):
        image, mask, reference, reference_mask = (
            gr.File(label=name, type="binary") for name in ("image", "mask", "reference", "reference_mask")
        )
        prompt, object_prompt, background_prompt, background = (
            _data(name, TEXT) for name in ("prompt", "object_prompt", "background_prompt", "background")
        )
        points, labels, box = _data("points", POINTS), _data("labels", LABELS), _data("box", BOX)
        settings, placement, report = _data("settings", FIELDS), _data("placement", FIELDS), gr.JSON(label="report")
        windows = [_data(name, WINDOW) for name in ("window", "reference_window")]
        words, background_seed = _data("words", TEXT), _data("background_seed", SEED)
        swap = _data("swap", SWITCH)
        object_part, background_part = gr.Textbox(label="object_prompt"), gr.Textbox(label="background_prompt")
        mask_file, pictures = gr.File(label="mask"), gr.File(label="pictures", file_count="multiple")
        button = gr.Button()
    button.click(
        friendly(segmenter(backend)),
        [image, points, labels, box, words],
        mask_file,
        api_name="segment",
        **BESIDE,
    )
    button.click(friendly(split_prompt), prompt, [object_part, background_part], api_name="split_prompt", queue=False)
    inputs = [image, mask, prompt, object_prompt, background_prompt, background, reference, reference_mask]
    inputs += [background_seed, swap, placement, settings, *windows]
    button.click(
        friendly(editing(backend)),
        inputs,
        [pictures, report],
        api_name="edit",
        **IN_TURN,
    )


def segmenter(backend: Backend):
    def segment(
        image: bytes, points: Any = None, labels: Any = None, box: Any = None, words: str | None = None
    ) -> Iterator[str]:
        """Mark a subject: a black and white PNG, white on it.

        image: the picture, upright pixels; the mask of a very large one is smaller than it. points: [[x, y], …] in
        its pixels. labels: 1 for each point on the subject, 0 for each off it; null means all are on it. box:
        [left, top, right, bottom] or null. words: what the subject is called, as in "the dog", instead of the others.
        """
        picture = _picture(image, "image")
        pixels = np.asarray(picture)
        points = [] if points is None else points
        if not isinstance(points, list) or len(points) > MAX_POINTS:
            raise SegmentError(f"points must be a list of at most {MAX_POINTS} pairs [x, y].")
        if not all(isinstance(point, list) for point in points):
            raise SegmentError("Each point must be a pair [x, y] of numbers.")
        if labels is not None and not isinstance(labels, list):
            raise SegmentError("labels must be a list with a 1 or a 0 for each point, or null.")
        if box is not None and not isinstance(box, list):
            raise SegmentError("box must be [left, top, right, bottom], or null.")
        words = _text("words", words)
        if words and (points or box):
            raise SegmentError("words and clicks contradict each other; send one or the other.")
        box = box if box is None else points_in_opened([box], picture)[0]
        if words:
            best = backend.find(pixels, words)[0]
        else:
            found = backend.candidates(pixels, points_in_opened(points, picture), labels, box)
            best = max(found, key=lambda candidate: candidate.iou)
        with tempfile.TemporaryDirectory() as folder:  # Gradio copies what is yielded before it asks again
            path = Path(folder) / "mask.png"
            path.write_bytes(png_bytes(best.mask))
            yield str(path)

    return segment


def split_prompt(prompt: str | None) -> tuple[str, str]:
    """Split a prompt into its subject and its background: "a dog jumping", "in the forest"."""
    return parts_of(_text("prompt", prompt) or "")


def editing(backend: Backend):
    def edit(
        image: bytes,
        mask: bytes,
        prompt: str,
        object_prompt: str | None = None,
        background_prompt: str | None = None,
        background: str | None = None,
        reference: bytes | None = None,
        reference_mask: bytes | None = None,
        background_seed: int | None = None,
        swap: bool | None = None,
        placement: Any = None,
        settings: Any = None,
        window: Any = None,
        reference_window: Any = None,
    ) -> Iterator[tuple[list[str] | None, dict]]:
        """Run one edit: a PNG for each seed, and its recipe with the stages' timings; until then, how far it is.

        image: the photo. mask: a PNG of its size, white on the subject. prompt: what the picture should show;
        object_prompt and background_prompt: its two parts, null to have it split. background: "keep", "reference"
        or "generate". reference: the picture whose background is wanted; reference_mask: white on its own
        subject, or null. background_seed: which background to generate. swap: subject from the reference,
        background from the photo. placement: {"scale", "dx", "dy", "rotation", "flip"} or null. settings: any
        of the fields of `Settings`, as {"seeds": [0, 1], "alpha": 0.7}, or null. window, reference_window: where the
        part of each picture lies that the model sees, as shares [x, y] from 0, left and top, to 1, or null.
        """
        photo = _picture(image, "image")
        wanted = Edit(
            object_image=photo,
            object_mask=_mask(mask, photo, "mask"),
            prompt=_text("prompt", prompt),
            object_prompt=_text("object_prompt", object_prompt),
            background_prompt=_text("background_prompt", background_prompt),
            background=_text("background", background),
            background_seed=0 if background_seed is None else background_seed,
            placement=Placement(**_object(placement, "placement", Placement)),
            object_window=check_window("window", window),
            **_reference(reference, reference_mask, reference_window),
        )
        if not isinstance(swap, bool | None):
            raise SettingsError(f"swap is {shortened(swap)}: it must be true or false.")
        wanted = wanted.swapped() if swap else wanted
        chosen = Settings.from_dict(_object(settings, "settings", Settings))
        with closing(backend.run(wanted, chosen, None)) as events:
            for kind, value in events:
                if kind == "done":
                    result = value
                else:  # Gradio ends a call whose client cancelled or is gone when it yields, and then alone
                    yield None, _progress(value[-1])
        with tempfile.TemporaryDirectory() as folder:
            yield [str(path) for path in save_pictures(result, Path(folder))], _report(result)

    return edit


def _reference(picture: bytes | None, mask: bytes | None, window: Any) -> dict[str, Any]:
    if picture is None:
        for name, value in (("reference_mask", mask), ("reference_window", window)):
            if value is not None:
                raise EditError(f"{name} needs a reference picture; send one as reference.")
        return {}
    image = _picture(picture, "reference")
    found = {"background_image": image, "background_window": check_window("reference_window", window)}
    return found if mask is None else {**found, "background_mask": _mask(mask, image, "reference_mask")}


def _progress(last: Any) -> dict[str, Any]:
    return {"stage": last.stage, "step": last.step, "steps": last.steps, "seconds_left": last.seconds_left}


def _report(result: Any) -> dict[str, Any]:
    return {
        "edit_id": result.edit_id,
        "model": result.model,
        "seeds": list(result.seeds),
        "stages": result.stages,
        "timings": result.timings,
        "prompts": {"object": result.edit.object_prompt, "background": result.edit.background_prompt},
        "settings": result.settings.to_dict(),
        "warnings": list(result.warnings),
    }


def _mask(data: bytes | None, picture: Any, name: str) -> OpenedMask:
    if not data:
        raise EditError(f"{name} is missing; send a picture file.")
    return read_mask(data, picture.size, name)


def _picture(data: Any, name: str) -> Any:
    if not data:
        raise EditError(f"{name} is missing; send a picture file.")
    return open_image(data, name)


def _text(name: str, value: Any) -> str | None:
    """What was sent as text, or None where it is empty."""
    if value is not None and not isinstance(value, str):
        raise PromptError(f"{name} is {shortened(value)}: it must be text.")
    return value or None


def _object(data: Any, name: str, cls: type) -> dict[str, Any]:
    if data is None:
        return {}
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{name} is no JSON object; send one, or null.") from error
    known = {field.name for field in fields(cls)}
    if not isinstance(data, dict) or set(data) - known:
        raise SettingsError(f"{name} must be an object with any of {', '.join(sorted(known))}.")
    return data
