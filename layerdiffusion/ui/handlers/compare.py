"""The baselines beside ours, on request: the same edit and seeds by SDEdit, Imagic and Plug-and-Play, a row each."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from layerdiffusion.baselines import BASELINES
from layerdiffusion.errors import EditError
from layerdiffusion.settings import Settings
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.jobs import Work, connect_cancel, connect_job, followed
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.progress import ProgressView
from layerdiffusion.ui.widgets.results import rows, take_baseline

CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Finished rows are kept; press again to go on from there.</p>'


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire Compare and its Cancel."""
    card = page.results.baselines
    connect_job(
        card.job.start,
        card.job,
        comparer(backend),
        [page.state, card.methods],
        page.results.rows,
        lambda _: CANCELLED,
        refresh,
    )
    connect_cancel(card.job, page.state)


def comparer(backend: Backend) -> Work:
    def compare(session: Session, methods: list[str]) -> Iterator[tuple[Any, ...]]:
        if not session.results:
            raise EditError("There is nothing to compare with yet; run an edit first.")
        chosen = [name for name in BASELINES if name in methods]
        if not chosen:
            raise EditError("No method is chosen; tick at least one to compare with.")
        for name, settings in missing(session, chosen):
            view = ProgressView({}, BASELINES[name])
            yield (view.html(),)
            run = partial(backend.run, session.results[0].edit, settings, method=name)
            result = yield from followed(session, view, run)
            take_baseline(session, name, result, backend.scores_or_none(result))
            yield gr.skip(), *rows(session)
        yield "", *rows(session)

    return compare


def missing(session: Session, names: list[str]) -> list[tuple[str, Settings]]:
    """Each method whose row lacks seeds of ours, and our settings with those seeds."""
    settings, found = session.results[0].settings, []
    for name in names:
        there = {item.seed for item in session.baselines.get(name, ())}
        if seeds := tuple(item.seed for item in session.shown if item.seed not in there):
            found.append((name, replace(settings, seeds=seeds)))
    return found
