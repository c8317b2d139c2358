"""What takes a while on the device: an edit, backgrounds, a comparison; a tab has one at a time, and can cancel it."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from layerdiffusion.errors import EditError
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.spaces import on_zero_gpu
from layerdiffusion.ui.widgets.progress import waiting_html

Run = Callable[[threading.Event | None], Iterator[tuple[str, Any]]]


def begin(session: Session) -> tuple[Any, Any, str]:
    """The job's own button goes, its Cancel comes, and a line says that it waits."""
    if session.running:
        raise EditError("Something of yours is still running; wait for it, or cancel it.")
    session.cancel, session.running = threading.Event(), True
    return gr.update(visible=False), gr.update(visible=True, interactive=True), waiting_html("Waiting for a turn …")


def stop(session: Session) -> str:
    session.cancel.set()
    return waiting_html("Cancelling …")


def idle() -> tuple[Any, Any]:
    """The job's button is there, its Cancel is not."""
    return gr.update(visible=True), gr.update(visible=False)


def followed(session: Session, run: Run) -> Iterator[tuple[str, Any]]:
    """What `run(cancel)` yields, as `Device.run` does, until the tab's Cancel is pressed: then `Cancelled`."""
    from layerdiffusion.progress import Cancelled

    if session.cancel.is_set():
        raise Cancelled("It was cancelled before its turn came.")
    cancel = None if on_zero_gpu() else session.cancel  # no event reaches another process
    for kind, value in run(cancel):
        if cancel is None and kind != "done" and session.cancel.is_set():
            raise Cancelled("It was cancelled.")  # which closes `run`, and that ends it
        yield kind, value
