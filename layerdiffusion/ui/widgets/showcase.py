"""The finished examples on the page: a strip to open them from, and slides to present them with."""

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from layerdiffusion.ui.examples import Example, examples
from layerdiffusion.ui.widgets.drawing import escape, picture_url, static_text, thumbnail_url

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
