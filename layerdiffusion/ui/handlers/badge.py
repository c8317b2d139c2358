"""The badge that says which model is loaded; when it has come, the dials take its defaults, the methods its own."""

from typing import Any

import gradio as gr

from layerdiffusion.baselines import suited
from layerdiffusion.models.hub import PLUS, split_name
from layerdiffusion.settings import Settings
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import QUIET, friendly
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import dial_values
from layerdiffusion.ui.widgets.drawing import escape
from layerdiffusion.ui.widgets.results import method_choices

DEVICES = {"cuda": "GPU", "cpu": "CPU", "mps": "Apple GPU"}


def connect(page: Page, backend: Backend, refresh: dict[str, Any], shown: Settings) -> None:
    """Look every now and then until the model is there; the dials were built with the settings `shown`."""
    dials = page.dials.components

    def tick(session: Session) -> tuple[Any, ...]:
        values = [gr.skip()] * len(dials)
        if session.dials_due and backend.ready and backend.opening() != shown:
            values = dial_values(backend.opening())
        methods = gr.skip()
        if session.dials_due and backend.ready:
            names = suited(backend.editor.models)
            methods = gr.update(choices=method_choices(names), value=names)
        session.dials_due = backend.loading
        return badge(backend), gr.Timer(active=backend.loading), methods, *values

    outputs = [page.header.badge, page.timer, page.results.baselines.methods, *dials]
    page.timer.tick(friendly(tick), page.state, outputs, queue=False, **QUIET).then(**refresh)


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
