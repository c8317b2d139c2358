"""What the page says of its model: a badge, a notice at pictures from outside its world, how well results fit."""

from functools import partial
from typing import Any

import gradio as gr

from layerdiffusion.baselines import suited
from layerdiffusion.hub import PLUS, split_name
from layerdiffusion.settings import Settings
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import SCORING, listen
from layerdiffusion.ui.marks import next_version
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session, best_index, unmeasured
from layerdiffusion.ui.widgets.dials import dial_values
from layerdiffusion.ui.widgets.drawing import escape
from layerdiffusion.ui.widgets.results import method_choices, show

DEVICES = {"cuda": "GPU", "cpu": "CPU", "mps": "Apple GPU"}
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


def connect(page: Page, backend: Backend, refresh: dict[str, Any], built: Settings) -> None:
    """Look every now and then until the model is there; the dials were `built` with these settings.

    And inspect whenever a handler has asked for it by a new value of `page.inspection`.
    """
    dials = page.dials.components
    outputs = [page.header.badge, page.timer, page.results.methods, *dials]
    listen(page.timer.tick, partial(tick, backend, built, len(dials)), page.state, outputs, refresh, queue=False)
    outputs = [page.header.notice, *page.results.shown]
    listen(page.inspection.change, partial(inspect, backend), page.state, outputs, **SCORING)


def tick(backend: Backend, built: Settings, count: int, session: Session) -> tuple[Any, ...]:
    """The badge; when the model has come, the `count` dials take its defaults, and the methods are those it has."""
    methods, values = gr.skip(), [gr.skip()] * count
    if session.dials_due and backend.ready:
        names = suited(backend.editor.models)
        methods = gr.update(choices=method_choices(names), value=names)
        if backend.opening() != built:
            values = dial_values(backend.opening())
    session.dials_due = backend.loading
    return badge(backend), gr.Timer(active=backend.loading), methods, *values


def badge(backend: Backend) -> str:
    """Which model is loaded, where it runs, and what it knows."""
    if backend.loading:
        return _html("wait", "Loading the model …", "The page can be used already.")
    try:
        models = backend.editor.models
    except Exception as error:
        return _html("bad", "No model", str(error))
    where = DEVICES.get(models.device.type, models.device.type)
    if backend.is_miniature:
        knows = "twelve clay animals in eight places"
        return _html("good", f"Toybox miniature · {where}", models.notice or f"It knows {knows}.")
    base, files = split_name(models.name)
    name = PLUS.join(part.rstrip("/").rsplit("/", 1)[-1] for part in (base, *files))
    note = f"{models.family.label}, {models.size} × {models.size} pixels."
    return _html("good", f"{name} · {where}", models.notice or note)


def _html(kind: str, name: str, note: str) -> str:
    return (
        f'<div class="ld-badge ld-{kind}" role="status" title="{escape(note)}"><i></i><b>{escape(name)}</b>'
        f"<span>{escape(note)}</span></div>"
    )


def request_inspection(anything: Any) -> Any:
    """The value for `page.inspection`: a new one if there is anything to inspect."""
    return next_version() if anything else gr.skip()


def inspect(backend: Backend, session: Session) -> tuple[Any, ...]:
    shown = show(session) if measure(session, backend) else [gr.skip()] * len(show(session))
    return notice(session, backend), *shown


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
    found = backend.scores([item.image for item in items], first.edit, first.layers)
    if None in found:
        return False
    for item, score in zip(items, found, strict=True):
        item.score = score
    if session.chosen == 0:  # no other was chosen meanwhile
        session.chosen, session.changes = best_index(session), False
    return True
