"""Where the background comes from: the card's three modes, and backgrounds that the model generates."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from layerdiffusion.errors import EditError
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.handlers.events import QUIET
from layerdiffusion.ui.jobs import Work, connect_cancel, connect_job, followed
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import settings_of
from layerdiffusion.ui.widgets.progress import ProgressView, waiting_html

COUNT = 4
CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Finished ones are kept; press again to go on from there.</p>'


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the modes, Generate backgrounds, its Cancel, and the choice of one."""
    card = page.background
    card.mode.change(
        lambda mode: [gr.update(visible=mode == name) for name in card.panels],
        card.mode,
        [*card.panels.values()],
        queue=False,
        **QUIET,
    ).then(**refresh)
    card.swap.input(**refresh)
    connect_job(
        card.job.start,
        card.job,
        generator(backend),
        [page.state, page.words.background_prompt, *page.dials.components],
        [card.gallery],
        lambda session: CANCELLED + picked_html(session),
        refresh,
    )
    connect_cancel(card.job, page.state)
    card.gallery.select(friendly(pick), page.state, card.job.line, **QUIET).then(**refresh)


def generator(backend: Backend) -> Work:
    def generate(session: Session, prompt: str, *dials: Any) -> Iterator[tuple[Any, ...]]:
        settings = settings_of(dials, type(backend.defaults()))
        seeds = tuple(range(COUNT))
        if session.backgrounds and session.backgrounds_prompt == prompt:  # more of the same
            last = session.backgrounds[-1][0]
            seeds = tuple(range(last + 1, last + 1 + COUNT))
        yield (waiting_html("Generating backgrounds …"),)
        view = ProgressView({"background": "run"})
        photo = (1, 1) if session.photo.image is None else session.photo.image.size
        images = yield from followed(session, view, partial(backend.generate, prompt, seeds, settings, photo))
        session.backgrounds, session.backgrounds_prompt = list(zip(seeds, images, strict=True)), prompt
        session.background_seed = seeds[0]
        yield picked_html(session), gallery_of(session)

    return generate


def gallery_of(session: Session) -> dict[str, Any]:
    seeds = [seed for seed, _ in session.backgrounds]
    index = seeds.index(session.background_seed) if session.background_seed in seeds else None
    return gr.update(value=[(image, f"background {seed}") for seed, image in session.backgrounds], selected_index=index)


def picked_html(session: Session) -> str:
    if session.background_seed is None:
        return ""
    return f'<p class="ld-hint">Background {session.background_seed} is used. Click on another to change it.</p>'


def pick(session: Session, event: gr.SelectData) -> str:
    if not isinstance(event.index, int) or event.index not in range(len(session.backgrounds)):
        raise EditError("There is no such background; pick one of those shown.")
    session.background_seed = session.backgrounds[event.index][0]
    return picked_html(session)
