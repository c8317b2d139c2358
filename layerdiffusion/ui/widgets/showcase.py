"""The finished examples on the page: a strip to open them from, and slides to present them with."""

import gradio as gr

from layerdiffusion.ui.examples import Example, examples
from layerdiffusion.ui.widgets.drawing import escape, picture_url
from layerdiffusion.ui.widgets.static import static_text


def examples_strip() -> gr.HTML:
    """A card for each example; event `open` with its `name`."""
    cards = "".join(_card(example) for example in examples())
    return gr.HTML(
        f'<nav class="ld-strip" aria-label="Examples">{cards}</nav>',
        js_on_load="""
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-name]");
  if (card) trigger("open", { name: card.dataset.name });
});""",
        apply_default_css=False,
        visible=bool(cards),
        elem_id="examples",
    )


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


def _card(example: Example) -> str:
    return (
        f'<button type="button" class="ld-example" data-name="{escape(example.name)}">'
        f'<span class="ld-pair"><img src="{example.thumbnail(example.photo)}" alt="before">'
        f'<img src="{example.thumbnail(example.best)}" alt="after"></span>'
        f"<span>{escape(example.title)}</span></button>"
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
