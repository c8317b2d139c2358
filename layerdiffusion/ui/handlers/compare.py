"""Other methods beside ours, on request: the same edit and seeds by SDEdit, Imagic and Plug-and-Play, a row each."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import gradio as gr

from layerdiffusion.errors import EditError
from layerdiffusion.methods.options import LABELS
from layerdiffusion.settings import Settings
from layerdiffusion.ui.backend import Device
from layerdiffusion.ui.bundle import OTHERS
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.handlers.layers import QUEUE
from layerdiffusion.ui.jobs import begin, followed, idle, stop
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.progress import ProgressView
from layerdiffusion.ui.widgets.results import keep, rows

CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Finished rows are kept; press again to go on from there.</p>'


def connect(page: SimpleNamespace, device: Device) -> None:
    """Wire Compare and its Cancel."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    buttons = [page.others_run, page.others_cancel]
    page.others_run.click(friendly(begin), page.state, [*buttons, page.others_progress], queue=False, **quiet).success(
        friendly(comparer(device)),
        [page.state, page.others_methods],
        [*buttons, page.others_progress, *page.others_rows],
        concurrency_id=QUEUE,
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=page.others_progress,
        api_visibility="private",
    ).then(**page.refresh)
    page.others_cancel.click(friendly(stop), page.state, page.others_progress, queue=False, **quiet)


def comparer(device: Device):
    def compare(session: Session, methods: list[str]):
        from layerdiffusion.progress import Cancelled

        stay, rest = [gr.skip()] * 2, [gr.skip()] * (2 * len(OTHERS))
        try:
            if not session.results:
                raise EditError("There is nothing to compare with yet; run an edit first.")
            chosen = [name for name in OTHERS if name in methods]
            if not chosen:
                raise EditError("No method is chosen; tick at least one to compare with.")
            for name, settings in missing(session, chosen):
                view = ProgressView({}, LABELS[name])
                yield *stay, view.html(), *rest
                run = partial(device.compare, name, session.results[0].edit, settings)
                for kind, value in followed(session, run):
                    if kind == "done":
                        keep(session, name, value, device)
                    else:
                        view.take(value)
                        yield *stay, view.html(), *rest
                yield *stay, gr.skip(), *rows(session)
            yield *idle(), "", *rows(session)
        except Cancelled:
            yield *idle(), CANCELLED, *rest
        except Exception:
            yield *idle(), "", *rest  # an error's own outputs are lost, and the button with them
            raise
        finally:
            session.running = False

    return compare


def missing(session: Session, names: list[str]) -> list[tuple[str, Settings]]:
    """Each method whose row lacks seeds of ours, and our settings with those seeds."""
    settings, found = session.results[0].settings, []
    for name in names:
        there = {item.seed for item in session.others.get(name, ())}
        if seeds := tuple(item.seed for item in session.shown if item.seed not in there):
            found.append((name, replace(settings, seeds=seeds)))
    return found
