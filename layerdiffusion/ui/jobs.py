"""What takes a while on the device: an edit, backgrounds, a comparison; a tab has one at a time, and can cancel it."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from layerdiffusion.errors import EditError
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.handlers.events import IN_TURN, QUEUE, QUIET
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.progress import JobControls, ProgressView, waiting_html

FULL = '<p class="ld-plan"><b>Not started:</b> many people are waiting already; try again in a minute.</p>'
Run = Callable[[threading.Event], Any]  # a generator, as `Backend.run` is
Work = Callable[..., Any]  # a generator, as `job` wants it


def connect_job(
    trigger: gr.Button,
    controls: JobControls,
    work: Work,
    inputs: list[Any],
    outputs: list[Any],
    cancelled: Callable[[Session], str],
    refresh: dict[str, Any],
) -> None:
    """A click on `trigger` runs `work` in its turn, as `job` says; `inputs` begin with the page's state."""
    buttons = controls.components
    begun = trigger.click(friendly(begin), inputs[0], buttons, queue=False, **QUIET)
    run = begun.success(
        friendly(job(work, len(outputs), cancelled)),
        inputs,
        [*buttons, *outputs],
        show_progress="minimal",
        show_progress_on=controls.line,
        api_visibility="private",
        **IN_TURN,
    )
    run.then(**refresh)
    run.failure(friendly(refused), inputs[0], buttons, queue=False, **QUIET).then(**refresh)


def limit_waiting(blocks: gr.Blocks, most: int) -> gr.Blocks:
    """The page with at most `most` jobs that wait; whoever asks for another is refused at once.

    Gradio's own limit counts all events, and would refuse a click because others wait for an edit.
    """
    queue = blocks._queue
    push = queue.push

    async def checked(body: Any, request: Any, username: str | None) -> Any:
        waiting = queue.event_queue_per_concurrency_id.get(QUEUE)
        fn = blocks.fns.get(body.fn_index)
        if fn is not None and fn.concurrency_id == QUEUE and waiting is not None and len(waiting.queue) >= most:
            return False, f"{most} people are waiting already; try again in a minute.", "queue_full"
        return await push(body=body, request=request, username=username)

    queue.push = checked
    return blocks


def connect_cancel(controls: JobControls, state: gr.State) -> None:
    controls.cancel.click(friendly(stop), state, controls.line, queue=False, **QUIET)


def begin(session: Session) -> tuple[Any, Any, str]:
    """The job's own button goes, its Cancel comes, and a line says that it waits."""
    if session.running:
        raise EditError("Something of yours is still running; wait for it, or cancel it.")
    session.cancel, session.running, session.started = threading.Event(), True, False
    return gr.update(visible=False), gr.update(visible=True, interactive=True), waiting_html("Waiting for a turn …")


def stop(session: Session) -> str:
    session.cancel.set()
    return waiting_html("Cancelling …")


def refused(session: Session) -> tuple[Any, Any, Any]:
    """The job's button again, where the queue was full and the job never began."""
    if not session.running or session.started:
        return gr.skip(), gr.skip(), gr.skip()
    session.running = False
    return *idle(), FULL


def idle() -> tuple[Any, Any]:
    """The job's button is there, its Cancel is not."""
    return gr.update(visible=True), gr.update(visible=False)


def job(work: Work, count: int, cancelled: Callable[[Session], str]) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """The event handler around the generator `work(session, *inputs)`, whose button comes back however it ends.

    `work` yields the job's line and a value for each of `count` outputs, or the line alone while those stay as they
    are. `cancelled(session)` is the line after Cancel.
    """

    def run(session: Session, *inputs: Any) -> Iterator[tuple[Any, ...]]:
        from layerdiffusion.progress import Cancelled  # torch comes with it

        session.started = True
        stay, unchanged = [gr.skip()] * 2, [gr.skip()] * count
        try:
            with closing(work(session, *inputs)) as updates:
                for line, *outputs in updates:
                    yield *stay, line, *(outputs or unchanged)
            yield *idle(), gr.skip(), *unchanged
        except Cancelled:
            yield *idle(), cancelled(session), *unchanged
        except Exception:
            yield *idle(), "", *unchanged  # an error's own outputs are lost, and the button with them
            raise
        finally:
            session.running = False

    return run


def followed(session: Session, view: ProgressView, run: Run) -> Generator[tuple[str], None, Any]:
    """The view's HTML at every step of `run(cancel)`, which yields as `Backend.run` does; returns its result.

    Raises `Cancelled` once the tab's Cancel is pressed.
    """
    from layerdiffusion.progress import Cancelled  # torch comes with it

    if session.cancel.is_set():
        raise Cancelled("It was cancelled before its turn came.")
    result = None
    with closing(run(session.cancel)) as events:
        for kind, value in events:
            if kind == "done":
                result = value
                continue
            view.take(value)
            yield (view.html(),)
    return result
