"""The results of a tab: kept as files, and shown as galleries, with those of other methods beneath."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.images.geometry import fit_square
from layerdiffusion.ui.backend import Device
from layerdiffusion.ui.bundle import OTHERS, save_compared, save_pictures
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.drawing import duration, escape


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
    session.others = {}


def keep(session: Session, name: str, result: Any, device: Device, scores: Any = None) -> None:
    """Add another method's pictures to its row, scored, as files that say how they were made."""
    if scores is None:
        scores = device.scores(result.images, result.edit.prompt) or [None] * len(result.images)
    paths = save_compared(result, name, Path(session.folder.name))
    row = session.others.setdefault(name, [])
    for seed, image, score, path in zip(result.seeds, result.images, scores, paths, strict=True):
        row.append(SimpleNamespace(seed=seed, image=image, score=score, path=path))


def best_index(session: Session) -> int:
    scores = [item.score if item.score is not None else float("-inf") for item in session.shown]
    return max(range(len(scores)), key=scores.__getitem__) if scores else 0


def order(session: Session) -> list[int]:
    """The gallery's pictures by their place in `session.shown`."""
    indices = range(len(session.shown))
    if not session.best_first:
        return list(indices)
    return sorted(indices, key=lambda index: -(session.shown[index].score or 0.0))


def show(session: Session) -> tuple[Any, ...]:
    """The results card, the gallery, the comparison, the line beneath, and the other methods' `rows`."""
    if not session.shown:
        return gr.update(visible=False), gr.update(value=[]), gr.update(value=None), "", *rows(session)
    best = best_index(session)
    items = []
    for index in order(session):
        item = session.shown[index]
        items.append((str(item.path), _label(item) + (" · best" if index == best and item.score is not None else "")))
    return (
        gr.update(visible=True),
        gr.update(value=items, selected_index=order(session).index(session.chosen)),
        comparison(session),
        report(session),
        *rows(session),
    )


def rows(session: Session) -> list[Any]:
    """For each other method its row and the gallery in it."""
    updates: list[Any] = []
    for name in OTHERS:
        row = session.others.get(name, ())
        items = [(str(item.path), _label(item)) for item in row]
        updates += [gr.update(visible=bool(row)), gr.update(value=items)]
    return updates


def _label(item: SimpleNamespace) -> str:
    return f"seed {item.seed}" + ("" if item.score is None else f" · CLIP {item.score:.3f}")


def comparison(session: Session) -> Any:
    """The photo, cropped as the model saw it, against the chosen result."""
    image, edit = session.shown[session.chosen].image, session.results[0].edit
    photo = fit_square(edit.object_image.size, image.width, edit.object_mask).image(edit.object_image)
    return gr.update(value=(photo, image))


def report(session: Session) -> str:
    first = session.results[0]
    parts = [escape(first.edit.prompt)]
    if first.timings:
        parts.append(f"{duration(first.timings.get('total', 0))} with {escape(Path(first.model).name)}")
    warnings = "".join(f"<br>{escape(warning)}" for warning in first.warnings)
    item = session.shown[session.chosen]
    return f'<p class="ld-hint">Seed {item.seed} against the photo · {" · ".join(parts)}{warnings}</p>'
