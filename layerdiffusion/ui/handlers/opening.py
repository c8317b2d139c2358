"""What the page shows as it opens, and what is opened on it: an example, a saved edit, an earlier edit of the tab."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError, RecipeError
from layerdiffusion.images.layers import lay_out
from layerdiffusion.result import Result
from layerdiffusion.scoring import Score, score_of
from layerdiffusion.settings import PAPER, Settings
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.bundle import Opened, open_bundle, open_folder
from layerdiffusion.ui.events import event_data, listen
from layerdiffusion.ui.examples import Example, example_named, examples
from layerdiffusion.ui.handlers.boards import board_of
from layerdiffusion.ui.handlers.jobs import gallery_of
from layerdiffusion.ui.handlers.model import own_pictures, request_inspection
from layerdiffusion.ui.handlers.plan import notes_html
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import SavedEdit, Session, forget, recall, remember, take, take_baseline, unmeasured
from layerdiffusion.ui.widgets.dials import dial_values
from layerdiffusion.ui.widgets.results import show


def connect(page: Page, backend: Backend, refresh: dict[str, Any], blocks: gr.Blocks) -> None:
    """Wire the opening of the page, of saved edits and of examples, and New edit."""
    top = page.header
    everything = [
        *(board.board for board in page.boards.values()),
        page.background.mode,
        page.background.swap,
        *page.words.texts,
        *page.dials.components,
        page.background.gallery,
        top.notice,
        page.inspection,
        *page.results.shown,
        page.words.job.line,
    ]
    state = page.state
    listen(blocks.load, partial(first, backend), [state, page.results.ids], everything, refresh, queue=False)
    listen(top.new.click, partial(start_anew, backend), state, everything, refresh)
    listen(top.restore.upload, partial(restore, backend), [state, top.restore], everything, refresh)
    for widget in (page.examples, page.slides, page.results.edits):
        listen(widget.open, partial(open_finished, backend), state, everything, refresh)


def first(backend: Backend, session: Session, ids: Any) -> Any:
    """What a page opens with, before anything is computed: the browser's last edit, or a finished example."""
    recall(session, ids)
    while session.edits:
        try:
            values = reopen(session, session.edits[-1], backend)
            session.dials_due = False
            return values
        except EditError:
            session.edits.pop()
    if backend.options.no_example or not examples():
        return gr.skip()
    _put_example(session, examples()[0], backend)
    result, session.dials_due = session.results[0], not backend.is_miniature
    # Another model's dials are its own, not the example's.
    dials = backend.opening() if session.dials_due else result.settings
    return _values(session, backend, result.edit, dials)


def start_anew(backend: Backend, session: Session) -> tuple[Any, ...]:
    _check_idle(session)
    session.empty()
    forget(session)
    return _values(session, backend, None, backend.opening())


def restore(backend: Backend, session: Session, data: bytes | None) -> tuple[Any, ...]:
    if data is None:
        raise EditError("No file arrived; choose a saved edit again.")
    opened = open_bundle(data)
    settings = _put(session, opened, backend, own=True)
    if session.results:
        remember(session, downloaded=True)
    return _inspected(session, backend, opened, settings)


def open_finished(backend: Backend, session: Session, event: gr.EventData) -> tuple[Any, ...]:
    """One of the tab's edits, or an example, by its name."""
    name = event_data(event).get("name")
    if saved := next((edit for edit in session.edits if edit.id == name), None):
        return reopen(session, saved, backend)
    opened, settings = _put_example(session, example_named(name), backend)
    return _inspected(session, backend, opened, settings)


def reopen(session: Session, saved: SavedEdit, backend: Backend) -> tuple[Any, ...]:
    """An earlier edit of the tab from its files. Raises an `EditError` where they are gone."""
    try:
        opened = open_folder(Path(saved.folder.name))
    except (OSError, RecipeError) as error:
        raise EditError("The files of that edit are gone from the temporary folder; run it again.") from error
    settings = _put(session, opened, backend, own=True, folder=saved.folder)
    return _inspected(session, backend, opened, settings)


def _put_example(session: Session, example: Example, backend: Backend) -> tuple[Opened, Settings]:
    opened = Opened(example.recipe, example.pictures, example.generated)
    # Until the rest is measured: an example's CLIP score, by the miniature's CLIP.
    clips = [example.scores.get(str(seed)) for seed in example.pictures]
    scores = [None if clip is None else score_of(clip, None, None, own_clip=True) for clip in clips]
    return opened, _put(session, opened, backend, scores)


def _check_idle(session: Session) -> None:
    if session.running:
        raise EditError("Your edit is still running; wait for it, or cancel it, before opening another.")


def _put(
    session: Session,
    opened: Opened,
    backend: Backend,
    scores: list[Score | None] | None = None,
    own: bool = False,
    folder: TemporaryDirectory | None = None,
) -> Settings:
    """The saved edit into the session, masks and finished pictures included; returns its settings, all of them set."""
    _check_idle(session)
    recipe = opened.recipe
    settings = recipe.settings.resolve(backend.defaults() if recipe.model in (None, "miniature") else PAPER)
    session.subject = opened.subject
    if opened.subject is not None:
        settings = replace(settings, tune=opened.subject.tune, finetune_steps=0)
    _put_pictures(session, opened, own)
    _put_results(session, opened, settings, scores, folder)
    return settings


def _inspected(session: Session, backend: Backend, opened: Opened, settings: Settings) -> tuple[Any, ...]:
    inspection = request_inspection(own_pictures(session, backend) or unmeasured(session))
    return _values(session, backend, opened.recipe.edit, settings, opened.recipe.notes, inspection)


def _values(
    session: Session,
    backend: Backend,
    edit: Edit | None,
    settings: Settings,
    notes: Sequence[str] = (),
    inspection: Any = None,
) -> tuple[Any, ...]:
    """A value for each of `everything`: the session, the edit's words and the dials with these settings."""
    words = ("", "", "") if edit is None else (edit.prompt, edit.object_prompt, edit.background_prompt)
    return (
        board_of(session, "photo", picture=True),
        board_of(session, "reference", picture=True),
        gr.update(value="keep" if edit is None else edit.background),
        gr.update(value=False),
        *words,
        *dial_values(settings),
        gallery_of(session),
        "",
        gr.skip() if inspection is None else inspection,
        *show(session),
        notes_html([*notes]),
    )


def _put_pictures(session: Session, opened: Opened, own: bool) -> None:
    """The pictures, masks, placement and words of the edit into the session."""
    edit = opened.recipe.edit
    session.photo.show(edit.object_image, own=own)
    session.reference.show(edit.background_image, own=own)
    for picture, whose in ((session.photo, "object"), (session.reference, "background")):
        alpha, mask, window = (getattr(edit, f"{whose}_{part}") for part in ("alpha", "mask", "window"))
        if mask is not None:
            picture.load_mask(mask if alpha is None else alpha)
        if window is not None:
            picture.move_window(*window)
        picture.history = []
    session.prompt = edit.prompt
    session.placement, session.backgrounds, session.background_seed = edit.placement, [], None
    if edit.background == "generate":
        session.background_seed = edit.background_seed
        session.backgrounds_prompt = edit.background_prompt
        session.backgrounds = [] if opened.generated is None else [(edit.background_seed, opened.generated)]


def _put_results(
    session: Session,
    opened: Opened,
    settings: Settings,
    scores: list[Score | None] | None,
    folder: TemporaryDirectory | None,
) -> None:
    """The finished pictures into the session; how well they fit is found out when the device has time."""
    forget(session)
    if not opened.pictures:
        return
    result = finished(opened, opened.pictures, settings)
    take(session, result, scores or [None] * len(opened.pictures), folder=folder)
    for name, pictures in opened.baselines.items():
        take_baseline(session, name, finished(opened, pictures, settings), [None] * len(pictures))


def finished(opened: Opened, pictures: dict[int, Image.Image], settings: Settings) -> Result:
    """The saved pictures as the result they were, less what no file holds: its timings, losses and stages."""
    recipe, images = opened.recipe, list(pictures.values())
    size = images[0].size
    generated = opened.generated or Image.new("RGB", size, "gray")
    return Result(
        images=images,
        seeds=tuple(pictures),
        timings={},
        losses={},
        edit_id="",
        stages={},
        edit=recipe.edit,
        settings=settings,
        model=recipe.model or "an unnamed model",
        layers=lay_out(recipe.edit, size, generated),
        detail=recipe.detail,
    )
