"""The results card, and the results of a tab: files on disk, shown as galleries, those of the baselines beneath."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.baselines import BASELINES, PAPERS
from layerdiffusion.images.layers import object_fit
from layerdiffusion.scoring import Score
from layerdiffusion.ui.bundle import save_compared, save_pictures
from layerdiffusion.ui.session import Session, current, drop
from layerdiffusion.ui.widgets.drawing import duration, escape, heading, heat_map, picture_gallery
from layerdiffusion.ui.widgets.progress import JobControls
from layerdiffusion.ui.widgets.showcase import edits_strip

RECIPE, LAYERS, DETAIL = "recipe", "layers", "detail"  # what a download may hold beside the pictures
BARS = {  # of a result: what each is
    "words": "CLIP: how well the picture fits the whole prompt",
    "subject": "CLIP: how like the photo's subject the result's is, both cut out",
    "place": "How like the wanted background the picture is, off the subjects",
    "changed": "Mean difference from the background outside both subjects, of the full range of a colour",
}
LABELS = {"changed": "changed outside"}
CHANGES = (
    "against what changed outside both subjects, from black, nothing, to yellow, a quarter of a colour’s range or more"
)
BASELINES_HINT = "The same photo, words and seeds on the same model, each as its authors run it."


@dataclass(frozen=True)
class BaselinesCard:
    methods: gr.CheckboxGroup
    job: JobControls


@dataclass(frozen=True)
class ResultsCard:
    card: gr.Column
    gallery: gr.Gallery
    rows: list[Any]  # of each baseline: its row, and the gallery in it
    slider: gr.ImageSlider
    report: gr.HTML
    best: gr.Checkbox
    changes: gr.Checkbox
    more: gr.Button
    as_photo: gr.Button
    as_reference: gr.Button
    zip: gr.Button
    keep: gr.Button
    zip_file: gr.DownloadButton
    contents: gr.CheckboxGroup  # what goes into the zip
    contents_hint: gr.HTML
    baselines: BaselinesCard
    edits: gr.HTML  # the tab's own, to open again; event `open` with the `name` of one
    ids: gr.BrowserState  # of these edits

    @property
    def shown(self) -> list[Any]:
        """The components that `show` has a value for."""
        return [self.card, self.gallery, self.slider, self.report, self.changes, *self.rows, self.edits, self.ids]


def results_card(edits: gr.HTML) -> ResultsCard:
    """Hidden until there is a result; `edits` stands at the page's top."""
    with gr.Column(elem_id="results", elem_classes=["ld-card"], visible=False) as card:
        heading(6, "Results", "Click on a picture to compare it with the photo.")
        gallery = picture_gallery("Results", elem_id="gallery")
        baseline_rows = []
        for name in BASELINES:
            with gr.Column(visible=False, elem_id=f"row-{name}") as row:
                gr.HTML(f"<h3>{BASELINES[name]}</h3>", elem_classes=["ld-heading"])
                baseline_rows += [row, picture_gallery(BASELINES[name], elem_classes=["ld-gallery"])]
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                slider = gr.ImageSlider(
                    label="Photo and result",
                    show_label=False,
                    format="png",
                    interactive=False,
                    max_height=460,
                    buttons=["fullscreen"],
                    elem_id="compare",
                )
            with gr.Column(scale=3, min_width=300):
                report_line = gr.HTML(elem_id="report")
                with gr.Row(elem_classes=["ld-actions"]):
                    best = gr.Checkbox(False, label="Best first", container=False, elem_id="best", min_width=110)
                    changes = gr.Checkbox(
                        False, label="Show what changed outside", container=False, elem_id="changes", min_width=110
                    )
                with gr.Row(elem_classes=["ld-actions"]):
                    more, as_photo, as_reference, pack, keep = (
                        gr.Button(label, size="sm", elem_id=elem_id, min_width=width)
                        for label, elem_id, width in (
                            ("More seeds", "more", 110),
                            ("Use as photo", "as-photo", 110),
                            ("Use as reference", "as-reference", 130),
                            ("Download all", "zip", 110),
                            ("Keep subject", "keep", 110),
                        )
                    )
                    zip_file = gr.DownloadButton("zip", elem_id="zip-file", visible="hidden")
                contents = gr.CheckboxGroup(
                    [("Recipe, with the photo", RECIPE), ("Layers", LAYERS), ("Background's own detail", DETAIL)],
                    value=[RECIPE, LAYERS],
                    label="In the download",
                    show_label=False,
                    container=False,
                    elem_id="contents",
                )
                hint = gr.HTML(contents_hint([RECIPE, LAYERS]), elem_id="contents-hint")
                baselines = _baselines()
    buttons = more, as_photo, as_reference, pack, keep, zip_file, contents, hint
    ids = gr.BrowserState([], storage_key="layerdiffusion-edits")
    return ResultsCard(
        card, gallery, baseline_rows, slider, report_line, best, changes, *buttons, baselines, edits, ids
    )


def contents_hint(contents: list[str]) -> str:
    """What the downloaded files carry."""
    carried = (
        "Each picture carries the recipe, and with it what was used of the photo, the reference and their "
        "masks: it opens here again."
        if RECIPE in contents
        else "The pictures carry nothing but themselves, and can't be opened here again as an edit."
    )
    layers = (
        " The layers, and each result's subject cut out, come as transparent PNGs, and together as layers.psd "
        "(Photoshop) and layers.ora (Krita, GIMP)."
        if LAYERS in contents
        else ""
    )
    detail = " Where a picture shows the background, it has that one's own pixels." if DETAIL in contents else ""
    return f'<p class="ld-hint">{carried}{layers}{detail}</p>'


def method_choices(names: Iterable[str]) -> list[tuple[str, str]]:
    """The baselines of these names as a checkbox group has them."""
    return [(BASELINES[name], name) for name in names]


def _baselines() -> BaselinesCard:
    """The baselines on the same photo, words and seeds, on request."""
    with gr.Accordion("Compare with other methods", open=False, elem_id="baselines"):
        gr.HTML(f'<p class="ld-hint">{BASELINES_HINT}</p>')
        with gr.Row(elem_classes=["ld-actions"]):
            methods = gr.CheckboxGroup(
                method_choices(PAPERS),
                value=list(PAPERS),
                label="Methods",
                show_label=False,
                container=False,
                elem_id="baselines-methods",
            )
            looks = {"size": "sm", "min_width": 110}
            start = gr.Button("Compare", elem_id="baselines-run", **looks)
            cancel = gr.Button("Cancel", variant="stop", elem_id="baselines-cancel", visible=False, **looks)
        line = gr.HTML(elem_id="baselines-progress", value="")
    return BaselinesCard(methods, JobControls(start, cancel, line))


def take(
    session: Session,
    result: Any,
    scores: list[Score | None],
    more: bool = False,
    folder: tempfile.TemporaryDirectory | None = None,
) -> None:
    """Keep the result, how well it fits, and its pictures as files that carry their recipe; `more` of the same edit.

    The files go into `folder`, or into a new one.
    """
    if not more or not session.results:
        earlier = session.folder
        session.folder = folder or tempfile.TemporaryDirectory(prefix="layerdiffusion-")
        try:
            items = _items(result, scores, lambda: save_pictures(result, files_folder(session)))
        except BaseException:
            drop(session.folder)
            session.folder = earlier
            raise
        if earlier is not session.folder:
            drop(earlier)
        session.results, session.shown, session.baselines, session.changes = [result], items, {}, False
        session.chosen = best_index(session)
        return
    first = len(session.shown)
    session.shown += _items(result, scores, lambda: save_pictures(result, files_folder(session)))
    session.results.append(result)
    session.chosen, session.changes = first, False


def take_baseline(session: Session, name: str, result: Any, scores: list[Score | None]) -> None:
    """Add a baseline's pictures to its row, as files that say how they were made."""
    items = _items(result, scores, lambda: save_compared(result, name, files_folder(session)))
    session.baselines.setdefault(name, []).extend(items)


def _items(result: Any, scores: list[Score | None], save: Callable[[], list[Path]]) -> list[SimpleNamespace]:
    """The result's pictures with their files, which `save` writes, now and whenever they are gone."""
    found = zip(result.seeds, result.images, scores, save(), strict=True)
    return [
        SimpleNamespace(seed=seed, image=image, score=score, path=path, save=save, change=None)
        for seed, image, score, path in found
    ]


def files_folder(session: Session) -> Path:
    """Where the tab's files are; made again, for this user alone, where somebody emptied the temporary folder."""
    assert session.folder is not None
    folder = Path(session.folder.name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def file_of(item: SimpleNamespace) -> Path:
    """The picture's file, written again if it is gone."""
    if not item.path.is_file():
        item.save()
    return item.path


def unmeasured(session: Session) -> list[SimpleNamespace]:
    """The pictures shown of which it isn't known yet how well they fit, the baselines' among them."""
    rows = [session.shown, *session.baselines.values()]
    return [item for row in rows for item in row if item.score is None or item.score.subject is None]


def forget(session: Session) -> None:
    """Drop the last results, and their files where they are none of the tab's edits."""
    drop(session.folder)
    session.results, session.shown, session.folder, session.chosen = [], [], None, 0
    session.baselines = {}


def _whole(item: SimpleNamespace) -> float:
    """How well the picture fits in all; below everything where that isn't known."""
    return -1.0 if item.score is None else item.score.overall


def best_index(session: Session) -> int:
    return max(range(len(session.shown)), key=lambda index: _whole(session.shown[index]), default=0)


def order(session: Session) -> list[int]:
    """The gallery's pictures by their place in `session.shown`."""
    indices = range(len(session.shown))
    return sorted(indices, key=lambda index: -_whole(session.shown[index])) if session.best_first else list(indices)


def show(session: Session) -> tuple[Any, ...]:
    """The results card, the gallery, the comparison, the lines beneath, whether changes are
    shown, the baselines' `rows`, and the tab's edits."""
    edits = edits_strip(session.edits), [edit.id for edit in session.edits]
    if not session.shown:
        return gr.update(visible=False), gr.update(value=[]), gr.update(value=None), "", False, *rows(session), *edits
    best = best_index(session)
    items = []
    for index in order(session):
        item = session.shown[index]
        items.append(
            (str(file_of(item)), _label(item) + (" · best" if index == best and item.score is not None else ""))
        )
    return (
        gr.update(visible=True),
        gr.update(value=items, selected_index=order(session).index(session.chosen)),
        comparison(session),
        report(session),
        session.changes,
        *rows(session),
        *edits,
    )


def rows(session: Session) -> list[Any]:
    """For each baseline its row and the gallery in it."""
    updates: list[Any] = []
    for name in BASELINES:
        row = session.baselines.get(name, ())
        items = [(str(file_of(item)), _label(item)) for item in row]
        updates += [gr.update(visible=bool(row)), gr.update(value=items)]
    return updates


def _label(item: SimpleNamespace) -> str:
    return f"seed {item.seed}" + ("" if item.score is None else f" · CLIP {item.score.clip_score:.3f}")


def comparison(session: Session) -> Any:
    """The photo, cropped as the model saw it, against the chosen result; or that against what changed in it."""
    item, edit = session.shown[session.chosen], session.results[0].edit
    image = item.image
    if session.changes:
        return gr.update(value=(image, heat_map(image, item.change)))
    photo = object_fit(edit, image.size).image(edit.object_image)
    return gr.update(value=(photo, image))


def report(session: Session) -> str:
    first = session.results[0]
    parts = [escape(first.edit.prompt)]
    if first.timings:
        parts.append(f"{duration(first.timings.get('total', 0))} with {escape(Path(first.model).name)}")
    warnings = "".join(f"<br>{escape(warning)}" for warning in first.warnings)
    item = session.shown[session.chosen]
    saved = current(session)
    unsaved = " data-unsaved" if saved and not saved.downloaded else ""  # page.js asks before it is left
    against = CHANGES if session.changes else "against the photo"
    line = f'<p class="ld-hint"{unsaved}>Seed {item.seed} {against} · {" · ".join(parts)}{warnings}</p>'
    return line + fit_table(session)


def fit_table(session: Session) -> str:
    """What is known of how well each result fits, in the gallery's order: three bars, and the change outside."""
    scores = [item.score for item in session.shown if item.score is not None]
    names = [name for name in BARS if any(getattr(score, name) is not None for score in scores)]
    if not names:
        return ""
    head = "".join(f'<th scope="col" title="{BARS[name]}">{LABELS.get(name, name)}</th>' for name in names)
    lines = ""
    for index in order(session):
        item, chosen = session.shown[index], ' class="ld-chosen"' if index == session.chosen else ""
        cells = "".join(f"<td>{_cell(name, getattr(item.score, name, None))}</td>" for name in names)
        lines += f'<tr{chosen}><th scope="row">seed {item.seed}</th>{cells}</tr>'
    return f'<table class="ld-scores"><thead><tr><td></td>{head}</tr></thead><tbody>{lines}</tbody></table>'


def _cell(name: str, share: float | None) -> str:
    if share is None:
        return "–"
    if name == "changed":
        return f"{100 * share:.1f} %"
    percent = round(100 * share)
    return f'<span class="ld-score" role="img" aria-label="{percent} %"><i style="width:{percent}%"></i></span>'
