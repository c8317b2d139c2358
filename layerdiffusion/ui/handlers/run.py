"""Run and More seeds: one edit of one tab at a time, everybody in one queue, and the results when it is done."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from layerdiffusion.errors import EditError
from layerdiffusion.settings import MAX_SEEDS
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.history import remember
from layerdiffusion.ui.jobs import Work, connect_cancel, connect_job, followed
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import settings_of
from layerdiffusion.ui.widgets.drawing import duration
from layerdiffusion.ui.widgets.progress import STAGE_LABELS, ProgressView, waiting_html
from layerdiffusion.ui.widgets.results import show, take

CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Finished stages are kept; Run goes on from there.</p>'


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire Run, More seeds and Cancel."""
    controls = page.words.job
    for trigger, more in ((controls.start, False), (page.results.more, True)):
        connect_job(
            trigger, controls, runner(backend, more), page.inputs, page.results.shown, lambda _: CANCELLED, refresh
        )
    connect_cancel(controls, page.state)


def runner(backend: Backend, more: bool) -> Work:
    def run(session: Session, *values: Any) -> Iterator[tuple[Any, ...]]:
        words, background, swap, dials = values[:3], values[3], values[4], values[5:]
        if more and session.results:
            edit, settings = further(session)
        else:
            edit = session.edit(tuple(words), background, swap)
            settings = settings_of(dials, type(backend.defaults()))
        if backend.loading:
            yield (waiting_html("The model is loading; the edit starts as soon as it is there …"),)
        subject = session.subject_of(edit, settings)
        view = ProgressView(backend.editor.plan(edit, settings, subject=subject))
        yield (view.html(),)
        result = yield from followed(session, view, partial(backend.run, edit, settings, subject=subject))
        take(session, result, backend.scores_or_none(result), more)
        remember(session)
        yield finished_html(result), *show(session)

    return run


def further(session: Session) -> tuple[Any, Any]:
    """The last edit with as many new seeds, counted on from its last."""
    first = session.results[0]
    used = [seed for result in session.results for seed in result.seeds]
    count = min(len(first.seeds), MAX_SEEDS - len(used))
    if count < 1:
        raise EditError(f"There are {len(used)} pictures of this edit, which is the most; start on from another seed.")
    return first.edit, replace(first.settings, seeds=tuple(range(max(used) + 1, max(used) + 1 + count)))


def finished_html(result: Any) -> str:
    reused = [STAGE_LABELS[stage].lower() for stage in result.reused]
    before = f" {', '.join(reused).capitalize()}: reused from before." if reused else ""
    return f'<p class="ld-plan ld-ready"><b>Done</b> in {duration(result.timings["total"])}.{before}</p>'
