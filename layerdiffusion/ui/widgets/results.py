"""What is finished: the card of results, the strips of examples and of the tab's edits, the slides to present."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.baselines import BASELINES, PAPERS
from layerdiffusion.images.layers import object_fit
from layerdiffusion.ui.examples import Example, examples
from layerdiffusion.ui.session import Session, best_index, current, file_of, order
from layerdiffusion.ui.widgets.drawing import (
    duration,
    escape,
    heading,
    heat_map,
    picture_gallery,
    picture_url,
    static_text,
    thumbnail_url,
)
from layerdiffusion.ui.widgets.progress import JobControls

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
CONTENTS_HINT = (
    '<p class="ld-hint">With the recipe, each picture carries what was used of the photo, the reference and their '
    "masks, and opens here again; without it, a picture and nothing more. The layers, and each result's subject cut "
    "out, come as transparent PNGs, and together as layers.psd (Photoshop) and layers.ora (Krita, GIMP).</p>"
)
BASELINES_HINT = "The same photo, words and seeds on the same model, each as its authors run it."


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
    methods: gr.CheckboxGroup  # the baselines to compare with
    comparison: JobControls
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
                gr.HTML(CONTENTS_HINT, elem_id="contents-hint")
                methods, job = _baselines()
    buttons = more, as_photo, as_reference, pack, keep, zip_file, contents
    ids = gr.BrowserState([], storage_key="layerdiffusion-edits")
    return ResultsCard(
        card, gallery, baseline_rows, slider, report_line, best, changes, *buttons, methods, job, edits, ids
    )


def method_choices(names: Iterable[str]) -> list[tuple[str, str]]:
    """The baselines of these names as a checkbox group has them."""
    return [(BASELINES[name], name) for name in names]


def _baselines() -> tuple[gr.CheckboxGroup, JobControls]:
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
    return methods, JobControls(start, cancel, line)


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


OPEN = """
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-name]");
  if (card) trigger("open", { name: card.dataset.name });
});"""


def strips() -> tuple[gr.HTML, gr.HTML]:
    """The tab's own edits, none yet, and the examples, a card for each; event `open` with the `name` of one."""
    with gr.Row(elem_id="showcase"):
        return (
            gr.HTML("", js_on_load=OPEN, apply_default_css=False, elem_id="edits"),
            gr.HTML(examples_strip(), js_on_load=OPEN, apply_default_css=False, elem_id="examples"),
        )


def examples_strip() -> str:
    cards = (
        _card(one.name, one.title, {"before": thumbnail_url(one.photo), "after": thumbnail_url(one.best)})
        for one in examples()
    )
    return _strip("Examples", cards)


def edits_strip(edits: Sequence[Any]) -> str:
    """The last of the `SavedEdit`s first."""
    return _strip("Your edits", (_card(edit.id, edit.prompt, {"result": edit.thumbnail}) for edit in reversed(edits)))


def _strip(label: str, cards: Iterable[str]) -> str:
    found = "".join(cards)
    return f'<nav class="ld-strip" aria-label="{label}">{found}</nav>' if found else ""


def slides() -> gr.HTML:
    """The examples one by one over the whole window, walked with the arrow keys; event `open`."""
    found = examples()
    return gr.HTML(
        '<div class="ld-slides" hidden role="dialog" aria-modal="true" aria-label="Presentation">'
        + "".join(_slide(example, index, len(found)) for index, example in enumerate(found))
        + '<button type="button" class="ld-slide-close" data-step="close" aria-label="Leave (Escape)">×</button>'
        '<button type="button" class="ld-slide-back" data-step="-1" aria-label="Back (left arrow)">‹</button>'
        '<button type="button" class="ld-slide-on" data-step="1" aria-label="On (right arrow)">›</button></div>',
        js_on_load=static_text("slides.js"),
        apply_default_css=False,
        elem_id="slides",
    )


def _card(name: str, title: str, pictures: dict[str, str]) -> str:
    """A card that opens what has this name; `pictures` are data URLs by what they show."""
    images = "".join(f'<img src="{url}" alt="{what}">' for what, url in pictures.items())
    return (
        f'<button type="button" class="ld-example" data-name="{escape(name)}" title="{escape(title)}">'
        f'<span class="ld-pair">{images}</span><span>{escape(title)}</span></button>'
    )


def _slide(example: Example, index: int, count: int) -> str:
    before = _figure(picture_url(example.photo), "Photo")
    place = example.background
    if place is not None:
        before += _figure(picture_url(place), "Background")
    return (
        f'<section class="ld-slide" data-name="{escape(example.name)}" hidden>'
        f'<p class="ld-slide-kind">{escape(example.title)} <span>{index + 1} / {count}</span></p>'
        f"<h2>“{escape(example.prompt)}”</h2>"
        f'<div class="ld-slide-pictures"><div class="ld-slide-before">{before}</div>'
        f'<span class="ld-slide-arrow" aria-hidden="true">→</span>'
        f"{_figure(picture_url(example.best), 'Result')}</div>"
        f'<p class="ld-slide-lesson">{escape(example.lesson)}</p>'
        f'<button type="button" class="ld-soft" data-open="{escape(example.name)}">Try it</button></section>'
    )


def _figure(url: str, caption: str) -> str:
    return f'<figure><img src="{url}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
