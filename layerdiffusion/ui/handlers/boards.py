"""What happens on the boards: pictures and masks, clicks, strokes, buttons, and where the subject is placed."""

import random
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import gradio as gr

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError, MaskError
from layerdiffusion.images.io import open_image
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import BESIDE, QUIET, event_data, friendly, warn
from layerdiffusion.ui.handlers.inspection import own_pictures, request_inspection
from layerdiffusion.ui.marks import MarkedPicture
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.board import board_update

BY_NETWORK = {"point", "frame", "seek"}  # events that wait for SAM or CLIP
GROWTH = 0.006  # of the longer side, a press of grow or shrink
DESCRIPTIONS = {
    "photo": ("The photo.", "Click on the subject."),
    "reference": ("The reference.", "Click on what is no background, if anything is."),
}


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the boards of the photo and the reference, and the one of both together."""
    for name, widget in page.boards.items():
        board = widget.board
        for event, change in marking(backend).items():
            queue = BESIDE if event in BY_NETWORK else {}
            on_event = getattr(board, event)(
                on_board(name, change), page.state, board, trigger_mode="multiple", **queue, **QUIET
            )
            on_event.then(**refresh)
        board.ask(friendly(asked(name)), page.state, board, queue=False, **QUIET)
        widget.upload.upload(
            friendly(loaded(name, backend)),
            [page.state, widget.upload],
            [board, page.header.notice, page.inspection],
            **QUIET,
        ).then(**refresh)
        widget.mask_upload.upload(friendly(mask_loaded(name)), [page.state, widget.mask_upload], board, **QUIET).then(
            **refresh
        )
    page.place_board.place(placed, page.state, None, trigger_mode="always_last", **QUIET).then(**refresh)


def board_of(session: Session, name: str, picture: bool = False) -> dict[str, Any]:
    """The board as the session has it; with its picture, if that is another."""
    marked: MarkedPicture = getattr(session, name)
    return board_update(marked.board(*DESCRIPTIONS[name]), marked.picture() if picture else None)


def on_board(name: str, change: Callable[[MarkedPicture, dict[str, Any]], None]) -> Callable[..., Any]:
    """A board's handler: whatever is refused, the board shows again what holds."""

    def handler(session: Session, event: gr.EventData) -> dict[str, Any]:
        marked = getattr(session, name)
        before = marked.image
        with session.marking:
            try:
                change(marked, event_data(event))
            except Exception as error:
                warn(error)
                marked.renew()
            return board_of(session, name, marked.image is not before)

    return handler


def marking(backend: Backend) -> dict[str, Callable[[MarkedPicture, dict[str, Any]], None]]:
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


def asked(name: str) -> Callable[..., Any]:
    def answer(session: Session, event: gr.EventData) -> dict[str, Any]:
        """The board again, if what the browser has of it is not what the session has."""
        marked, data = getattr(session, name), event_data(event)
        another_picture = data.get("picture") != marked.picture_version
        if data.get("version") == marked.version and not another_picture:
            return gr.skip()
        return board_of(session, name, another_picture)

    return answer


def loaded(name: str, backend: Backend) -> Callable[..., Any]:
    def load(session: Session, data: bytes | None) -> tuple[Any, ...]:
        if data is None:
            raise EditError("No file arrived; choose a picture again.")
        getattr(session, name).show(open_image(data, "The picture"), own=True)
        if name == "photo":
            session.placement = Placement()
        inspection = request_inspection(own_pictures(session, backend))
        return board_of(session, name, picture=True), "", inspection

    return load


def mask_loaded(name: str) -> Callable[..., Any]:
    def load(session: Session, data: bytes | None) -> dict[str, Any]:
        if data is None:
            raise EditError("No file arrived; choose a mask again.")
        getattr(session, name).load_mask(data)
        return board_of(session, name)

    return load


def placed(session: Session, event: gr.EventData) -> None:
    data = event_data(event)
    try:
        session.placement = Placement(**{part.name: data[part.name] for part in fields(Placement)})
    except KeyError:
        warn(EditError("That was no placement; drag the subject again."))
    except EditError as error:
        warn(error)
