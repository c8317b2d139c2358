"""What can be done with results: order, compare, go on with one, and take them home."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.bundle import save_subject, save_zip
from layerdiffusion.ui.events import QUIET, listen
from layerdiffusion.ui.handlers.boards import board_of
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session, current, file_of, files_folder, order
from layerdiffusion.ui.widgets.results import DETAIL, LAYERS, RECIPE, comparison, report, show

# A download button only hands over what it already has: the file is packed first, then its link is followed.
FETCH = "() => { setTimeout(() => document.querySelector('#zip-file').click(), 100); }"
SAVED = "() => document.querySelector('#report [data-unsaved]')?.removeAttribute('data-unsaved')"


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the gallery and the buttons beneath it."""
    card, state = page.results, page.state
    compared = [card.slider, card.report]
    listen(card.gallery.select, partial(choose, backend), state, compared)
    listen(card.changes.input, partial(show_changes, backend), [state, card.changes], compared)
    listen(card.best.input, sort, [state, card.best], card.shown)
    packing = listen(card.zip.click, partial(pack, backend), [state, card.contents], card.zip_file)
    packing.success(None, js=FETCH, **QUIET).then(None, js=SAVED, **QUIET)
    listen(card.keep.click, partial(keep, backend), state, card.zip_file).success(None, js=FETCH, **QUIET)
    for button, name in ((card.as_photo, "photo"), (card.as_reference, "reference")):
        outputs = [page.boards[name].board, page.background.mode]
        listen(button.click, partial(reuse, name), state, outputs, refresh)


def choose(backend: Backend, session: Session, event: gr.SelectData) -> tuple[Any, str]:
    places = order(session)
    if not isinstance(event.index, int) or event.index not in range(len(places)):
        raise EditError("There is no such picture; choose one of those shown.")
    session.chosen = places[event.index]
    return _compared(session, backend)


def show_changes(backend: Backend, session: Session, wanted: bool) -> tuple[Any, str]:
    session.changes = bool(wanted) and bool(session.shown)
    return _compared(session, backend) if session.shown else (gr.skip(), "")


def _compared(session: Session, backend: Backend) -> tuple[Any, str]:
    """The comparison and the lines beneath it; what changed in the chosen picture is found out where it is wanted."""
    item = session.shown[session.chosen]
    if session.changes and item.change is None:
        item.change = backend.change(item.image, session.results[0].layers)
    return comparison(session), report(session)


def sort(session: Session, best_first: bool) -> tuple[Any, ...]:
    session.best_first = bool(best_first)
    return show(session)


def pack(backend: Backend, session: Session, contents: list[str]) -> str:
    """The zip of all that is shown, with the chosen contents."""
    if not session.shown:
        raise EditError("There is nothing to download yet; run an edit first.")
    path = files_folder(session) / f"layerdiffusion-{session.results[0].edit.fingerprint()[:8]}.zip"
    pictures: dict[int, Path] = {item.seed: file_of(item) for item in session.shown}
    baselines = [file_of(item) for row in session.baselines.values() for item in row]
    cut_outs = None
    if LAYERS in contents:
        cut_outs = [cut for result in session.results for cut in backend.editor.cut_out(result)]
    recipe, detail = RECIPE in contents, DETAIL in contents
    zipped = save_zip(session.results, pictures, path, baselines, cut_outs, recipe, detail)
    if saved := current(session):
        saved.downloaded = True
    return str(zipped)


def keep(backend: Backend, session: Session) -> str:
    """The zip of the trained subject of the edit that is shown."""
    if not session.shown:
        raise EditError("There is no trained subject yet; run an edit first.")
    result, editor = session.results[0], backend.editor
    subject = session.subject_of(result.edit, result.settings)
    stages = editor.plan(result.edit, result.settings, subject=subject)
    if "run" in (stages["embeddings"], stages["finetune"]):
        raise EditError("The training of this edit is no longer in memory; press Run again, then keep its subject.")
    path = files_folder(session) / f"subject-{result.edit.fingerprint()[:8]}.zip"
    return str(save_subject(editor.subject(result.edit, result.settings, subject), editor.models, path))


def reuse(name: str, session: Session) -> tuple[Any, Any]:
    """The chosen result on the board of that name."""
    if not session.shown:
        raise EditError("There is no result yet; run an edit first.")
    item = session.shown[session.chosen]
    getattr(session, name).show(item.image, f"result, seed {item.seed}")
    if name == "photo":
        session.placement = Placement()
    mode = gr.skip() if name == "photo" else gr.update(value="reference")
    return board_of(session, name, picture=True), mode
