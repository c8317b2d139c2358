"""What takes a while on the device: edits, generated backgrounds, comparisons, a download.

A tab has one of them at a time, and can cancel it.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from layerdiffusion.baselines import BASELINES
from layerdiffusion.errors import EditError
from layerdiffusion.settings import MAX_SEEDS, Settings
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import IN_TURN, QUEUE, QUIET, friendly
from layerdiffusion.ui.handlers.badge import badge
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session, remember
from layerdiffusion.ui.widgets.dials import dial_values, settings_of
from layerdiffusion.ui.widgets.drawing import duration
from layerdiffusion.ui.widgets.progress import STAGE_LABELS, DownloadView, JobControls, ProgressView, waiting_html
from layerdiffusion.ui.widgets.results import rows, show, take, take_baseline

FULL = '<p class="ld-plan"><b>Not started:</b> many people are waiting already; try again in a minute.</p>'
Run = Callable[[threading.Event], Any]  # a generator, as `Backend.run` is
Work = Callable[..., Any]  # a generator, as `job` wants it


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire all of them."""
    connect_edit(page, backend, refresh)
    connect_backgrounds(page, backend, refresh)
    connect_comparison(page, backend, refresh)
    connect_laptop(page, backend, refresh)


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


CANCELLED_EDIT = '<p class="ld-plan"><b>Cancelled.</b> Finished stages are kept; Run goes on from there.</p>'


def connect_edit(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire Run, More seeds and Cancel."""
    controls = page.words.job
    for trigger, more in ((controls.start, False), (page.results.more, True)):
        connect_job(
            trigger, controls, runner(backend, more), page.inputs, page.results.shown, lambda _: CANCELLED_EDIT, refresh
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


BACKGROUNDS = 4
CANCELLED_BACKGROUNDS = (
    '<p class="ld-plan"><b>Cancelled.</b> Finished ones are kept; press again to go on from there.</p>'
)


def connect_backgrounds(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
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
        lambda session: CANCELLED_BACKGROUNDS + picked_html(session),
        refresh,
    )
    connect_cancel(card.job, page.state)
    card.gallery.select(friendly(pick), page.state, card.job.line, **QUIET).then(**refresh)


def generator(backend: Backend) -> Work:
    def generate(session: Session, prompt: str, *dials: Any) -> Iterator[tuple[Any, ...]]:
        settings = settings_of(dials, type(backend.defaults()))
        seeds = tuple(range(BACKGROUNDS))
        if session.backgrounds and session.backgrounds_prompt == prompt:  # more of the same
            last = session.backgrounds[-1][0]
            seeds = tuple(range(last + 1, last + 1 + BACKGROUNDS))
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


CANCELLED_COMPARISON = (
    '<p class="ld-plan"><b>Cancelled.</b> Finished rows are kept; press again to go on from there.</p>'
)


def connect_comparison(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire Compare and its Cancel."""
    card = page.results.baselines
    connect_job(
        card.job.start,
        card.job,
        comparer(backend),
        [page.state, card.methods],
        page.results.rows,
        lambda _: CANCELLED_COMPARISON,
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


CANCELLED_DOWNLOAD = '<p class="ld-plan"><b>Cancelled.</b> Files that have come are kept.</p>'


def connect_laptop(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the button and its Cancel, if there are any."""
    controls = page.header.laptop
    if controls is None:
        return
    outputs = [page.header.badge, page.header.notice, *page.dials.components]
    connect_job(
        controls.start, controls, switcher(backend), [page.state], outputs, lambda _: CANCELLED_DOWNLOAD, refresh
    )
    connect_cancel(controls, page.state)


def switcher(backend: Backend) -> Work:
    def switch(session: Session) -> Iterator[tuple[Any, ...]]:
        yield (waiting_html("Looking for the model …"),)
        yield from followed(session, DownloadView(), backend.switch)
        yield "", badge(backend), "", *dial_values(backend.opening())

    return switch
