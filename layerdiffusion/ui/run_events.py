"""Run and Cancel: one edit of one tab at a time, everybody in one queue, and the results when it is done."""

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.edit import MAX_SEEDS
from layerdiffusion.errors import EditError
from layerdiffusion.images import fit_square
from layerdiffusion.ui.bundle import save_pictures
from layerdiffusion.ui.device import Device
from layerdiffusion.ui.drawing import duration, escape
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.jobs import begin, followed, idle, stop
from layerdiffusion.ui.layer_events import QUEUE, dial_names, settings_of
from layerdiffusion.ui.progress_view import STAGES, ProgressView, waiting_html
from layerdiffusion.ui.session import Session

CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Finished stages are kept; Run goes on from there.</p>'


def connect(page: SimpleNamespace, device: Device) -> None:
    """Wire Run, More seeds and Cancel."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    page.shown = [page.results, page.gallery, page.compare, page.report]
    outputs = [page.run, page.cancel, page.progress, *page.shown]
    for button, more in ((page.run, False), (page.more, True)):
        started = button.click(
            friendly(begin), [page.state], [page.run, page.cancel, page.progress], queue=False, **quiet
        )
        ran = started.success(
            friendly(runner(device, more)),
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


def runner(device: Device, more: bool):
    def run(session: Session, *values: Any):
        from layerdiffusion.progress import Cancelled

        words, background, swap, dials = values[:3], values[3], values[4], values[5:]
        try:
            if more and session.results:
                edit, settings = _further(session)
            else:
                edit = session.edit(tuple(words), background, swap)
                settings = settings_of(dials, dial_names())
            if device.loading:
                yield _going(waiting_html("The model is loading; the edit starts as soon as it is there …"))
            view, result = ProgressView(device.editor.plan(edit, settings)), None
            yield _going(view.html())
            for kind, value in followed(session, lambda cancel: device.run(edit, settings, cancel)):
                if kind == "done":
                    result = value
                else:
                    view.take(value)
                    yield _going(view.html())
            take(session, result, device, more)
            yield *idle(), _done(result), *show(session)
        except Cancelled:
            yield *idle(), CANCELLED, *_skip()
        except Exception:
            yield *idle(), "", *_skip()  # an error's own outputs are lost, and the button with them
            raise
        finally:
            session.running = False

    return run


def _going(html: str) -> tuple[Any, ...]:
    return gr.skip(), gr.skip(), html, *_skip()


def _skip() -> tuple[Any, ...]:
    return tuple(gr.skip() for _ in range(4))


def _further(session: Session) -> tuple[Any, Any]:
    """The last edit with as many new seeds, counted on from its last."""
    first = session.results[0]
    used = [seed for result in session.results for seed in result.seeds]
    count = min(len(first.seeds), MAX_SEEDS - len(used))
    if count < 1:
        raise EditError(f"There are {len(used)} pictures of this edit, which is the most; start on from another seed.")
    return first.edit, replace(first.settings, seeds=tuple(range(max(used) + 1, max(used) + 1 + count)))


def take(session: Session, result: Any, device: Device, more: bool = False, scores: Any = None) -> None:
    """Keep the result, scored, with its pictures as files that carry their recipe."""
    if not more or not session.results:
        forget(session)
        session.folder = tempfile.TemporaryDirectory(prefix="layerdiffusion-")
    session.results.append(result)
    if scores is None:
        scores = device.scores(result.images, result.edit.prompt) or [None] * len(result.images)
    paths = save_pictures(result, Path(session.folder.name), len(session.shown))
    for seed, image, score, path in zip(result.seeds, result.images, scores, paths, strict=True):
        session.shown.append(SimpleNamespace(seed=seed, image=image, score=score, path=path))
    session.chosen = best_index(session) if not more else len(session.shown) - len(paths)


def forget(session: Session) -> None:
    """Drop the last results and their files."""
    if session.folder is not None:
        session.folder.cleanup()
    session.results, session.shown, session.folder, session.chosen = [], [], None, 0


def best_index(session: Session) -> int:
    scores = [item.score if item.score is not None else float("-inf") for item in session.shown]
    return max(range(len(scores)), key=scores.__getitem__) if scores else 0


def order(session: Session) -> list[int]:
    """The gallery's pictures by their place in `session.shown`."""
    indices = range(len(session.shown))
    if not session.best_first:
        return list(indices)
    return sorted(indices, key=lambda index: -(session.shown[index].score or 0.0))


def show(session: Session) -> tuple[Any, Any, Any, str]:
    """The results card, the gallery, the comparison and the line beneath."""
    if not session.shown:
        return gr.update(visible=False), gr.update(value=[]), gr.update(value=None), ""
    best = best_index(session)
    items = []
    for index in order(session):
        item = session.shown[index]
        label = f"seed {item.seed}" + ("" if item.score is None else f" · CLIP {item.score:.3f}")
        items.append((str(item.path), label + (" · best" if index == best and item.score is not None else "")))
    return (
        gr.update(visible=True),
        gr.update(value=items, selected_index=order(session).index(session.chosen)),
        comparison(session),
        _report(session),
    )


def comparison(session: Session) -> Any:
    """The photo, cropped as the model saw it, against the chosen result."""
    image, edit = session.shown[session.chosen].image, session.results[0].edit
    photo = fit_square(edit.object_image.size, image.width, edit.object_mask).image(edit.object_image)
    return gr.update(value=(photo, image))


def _report(session: Session) -> str:
    first = session.results[0]
    parts = [escape(first.edit.prompt)]
    if first.timings:
        parts.append(f"{duration(first.timings.get('total', 0))} with {escape(Path(first.model).name)}")
    warnings = "".join(f"<br>{escape(warning)}" for warning in first.warnings)
    item = session.shown[session.chosen]
    return f'<p class="ld-hint">Seed {item.seed} against the photo · {" · ".join(parts)}{warnings}</p>'


def _done(result: Any) -> str:
    reused = [STAGES[stage].lower() for stage in result.reused]
    kept = f" {', '.join(reused).capitalize()}: kept from before." if reused else ""
    return f'<p class="ld-plan ld-ready"><b>Done</b> in {duration(result.timings["total"])}.{kept}</p>'
