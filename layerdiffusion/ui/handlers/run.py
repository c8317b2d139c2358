"""Run and Cancel: one edit of one tab at a time, everybody in one queue, and the results when it is done."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.errors import EditError
from layerdiffusion.settings import MAX_SEEDS
from layerdiffusion.ui.backend import Device
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.handlers.layers import QUEUE, dial_names, settings_of
from layerdiffusion.ui.jobs import begin, followed, idle, stop
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.drawing import duration
from layerdiffusion.ui.widgets.progress import STAGES, ProgressView, waiting_html
from layerdiffusion.ui.widgets.results import show, take

CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Finished stages are kept; Run goes on from there.</p>'


def connect(page: SimpleNamespace, device: Device) -> None:
    """Wire Run, More seeds and Cancel."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    page.shown = [page.results, page.gallery, page.compare, page.report, *page.others_rows]
    outputs = [page.run, page.cancel, page.progress, *page.shown]
    for button, more in ((page.run, False), (page.more, True)):
        started = button.click(
            friendly(begin), [page.state], [page.run, page.cancel, page.progress], queue=False, **quiet
        )
        ran = started.success(
            friendly(runner(device, more, len(page.shown))),
            page.inputs,
            outputs,
            concurrency_id=QUEUE,
            concurrency_limit=1,
            show_progress="minimal",
            show_progress_on=page.progress,
            api_visibility="private",
        )
        ran.then(**page.refresh)
    page.cancel.click(friendly(stop), page.state, page.progress, queue=False, **quiet)


def runner(device: Device, more: bool, shown: int):
    def run(session: Session, *values: Any):
        from layerdiffusion.progress import Cancelled

        stay, rest = [gr.skip()] * 2, [gr.skip()] * shown
        words, background, swap, dials = values[:3], values[3], values[4], values[5:]
        try:
            if more and session.results:
                edit, settings = _further(session)
            else:
                edit = session.edit(tuple(words), background, swap)
                settings = settings_of(dials, dial_names())
            if device.loading:
                note = "The model is loading; the edit starts as soon as it is there …"
                yield *stay, waiting_html(note), *rest
            view, result = ProgressView(device.editor.plan(edit, settings)), None
            yield *stay, view.html(), *rest
            for kind, value in followed(session, lambda cancel: device.run(edit, settings, cancel)):
                if kind == "done":
                    result = value
                else:
                    view.take(value)
                    yield *stay, view.html(), *rest
            take(session, result, device, more)
            yield *idle(), _done(result), *show(session)
        except Cancelled:
            yield *idle(), CANCELLED, *rest
        except Exception:
            yield *idle(), "", *rest  # an error's own outputs are lost, and the button with them
            raise
        finally:
            session.running = False

    return run


def _further(session: Session) -> tuple[Any, Any]:
    """The last edit with as many new seeds, counted on from its last."""
    first = session.results[0]
    used = [seed for result in session.results for seed in result.seeds]
    count = min(len(first.seeds), MAX_SEEDS - len(used))
    if count < 1:
        raise EditError(f"There are {len(used)} pictures of this edit, which is the most; start on from another seed.")
    return first.edit, replace(first.settings, seeds=tuple(range(max(used) + 1, max(used) + 1 + count)))


def _done(result: Any) -> str:
    reused = [STAGES[stage].lower() for stage in result.reused]
    kept = f" {', '.join(reused).capitalize()}: kept from before." if reused else ""
    return f'<p class="ld-plan ld-ready"><b>Done</b> in {duration(result.timings["total"])}.{kept}</p>'
