"""What happens on the boards: pictures and masks, clicks, strokes, buttons, and where the subject is placed."""

import random
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import gradio as gr

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError, MaskError
from layerdiffusion.images.io import open_image
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import BESIDE, event_data, listen, warn
from layerdiffusion.ui.handlers.model import own_pictures, request_inspection
from layerdiffusion.ui.marks import MarkedPicture
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.board import board_update

BY_NETWORK = {"point", "frame", "seek"}  # events that wait for SAM or CLIP
Change = Callable[[MarkedPicture, dict[str, Any]], None]  # what an event does to its picture
GROWTH = 0.006  # of the longer side, a press of grow or shrink
DESCRIPTIONS = {
    "photo": ("The photo.", "Click on the subject."),
    "reference": ("The reference.", "Click on what is no background, if anything is."),
}


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the boards of the photo and the reference, and the one of both together."""
    state = page.state
    for name, widget in page.boards.items():
        board = widget.board
        for event, change in marking(backend).items():
            queue = BESIDE if event in BY_NETWORK else {}
            marked = partial(on_board, name, change)
            listen(getattr(board, event), marked, state, board, refresh, trigger_mode="multiple", **queue)
        listen(board.ask, partial(asked, name), state, board, queue=False)
        shown = [board, page.header.notice, page.inspection]
        listen(widget.upload.upload, partial(loaded, name, backend), [state, widget.upload], shown, refresh)
        listen(widget.mask_upload.upload, partial(mask_loaded, name), [state, widget.mask_upload], board, refresh)
    listen(page.place_board.place, placed, state, None, refresh, trigger_mode="always_last")


def board_of(session: Session, name: str, picture: bool = False) -> dict[str, Any]:
    """The board as the session has it; with its picture, if that is another."""
    marked: MarkedPicture = getattr(session, name)
    return board_update(marked.board(*DESCRIPTIONS[name]), marked.picture() if picture else None)


def on_board(name: str, change: Change, session: Session, event: gr.EventData) -> dict[str, Any]:
    """What `change` makes of a board's picture; whatever is refused, the board shows again what holds."""
    marked = getattr(session, name)
    before = marked.image
    with session.marking:
        try:
            change(marked, event_data(event))
        except Exception as error:
            warn(error)
            marked.renew()
        return board_of(session, name, marked.image is not before)


def marking(backend: Backend) -> dict[str, Change]:
    """What each event of a board does to its picture; those that ask a network first, as `BY_NETWORK` names them."""

    def look(points: list, labels: list, image: Any, box: Any) -> list:
        return backend.candidates(image, points, labels, box)

    return {
        "point": lambda marked, data: marked.point(data.get("x"), data.get("y"), data.get("label"), look),
        "frame": lambda marked, data: marked.frame(data.get("corners"), look),
        "seek": lambda marked, data: marked.find(data.get("words"), lambda words, image: backend.find(image, words)),
        "stroke": lambda marked, data: marked.stroke(data.get("points"), data.get("radius"), bool(data.get("erase"))),
        "lasso": lambda marked, data: marked.lasso(data.get("points"), bool(data.get("erase"))),
        "act": act,
    }


def act(marked: MarkedPicture, data: dict) -> None:
    """A button of the board."""
    action = data.get("name")
    step = max(1, round(GROWTH * max(marked.image.size))) if marked.image else 1
    if action in ("undo", "redo", "clear"):
        getattr(marked, action)()
    elif action in ("grow", "shrink"):
        marked.grow(step if action == "grow" else -step)
    elif action == "pick":
        marked.choose(data.get("index"))
    elif action == "window":
        marked.move_window(data.get("x"), data.get("y"))
    elif action == "scene":
        scene = draw(HELD_OUT_SEEDS + random.randrange(10**6), size=random.choice(("medium", "big")))
        marked.show(scene.image, "toybox scene")
    else:
        raise MaskError("The board can't do that; use its buttons.")


def asked(name: str, session: Session, event: gr.EventData) -> dict[str, Any]:
    """The board again, if what the browser has of it is not what the session has."""
    marked, data = getattr(session, name), event_data(event)
    another_picture = data.get("picture") != marked.picture_version
    if data.get("version") == marked.version and not another_picture:
        return gr.skip()
    return board_of(session, name, another_picture)


def loaded(name: str, backend: Backend, session: Session, data: bytes | None) -> tuple[Any, ...]:
    if data is None:
        raise EditError("No file arrived; choose a picture again.")
    getattr(session, name).show(open_image(data, "The picture"), own=True)
    if name == "photo":
        session.placement = Placement()
    inspection = request_inspection(own_pictures(session, backend))
    return board_of(session, name, picture=True), "", inspection


def mask_loaded(name: str, session: Session, data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise EditError("No file arrived; choose a mask again.")
    getattr(session, name).load_mask(data)
    return board_of(session, name)


def placed(session: Session, event: gr.EventData) -> None:
    data = event_data(event)
    try:
        session.placement = Placement(**{part.name: data[part.name] for part in fields(Placement)})
    except KeyError:
        warn(EditError("That was no placement; drag the subject again."))
    except EditError as error:
        warn(error)
