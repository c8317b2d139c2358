"""What can be done with results: order, compare, go on with one, take them home, and open them again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError
from layerdiffusion.images.layers import lay_out
from layerdiffusion.result import Result
from layerdiffusion.scoring import Score, score_of
from layerdiffusion.settings import PAPER, Settings
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.bundle import Opened, open_bundle, save_subject, save_zip
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.examples import example_named
from layerdiffusion.ui.handlers.backgrounds import gallery_of
from layerdiffusion.ui.handlers.boards import board_of
from layerdiffusion.ui.handlers.events import QUIET, event_data
from layerdiffusion.ui.handlers.inspection import own_pictures, request_inspection
from layerdiffusion.ui.handlers.plan import notes_html
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import dial_values
from layerdiffusion.ui.widgets.results import (
    DETAIL,
    LAYERS,
    RECIPE,
    comparison,
    contents_hint,
    file_of,
    files_folder,
    forget,
    order,
    report,
    show,
    take,
    take_baseline,
    unmeasured,
)

# A download button only hands over what it already has: the file is packed first, then its link is followed.
FETCH = "() => { setTimeout(() => document.querySelector('#zip-file').click(), 100); }"


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the gallery's buttons, the opening of saved edits, and the examples."""
    card = page.results
    card.gallery.select(friendly(chosen), page.state, [card.slider, card.report], **QUIET)
    card.best.input(friendly(sort), [page.state, card.best], card.shown, **QUIET)
    packing = card.zip.click(friendly(packed(backend)), [page.state, card.contents], card.zip_file, **QUIET)
    packing.success(None, js=FETCH, **QUIET)
    keeping = card.keep.click(friendly(keeper(backend)), page.state, card.zip_file, **QUIET)
    keeping.success(None, js=FETCH, **QUIET)
    card.contents.input(friendly(contents_hint), card.contents, card.contents_hint, queue=False, **QUIET)
    for button, name in ((card.as_photo, "photo"), (card.as_reference, "reference")):
        outputs = [page.boards[name].board, page.background.mode]
        button.click(friendly(reuse(name)), page.state, outputs, **QUIET).then(**refresh)
    everything = [
        page.photo.board,
        page.background.reference.board,
        page.background.mode,
        page.background.swap,
        *page.words.texts,
        *page.dials.components,
        page.background.gallery,
        page.header.notice,
        page.inspection,
        *card.shown,
        page.words.job.line,
    ]
    restore = page.header.restore
    restore.upload(friendly(restorer(backend)), [page.state, restore], everything, **QUIET).then(**refresh)
    for widget in (page.examples, page.slides):
        widget.open(friendly(opener(backend)), page.state, everything, **QUIET).then(**refresh)


def chosen(session: Session, event: gr.SelectData) -> tuple[Any, str]:
    places = order(session)
    if not isinstance(event.index, int) or event.index not in range(len(places)):
        raise EditError("There is no such picture; choose one of those shown.")
    session.chosen = places[event.index]
    return comparison(session), report(session)


def sort(session: Session, best_first: bool) -> tuple[Any, ...]:
    session.best_first = bool(best_first)
    return show(session)


def packed(backend: Backend) -> Callable[..., str]:
    def pack(session: Session, contents: list[str]) -> str:
        if not session.shown:
            raise EditError("There is nothing to download yet; run an edit first.")
        path = files_folder(session) / f"layerdiffusion-{session.results[0].edit.fingerprint()[:8]}.zip"
        pictures: dict[int, Path] = {item.seed: file_of(item) for item in session.shown}
        baselines = [file_of(item) for row in session.baselines.values() for item in row]
        cut_outs = (
            [cut for result in session.results for cut in backend.cut_outs(result)] if LAYERS in contents else None
        )
        recipe, detail = RECIPE in contents, DETAIL in contents
        return str(save_zip(session.results, pictures, path, baselines, cut_outs, recipe, detail))

    return pack


def keeper(backend: Backend) -> Callable[..., str]:
    def keep(session: Session) -> str:
        if not session.shown:
            raise EditError("There is no trained subject yet; run an edit first.")
        result, editor = session.results[0], backend.editor
        subject = session.subject_of(result.edit, result.settings)
        stages = editor.plan(result.edit, result.settings, subject=subject)
        if "run" in (stages["embeddings"], stages["finetune"]):
            raise EditError("The training of this edit is no longer in memory; press Run again, then keep its subject.")
        path = files_folder(session) / f"subject-{result.edit.fingerprint()[:8]}.zip"
        return str(save_subject(editor.subject(result.edit, result.settings, subject), editor.models, path))

    return keep


def reuse(name: str):
    def use(session: Session) -> tuple[Any, Any]:
        if not session.shown:
            raise EditError("There is no result yet; run an edit first.")
        item = session.shown[session.chosen]
        getattr(session, name).show(item.image, f"result, seed {item.seed}")
        if name == "photo":
            session.placement = Placement()
        mode = gr.skip() if name == "photo" else gr.update(value="reference")
        return board_of(session, name, picture=True), mode

    return use


def restorer(backend: Backend) -> Callable[..., Any]:
    def restore(session: Session, data: bytes | None) -> tuple[Any, ...]:
        if data is None:
            raise EditError("No file arrived; choose a saved edit again.")
        return put(session, open_bundle(data), backend, own=True)

    return restore


def opener(backend: Backend) -> Callable[..., Any]:
    def open_example(session: Session, event: gr.EventData) -> tuple[Any, ...]:
        example = example_named(event_data(event).get("name"))
        opened = Opened(example.recipe, example.pictures, example.generated)
        # Until the rest is measured: an example's CLIP score, by the miniature's CLIP.
        scores = [example.scores.get(str(seed)) for seed in example.pictures]
        scores = [None if clip is None else score_of(clip, None, None, own_clip=True) for clip in scores]
        return put(session, opened, backend, scores)

    return open_example


def put(
    session: Session, opened: Opened, backend: Backend, scores: list[Score | None] | None = None, own: bool = False
) -> tuple[Any, ...]:
    """The saved edit on the page, masks and finished pictures included: a value for each of `everything`."""
    if session.running:
        raise EditError("Your edit is still running; wait for it, or cancel it, before opening another.")
    recipe, edit = opened.recipe, opened.recipe.edit
    settings = recipe.settings.resolve(backend.defaults() if recipe.model in (None, "miniature") else PAPER)
    session.subject = opened.subject
    if opened.subject is not None:
        settings = replace(settings, tune=opened.subject.tune, finetune_steps=0)
    _put_pictures(session, opened, own)
    _put_results(session, opened, settings, scores)
    return (
        board_of(session, "photo", picture=True),
        board_of(session, "reference", picture=True),
        gr.update(value=edit.background),
        gr.update(value=False),
        edit.prompt,
        edit.object_prompt,
        edit.background_prompt,
        *dial_values(settings),
        gallery_of(session),
        "",
        request_inspection(own_pictures(session, backend) or unmeasured(session)),
        *show(session),
        notes_html([*recipe.notes]),
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


def _put_results(session: Session, opened: Opened, settings: Settings, scores: list[Score | None] | None) -> None:
    """The finished pictures into the session; how well they fit is found out when the device has time."""
    forget(session)
    if not opened.pictures:
        return
    take(session, finished(opened, opened.pictures, settings), scores or [None] * len(opened.pictures))
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
