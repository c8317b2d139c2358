"""What networks make of opened pictures, in their turn: are they from outside the toybox, and do results fit."""

from typing import Any

import gradio as gr

from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import QUIET, SCORING, friendly
from layerdiffusion.ui.marks import next_version
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.results import best_index, show, unmeasured

NOTICE = (
    '<p class="ld-notice"><b>This picture is not from the toybox.</b> This model knows toys only: it will try, but '
    "expect toys. For photographs: {}</p>"
)
LAPTOP = "a small Stable Diffusion, downloaded once (about 1 GB, under CreativeML OpenRAIL-M)"
BY_BUTTON = f"{LAPTOP}; an edit then takes minutes."
BY_COMMAND = (
    f"<code>python app.py --model laptop</code>, {LAPTOP}, or, with a GPU, "
    "<code>python app.py --model CompVis/stable-diffusion-v1-4</code>."
)


def connect(page: Page, backend: Backend) -> None:
    """Inspect whenever a handler has asked for it by a new value of `page.inspection`."""
    page.inspection.change(
        friendly(inspector(backend)), page.state, [page.header.notice, *page.results.shown], **SCORING, **QUIET
    )


def request_inspection(anything: Any) -> Any:
    """The value for `page.inspection`: a new one if there is anything to inspect."""
    return next_version() if anything else gr.skip()


def inspector(backend: Backend):
    def inspect(session: Session) -> tuple[Any, ...]:
        shown = show(session) if measure(session, backend) else [gr.skip()] * len(show(session))
        return notice(session, backend), *shown

    return inspect


def own_pictures(session: Session, backend: Backend) -> list[Any]:
    """The user's own pictures, where the model is one that knows nothing but the toybox."""
    pictures = (session.photo, session.reference) if backend.is_miniature else ()
    return [picture.image for picture in pictures if picture.own and picture.image is not None]


def notice(session: Session, backend: Backend) -> str:
    """A friendly word when the embedded model is shown a picture from outside its world."""
    outside = any(backend.out_of_distribution(image) for image in own_pictures(session, backend))
    return NOTICE.format(BY_BUTTON if backend.may_download else BY_COMMAND) if outside else ""


def measure(session: Session, backend: Backend) -> bool:
    """Find out how well the pictures fit that came without it; whether that is known of any now."""
    items = unmeasured(session)
    if not items or not backend.ready:
        return False
    first = session.results[0]
    found = backend.scores([item.image for item in items], first.edit, first.layers) or []
    for item, score in zip(items, found, strict=False):
        item.score = score
    if found and session.chosen == 0:  # no other was chosen meanwhile
        session.chosen, session.changes = best_index(session), False
    return bool(found)
