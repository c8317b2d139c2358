"""What can be done with results: order, compare, go on with one, take them home, and open them again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from PIL import Image

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError
from layerdiffusion.images.layers import lay_out
from layerdiffusion.result import Result
from layerdiffusion.settings import PAPER, Settings
from layerdiffusion.ui.backend import Device
from layerdiffusion.ui.bundle import Opened, open_bundle, save_zip
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.examples import example_named
from layerdiffusion.ui.handlers.layers import board_of, dial_values, gallery_of, notice
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.results import comparison, forget, keep, order, report, show, take

# A download button only hands over what it already has: the file is packed first, then its link is followed.
FETCH = "() => { setTimeout(() => document.querySelector('#zip-file').click(), 100); }"


def connect(page: SimpleNamespace, device: Device) -> None:
    """Wire the gallery's buttons, the opening of saved edits, and the examples."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    page.gallery.select(friendly(chosen), page.state, [page.compare, page.report], **quiet)
    page.best.input(friendly(sort), [page.state, page.best], page.shown, **quiet)
    page.zip.click(friendly(packed), page.state, page.zip_file, **quiet).success(None, js=FETCH, **quiet)
    for button, name in ((page.as_photo, "photo"), (page.as_reference, "reference")):
        board = getattr(page, f"{name}_board")
        button.click(friendly(reuse(name)), page.state, [board, page.background], **quiet).then(**page.refresh)
    everything = [
        page.photo_board,
        page.reference_board,
        page.background,
        page.swap,
        *page.words,
        *page.dials,
        page.backgrounds,
        page.notice,
        *page.shown,
        page.progress,
    ]
    opened = page.restore.upload(friendly(restorer(device)), [page.state, page.restore], everything, **quiet)
    opened.then(**page.refresh)
    for widget in (page.examples, page.slides):
        widget.open(friendly(opener(device)), page.state, everything, **quiet).then(**page.refresh)


def chosen(session: Session, event: gr.SelectData) -> tuple[Any, str]:
    places = order(session)
    if not isinstance(event.index, int) or event.index not in range(len(places)):
        raise EditError("There is no such picture; choose one of those shown.")
    session.chosen = places[event.index]
    return comparison(session), report(session)


def sort(session: Session, best_first: bool) -> tuple[Any, ...]:
    session.best_first = bool(best_first)
    return show(session)


def packed(session: Session) -> str:
    if not session.shown:
        raise EditError("There is nothing to download yet; run an edit first.")
    path = Path(session.folder.name) / f"layerdiffusion-{session.results[0].edit.fingerprint()[:8]}.zip"
    pictures: dict[int, Path] = {item.seed: item.path for item in session.shown}
    others = [item.path for row in session.others.values() for item in row]
    return str(save_zip(session.results, pictures, path, others))


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


def restorer(device: Device):
    def restore(session: Session, data: bytes | None) -> tuple[Any, ...]:
        if data is None:
            raise EditError("No file arrived; choose a saved edit again.")
        return put(session, open_bundle(data), device, own=True)

    return restore


def opener(device: Device):
    def open_example(session: Session, event: gr.EventData) -> tuple[Any, ...]:
        data = event._data if isinstance(event._data, dict) else {}
        example = example_named(data.get("name"))
        opened = Opened(example.recipe, example.pictures, example.painted)
        return put(session, opened, device, [example.scores.get(str(seed)) for seed in example.pictures])

    return open_example


def put(
    session: Session, opened: Opened, device: Device, scores: list[float | None] | None = None, own: bool = False
) -> tuple[Any, ...]:
    """The saved edit on the page, masks and finished pictures included: a value for each of `everything`."""
    if session.running:
        raise EditError("Your edit is still running; wait for it, or cancel it, before opening another.")
    recipe, edit = opened.recipe, opened.recipe.edit
    session.photo.show(edit.object_image, own=own)
    session.reference.show(edit.background_image, own=own)
    for picture, mask in ((session.photo, edit.object_mask), (session.reference, edit.background_mask)):
        if mask is not None:
            picture.load_mask(mask)
            picture.history = []
    session.prompt = edit.prompt
    session.placement, session.painted, session.background_seed = edit.placement, [], None
    if edit.background == "generate":
        session.background_seed = edit.background_seed
        session.painted_prompt = edit.background_prompt
        session.painted = [] if opened.painted is None else [(edit.background_seed, opened.painted)]
    settings = recipe.settings.resolve(device.defaults() if recipe.model in (None, "miniature") else PAPER)
    forget(session)
    if opened.pictures:
        if scores is None and not device.ready:
            scores = [None] * len(opened.pictures)
        take(session, finished(opened, opened.pictures, settings), device, scores=scores)
        for name, pictures in opened.others.items():
            unscored = None if device.ready else [None] * len(pictures)
            keep(session, name, finished(opened, pictures, settings), device, unscored)
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
        notice(device, session),
        *show(session),
        "",
    )


def finished(opened: Opened, pictures: dict[int, Image.Image], settings: Settings) -> Result:
    """The saved pictures as the result they were, less what no file tells: its timings, losses and stages."""
    recipe, images = opened.recipe, list(pictures.values())
    side = images[0].width
    generated = opened.painted or Image.new("RGB", (side, side), "gray")
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
        layers=lay_out(recipe.edit, side, generated),
    )
