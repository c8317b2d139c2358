"""The boards: a picture to click and paint on, and the subject to move about; `static/board.js` draws them."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from layerdiffusion.ui.widgets.drawing import static_text

SCRIPTS = ("board.js", "board_place.js", "board_input.js")
NO_DEFAULTS: dict[str, Any] = {"css_template": "", "apply_default_css": False, "elem_classes": ["ld-board"]}


@dataclass(frozen=True)
class MarkedBoard:
    """A board whose subject is marked, and the file inputs that its buttons open."""

    board: gr.HTML
    upload: gr.UploadButton
    mask_upload: gr.UploadButton


_LOOP = "M5 14C2 8 8 4 13 4s9 3 8 7-7 6-12 5M9 16c0 2-2 3-4 2s-1-4 1-4 3 1 3 2Zm0 0c1 2 0 4-2 5"


def icon(name: str) -> str:
    """An icon of the toolbars, drawn with the text's colour."""
    strokes = {
        "add": "M12 5v14M5 12h14",
        "subtract": "M5 12h14",
        "window": "M4 8V4h4M16 4h4v4M20 16v4h-4M8 20H4v-4M12 8v8M8 12h8",
        "brush": "M4 20c3 0 5-1 5-3.5A2.5 2.5 0 0 0 6.5 14C4.5 14 4 16 4 20ZM9 15 19 4.5l1.5 1.5L11 17",
        "erase": "m8 19-4-4a1.5 1.5 0 0 1 0-2l8-8a1.5 1.5 0 0 1 2 0l5 5a1.5 1.5 0 0 1 0 2l-7 7H8Zm0 0h12M9 8l7 7",
        "box": "M4 8V4h4M11 4h2M16 4h4v4M20 11v2M20 16v4h-4M13 20h-2M8 20H4v-4M4 13v-2",
        "lasso": f"{_LOOP}M13 8v5M10.5 10.5h5",
        "lasso-out": f"{_LOOP}M10.5 10.5h5",
        "grow": "M9 4H4v5M15 4h5v5M9 20H4v-5M15 20h5v-5M4 4l5.5 5.5M20 4l-5.5 5.5M4 20l5.5-5.5M20 20l-5.5-5.5",
        "shrink": "M4 9h5V4M20 9h-5V4M4 15h5v5M20 15h-5v5M9 9 4 4M15 9l5-5M9 15l-5 5M15 15l5 5",
        "undo": "M9 7 4 12l5 5M4 12h10a6 6 0 0 1 6 6v1",
        "redo": "m15 7 5 5-5 5M20 12H10a6 6 0 0 0-6 6v1",
        "reset": "M4 12 12 5l8 7M6 10.5V19h12v-8.5",
        "clear": "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
        "download": "M12 4v11m0 0-4-4m4 4 4-4M5 20h14",
        "upload": "M12 16V5m0 0L8 9m4-4 4 4M5 20h14",
        "photo": "M4 6h16v13H4ZM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
        "flip": "M12 4v16M9 8l-5 8h5ZM15 8l5 8h-5Z",
        "left": "M6 9H3V5M3 9a9 9 0 1 1-.5 5",
        "right": "M18 9h3V5M21 9a9 9 0 1 0 .5 5",
        "dice": "M5 5h14v14H5ZM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
    }
    return f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{strokes[name]}"/></svg>'


def _button(label: str, symbol: str, **data: str) -> str:
    attributes = "".join(f' data-{name}="{value}"' for name, value in data.items())
    pressed = ' aria-pressed="false"' if "tool" in data else ""
    return f'<button type="button" title="{label}" aria-label="{label}"{pressed}{attributes}>{icon(symbol)}</button>'


_GAP = '<span class="ld-gap"></span>'


def _clicks_template(name: str, what: str, empty: str, hint: str, words: str) -> str:
    tools = "".join(
        [
            _button("Add: click on what belongs to it (A)", "add", tool="add"),
            _button("Subtract: click on what doesn't (S, or right click)", "subtract", tool="subtract"),
            _button("Brush: paint what is missing (B)", "brush", tool="brush"),
            _button("Eraser: rub out what is too much (E)", "erase", tool="erase"),
            _button("Box: drag one about it (X)", "box", tool="box"),
            _button("Lasso: add what you draw around (L)", "lasso", tool="lasso"),
            _button("Lasso: take away what you draw around (K)", "lasso-out", tool="lasso-out"),
            _GAP,
            _button("Grow the mask a little", "grow", act="grow", needs="marked"),
            _button("Shrink the mask a little", "shrink", act="shrink", needs="marked"),
            _button("Undo (Z)", "undo", act="undo", needs="undoable"),
            _button("Redo (Shift Z)", "redo", act="redo", needs="redoable"),
            _button("Clear all marks", "clear", act="clear", needs="marked"),
        ]
    )
    find = (
        f'<input type="text" maxlength="200" placeholder="{words}" aria-label="Words that name {what}">'
        '<button type="submit" class="ld-soft">Find it</button>'
        '<label class="ld-brush" title="Brush size"><span>Size</span>'
        '<input type="range" min="1" max="15" step="0.5" value="4" aria-label="Brush size"></label>'
    )
    picks = "".join(
        f'<button type="button" data-pick="{index}" aria-pressed="false">{label}</button>'
        for index, label in enumerate(("Part", "More", "Whole"))
    )
    foot = "".join(
        [
            f'<span class="ld-picks" role="group" aria-label="How much of {what}" hidden>{picks}</span>',
            _GAP,
            _button("Window: move what the model sees; the shaded part is cut off", "window", tool="window"),
            _button("Save the mask as PNG", "download", act="download", needs="marked"),
            _button("Load a mask PNG", "upload", browse=f"{name}-mask-upload", needs="picture"),
            _button("Draw a toybox scene", "dice", act="scene"),
            _button("Choose another picture", "photo", browse=f"{name}-upload"),
        ]
    )
    return f"""
<div class="ld-tools" role="toolbar" aria-label="Marking {what}">{tools}</div>
<form class="ld-find" role="search">{find}</form>
<div class="ld-stage" tabindex="0" role="application" data-label="{hint}" aria-label="{hint}">
  <canvas></canvas>
  <div class="ld-empty">
    <span class="ld-empty-icon">{icon("photo")}</span>
    <p class="ld-empty-words">{empty}</p>
    <div>
      <button type="button" class="ld-solid" data-browse="{name}-upload">Choose a picture</button>
      <button type="button" class="ld-soft" data-act="scene">Draw a toybox scene</button>
    </div>
  </div>
</div>
<div class="ld-foot">{foot}</div>
<p class="ld-readout" aria-live="polite"></p>"""


_PLACE_TEMPLATE = f"""
<div class="ld-tools" role="toolbar" aria-label="Placing the subject">
  {_button("Larger (+)", "add", zoom="1.1", needs="placement")}
  {_button("Smaller (-)", "subtract", zoom="0.9091", needs="placement")}
  {_button("Turn left ([)", "left", turn="15", needs="placement")}
  {_button("Turn right (])", "right", turn="-15", needs="placement")}
  {_button("Mirror (F)", "flip", act="flip", needs="placement")}
  {_GAP}
  {_button("Undo (Z)", "undo", act="undo")}
  {_button("Redo (Shift Z)", "redo", act="redo")}
  {_button("Back to where it was", "reset", act="reset", needs="placement")}
</div>
<div class="ld-stage" tabindex="0" role="application"
  data-label="Drag the subject, or move it with the arrow keys" aria-label="Both layers together">
  <canvas></canvas>
  <div class="ld-empty"><p class="ld-empty-words">Mark the subject on the photo: both layers appear here.</p></div>
</div>
<div class="ld-foot"></div>
<p class="ld-readout" aria-live="polite"></p>"""


def marked_board(name: str, what: str, empty: str, hint: str, words: str) -> MarkedBoard:
    """A picture whose subject is marked with clicks, a box, words, a brush, an eraser and a lasso.

    Events, in picture pixels: `point` (x, y, label), `frame` (corners), `seek` (words), `stroke` (points, radius,
    erase), `lasso` (points, erase) and `act` (name); and `ask` (version, picture), which wants the marks again if they
    are of another version by now.
    """
    board = gr.HTML(
        value="{}",
        html_template=_clicks_template(name, what, empty, hint, words),
        js_on_load=static_text(*SCRIPTS),
        elem_id=f"{name}-board",
        picture="{}",
        **NO_DEFAULTS,
    )
    return MarkedBoard(board, _upload("picture", f"{name}-upload"), _upload("mask", f"{name}-mask-upload"))


def _upload(kind: str, elem_id: str) -> gr.UploadButton:
    return gr.UploadButton(kind, type="binary", file_types=["image"], elem_id=elem_id, visible="hidden")


def place_board() -> gr.HTML:
    """Both layers, with the subject to be moved, scaled, turned and mirrored: event `place`."""
    return gr.HTML(
        value="{}",
        html_template=_PLACE_TEMPLATE,
        js_on_load=static_text(*SCRIPTS),
        elem_id="place-board",
        picture="{}",
        **NO_DEFAULTS,
    )


def board_update(value: str, picture: str | None = None) -> dict[str, Any]:
    """What an event handler returns for a board; `picture` only when it changed."""
    return gr.update(value=value) if picture is None else gr.update(value=value, picture=picture)
