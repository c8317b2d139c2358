"""What follows every change: both layers together, the photo's scene, and what Run would do."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError, PlacementError
from layerdiffusion.images.layers import Layers, background_fit, lay_out, object_fit
from layerdiffusion.prompts import subject_noun
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import QUIET, friendly, warn
from layerdiffusion.ui.marks import next_version
from layerdiffusion.ui.page import EMPTY_SCENE, Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.spaces import quota_sentence
from layerdiffusion.ui.widgets.board import board_update
from layerdiffusion.ui.widgets.dials import settings_of, shape_of
from layerdiffusion.ui.widgets.drawing import duration, escape, picture_url

if TYPE_CHECKING:
    from layerdiffusion.models.memory import Need

UNMARKED = "Mark the subject on the photo: both layers appear here."
NOT_GENERATED = "Generate backgrounds, and both layers appear here; or Run generates its own."
PLACEHOLDER = ("a subject in a place", "a subject", "in a place")  # words that the layers don't depend on
RUNNING = '<p class="ld-plan">It is running; what you change now counts for the next run.</p>'
STAGES_FOR_PEOPLE = {
    "embeddings": "stage 1",
    "finetune": "stage 2",
    "sampling": "stage 3",
    "background": "the background",
}


def refresh_event(page: Page, backend: Backend) -> dict[str, Any]:
    """What to give to an event, or its `then`, after which the layers and the plan may be others."""
    outputs = [page.place_board, page.background.scene, page.words.plan]
    return {"fn": friendly(partial(refresh, backend)), "inputs": page.inputs, "outputs": outputs, **QUIET}


def refresh(backend: Backend, session: Session, *values: Any) -> tuple[Any, Any, str]:
    words, background, swap, dials = values[:3], values[3], values[4], values[5:]
    session.nouns = {"reference" if swap and background == "reference" else "photo": subject_noun(words[1])}
    board, scene = together(session, words, background, swap, dials, backend)
    return board, scene, plan(session, words, background, swap, dials, backend)


def together(
    session: Session, words: Any, background: str, swap: bool, dials: Any, backend: Backend
) -> tuple[Any, Any]:
    """Both layers for their board, and the photo's scene without its subject."""
    version = next_version()

    windows: dict[str, Any] = {}

    def empty(note: str) -> dict[str, Any]:
        return board_update(session.place_board(version, windows=windows, empty=note))

    if not backend.ready:
        loading = "Both layers appear here as soon as the model is loaded."
        return empty(loading if backend.loading else "There is no model."), gr.skip()
    try:
        edit = session.edit(_complete(words, background), background, swap)
        size = backend.window(shape_of(dials, type(backend.defaults())), edit.object_image.size)
        windows |= windows_of(edit, size, swap)
        generated: Any = None
        if edit.background == "generate":
            by_seed: dict[int | None, Any] = dict(session.backgrounds)
            generated = by_seed.get(session.background_seed)
            if generated is None or generated.size != size:  # none yet, or one of another model's or photo's
                return empty(NOT_GENERATED), EMPTY_SCENE
        layers = lay_out(edit, size, generated)
        still = layers if edit.placement.is_identity else lay_out(replace(edit, placement=Placement()), size, generated)
        board = session.together(version, layers, still, windows)
    except EditError as error:
        if isinstance(error, PlacementError):
            warn(error)
        return empty(UNMARKED), EMPTY_SCENE
    return board_update(board), scene_html(layers) if background == "keep" else EMPTY_SCENE


def windows_of(edit: Edit, size: tuple[int, int], swap: bool) -> dict[str, tuple[int, int, int, int]]:
    """What the model sees of each board's picture: left, top, right, bottom."""
    windows = {"photo": object_fit(edit, size).box}
    if edit.background == "reference":
        windows["reference"] = background_fit(edit, size).box
        if swap:
            windows = {"photo": windows["reference"], "reference": windows["photo"]}
    return windows


def _complete(words: Any, background: str) -> tuple[str, str, str]:
    """The words, or others where some are missing, which matters to no layer."""
    if not (words[0].strip() and words[1].strip()):
        return PLACEHOLDER
    if background == "generate" and not words[2].strip():
        return words[0], words[1], PLACEHOLDER[2]
    return tuple(words)


def scene_html(layers: Layers) -> str:
    url = picture_url(layers.inpainted_background)
    return f'<div class="ld-view"><img src="{url}" alt="The photo without its subject"></div>'


def plan(session: Session, words: Any, background: str, swap: bool, dials: Any, backend: Backend) -> str:
    """The line above Run: what is missing, or which stages run and how long they take."""
    if session.running:
        return RUNNING
    silent = not any(word.strip() for word in words)
    try:
        edit = session.edit(PLACEHOLDER if silent else words, background, swap)
        settings = settings_of(dials, type(backend.defaults()))
        if silent:
            return next_html("Say what the picture should show.")
        if backend.loading:
            return next_html("The model is still loading; Run waits for it.")
        backend.check(settings)
        subject = session.subject_of(edit, settings)
        statuses = backend.editor.plan(edit, settings, subject=subject)
        seconds, need = backend.editor.estimate(edit, settings, subject=subject), backend.editor.need(settings)
        cost = quota_sentence(backend.bookings(edit, settings))
        notes = backend.editor.warnings(edit, settings)
        notes += [] if subject is None else [trained_note(subject.train_on)]
    except EditError as error:
        return next_html(str(error))
    return ready_html(statuses, seconds, len(settings.seeds), cost, need) + notes_html(notes)


def ready_html(
    statuses: dict[str, str], seconds: float | None, count: int, cost: str = "", need: "Need | None" = None
) -> str:
    """What Run would do: how many pictures, in how long and how much memory, which stages it has from before, and what
    of a quota goes.
    """
    if "run" not in statuses.values():
        return '<p class="ld-plan ld-ready"><b>Nothing to compute:</b> every stage is there from before.</p>'
    reused = [STAGES_FOR_PEOPLE[stage] for stage, status in statuses.items() if status == "reuse"]
    parts = ["1 picture" if count == 1 else f"{count} pictures"]
    if seconds is not None:
        parts.append(f"about {duration(max(1, seconds))}")
    before = f" · reuses {' and '.join(reused)}" if reused else ""
    memory = f" · {need}" if need else ""
    return f'<p class="ld-plan ld-ready"><b>Ready.</b> {", ".join(parts)}{before}{memory}.{cost and " " + cost}</p>'


def trained_note(steps: int) -> str:
    return f"The opened subject is used{f', trained on by {steps} steps' if steps else ': nothing is trained'}."


def notes_html(notes: list[str]) -> str:
    """What the model will read otherwise than it may be meant."""
    return "".join(f'<p class="ld-plan ld-note"><b>Note:</b> {escape(note)}</p>' for note in notes)


def next_html(sentence: str) -> str:
    return f'<p class="ld-plan"><b>Next:</b> {escape(sentence)}</p>'
