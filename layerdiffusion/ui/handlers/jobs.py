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
from layerdiffusion.ui.events import IN_TURN, QUEUE, listen
from layerdiffusion.ui.handlers.model import badge
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session, remember, take, take_baseline
from layerdiffusion.ui.widgets.dials import dial_values, settings_of
from layerdiffusion.ui.widgets.drawing import duration
from layerdiffusion.ui.widgets.progress import STAGE_LABELS, DownloadView, JobControls, ProgressView, waiting_html
from layerdiffusion.ui.widgets.results import rows, show

FULL = '<p class="ld-plan"><b>Not started:</b> many people are waiting already; try again in a minute.</p>'
KEPT_STAGES = "Finished stages are kept; Run goes on from there."
KEPT_BACKGROUNDS = "Finished ones are kept; press again to go on from there."
KEPT_ROWS = "Finished rows are kept; press again to go on from there."
KEPT_FILES = "Files that have come are kept."
Run = Callable[[threading.Event], Any]  # a generator, as `Backend.run` is
Work = Callable[..., Any]  # a generator, as `job` wants it


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire all of them, and the choice of a background."""
    state, words, card, results = page.state, page.words, page.background, page.results
    for trigger, more in ((words.job.start, False), (results.more, True)):
        work = partial(run_edit, backend, more)
        connect_job(trigger, words.job, work, page.inputs, results.shown, KEPT_STAGES, refresh)
    inputs = [state, words.background_prompt, *page.dials.components]
    work = partial(generate, backend)
    connect_job(card.job.start, card.job, work, inputs, [card.gallery], KEPT_BACKGROUNDS, refresh)
    baselines = results.comparison
    inputs, work = [state, results.methods], partial(compare, backend)
    connect_job(baselines.start, baselines, work, inputs, results.rows, KEPT_ROWS, refresh)
    controls = [words.job, card.job, baselines]
    if laptop := page.header.laptop:
        controls.append(laptop)
        outputs = [page.header.badge, page.header.notice, *page.dials.components]
        connect_job(laptop.start, laptop, partial(switch, backend), [state], outputs, KEPT_FILES, refresh)
    for one in controls:
        listen(one.cancel.click, stop, state, one.line, queue=False)
    panels = [*card.panels.values()]
    listen(card.mode.change, partial(open_panel, [*card.panels]), card.mode, panels, refresh, queue=False)
    card.swap.input(**refresh)
    listen(card.gallery.select, pick, state, card.job.line, refresh)


def connect_job(
    trigger: gr.Button,
    controls: JobControls,
    work: Work,
    inputs: list[Any],
    outputs: list[Any],
    kept: str,
    refresh: dict[str, Any],
) -> None:
    """A click on `trigger` runs `work` in its turn, as `job` says; `inputs` begin with the page's state."""
    buttons = controls.components
    run = listen(
        listen(trigger.click, begin, inputs[0], buttons, queue=False).success,
        partial(job, work, len(outputs), kept),
        inputs,
        [*buttons, *outputs],
        show_progress="minimal",
        show_progress_on=controls.line,
        **IN_TURN,
    )
    run.then(**refresh)
    listen(run.failure, refused, inputs[0], buttons, refresh, queue=False)


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


def begin(session: Session) -> tuple[Any, Any, str]:
    """The job's own button goes, its Cancel comes, and a line says that it waits."""
    if session.running:
        raise EditError("Something of yours is still running; wait for it, or cancel it.")
    session.cancel, session.running, session.started = threading.Event(), True, False
    return gr.update(visible=False), gr.update(visible=True, interactive=True), waiting_html("Waiting for a turn …")


def stop(session: Session) -> str:
    session.cancel.set()
    return waiting_html("Cancelling …")


def refused(session: Session) -> Any:
    """The job's button again, where the queue was full and the job never began."""
    if not session.running or session.started:
        return gr.skip()
    session.running = False
    return *idle(), FULL


def idle() -> tuple[Any, Any]:
    """The job's button is there, its Cancel is not."""
    return gr.update(visible=True), gr.update(visible=False)


def job(work: Work, count: int, kept: str, session: Session, *inputs: Any) -> Iterator[tuple[Any, ...]]:
    """The event handler around the generator `work(session, *inputs)`, whose button comes back however it ends.

    `work` yields the job's line and a value for each of `count` outputs, or the line alone while those stay as they
    are. `kept` is what is left after Cancel.
    """
    from layerdiffusion.progress import Cancelled  # torch comes with it

    session.started = True
    stay, unchanged = [gr.skip()] * 2, [gr.skip()] * count
    try:
        with closing(work(session, *inputs)) as updates:
            for line, *outputs in updates:
                yield *stay, line, *(outputs or unchanged)
        yield *idle(), gr.skip(), *unchanged
    except Cancelled:
        yield *idle(), f'<p class="ld-plan"><b>Cancelled.</b> {kept}</p>', *unchanged
    except Exception:
        yield *idle(), "", *unchanged  # an error's own outputs are lost, and the button with them
        raise
    finally:
        session.running = False


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


def run_edit(backend: Backend, more: bool, session: Session, *values: Any) -> Iterator[tuple[Any, ...]]:
    """The edit as the page has it, or `more` seeds of the last."""
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
    take(session, result, backend.scores(result.images, edit, result.layers), more)
    remember(session)
    yield finished_html(result), *show(session)


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


def open_panel(modes: list[str], mode: str) -> list[Any]:
    """The panel of the background's mode, and none of the others."""
    return [gr.update(visible=mode == name) for name in modes]


def generate(backend: Backend, session: Session, prompt: str, *dials: Any) -> Iterator[tuple[Any, ...]]:
    """Backgrounds from the words, or more of them where the words are the same."""
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


def compare(backend: Backend, session: Session, methods: list[str]) -> Iterator[tuple[Any, ...]]:
    """A row of pictures by each of the methods, where it lacks some."""
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
        take_baseline(session, name, result, backend.scores(result.images, result.edit, result.layers))
        yield gr.skip(), *rows(session)
    yield "", *rows(session)


def missing(session: Session, names: list[str]) -> list[tuple[str, Settings]]:
    """Each method whose row lacks seeds of ours, and our settings with those seeds."""
    settings, found = session.results[0].settings, []
    for name in names:
        there = {item.seed for item in session.baselines.get(name, ())}
        if seeds := tuple(item.seed for item in session.shown if item.seed not in there):
            found.append((name, replace(settings, seeds=seeds)))
    return found


def switch(backend: Backend, session: Session) -> Iterator[tuple[Any, ...]]:
    """The page with the model for photographs, once that is downloaded."""
    yield (waiting_html("Looking for the model …"),)
    yield from followed(session, DownloadView(), backend.switch)
    yield "", badge(backend), "", *dial_values(backend.opening())
