"""The page's components, in the order a person reads them: layers, words, dials, run, results."""

from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.methods.options import LABELS
from layerdiffusion.settings import Setting, Settings
from layerdiffusion.ui import presets
from layerdiffusion.ui.bundle import OTHERS
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.board import clicks_board, place_board
from layerdiffusion.ui.widgets.showcase import examples_strip, slides

STATE_SECONDS = 3600  # a closed tab's pictures are forgotten after this
TAGLINE = "Change what the subject does, and where it is, in one go."


def build(defaults: Settings) -> SimpleNamespace:
    """All components, by name; to be called inside a `gr.Blocks`."""
    page = SimpleNamespace()
    page.state = gr.State(Session(), time_to_live=STATE_SECONDS)
    page.timer = gr.Timer(0.7)
    _header(page)
    page.examples = examples_strip()
    page.slides = slides()
    with gr.Row(elem_id="layers", equal_height=True, elem_classes=["ld-row"]):
        _photo(page)
        _background(page)
        _together(page)
    with gr.Row(elem_id="work", equal_height=True, elem_classes=["ld-row"]):
        _words(page, defaults)
        _dials(page, defaults)
    _results(page)
    page.words = [page.prompt, page.object_prompt, page.background_prompt]
    page.dials = [*page.dial.values()]
    page.inputs = [page.state, *page.words, page.background, page.swap, *page.dials]
    return page


def heading(number: int | None, title: str, hint: str) -> gr.HTML:
    mark = f'<span class="ld-number">{number}</span>' if number else '<span class="ld-number ld-plain">+</span>'
    return gr.HTML(f'<h2>{mark}{title}</h2><p class="ld-hint">{hint}</p>', elem_classes=["ld-heading"])


def _header(page: SimpleNamespace) -> None:
    with gr.Row(elem_id="top", elem_classes=["ld-top"]):
        gr.HTML(f"<h1>Layer<b>Diffusion</b></h1><p>{TAGLINE}</p>", elem_classes=["ld-brand"])
        page.badge = gr.HTML("", elem_id="badge")
        page.restore = gr.UploadButton(
            "Open a saved edit", type="binary", size="sm", elem_id="restore", file_types=[".json", ".zip", ".png"]
        )
        page.present = gr.Button("Present", size="sm", elem_id="present")
        page.shade = gr.Button("Light / dark", size="sm", elem_id="shade")
    page.notice = gr.HTML("", elem_id="notice")


def _uploads(page: SimpleNamespace, name: str) -> None:
    """The file inputs that a board's buttons open."""
    for kind, id in (("picture", f"{name}-upload"), ("mask", f"{name}-mask-upload")):
        button = gr.UploadButton(kind, type="binary", file_types=["image"], elem_id=id, visible="hidden")
        setattr(page, id.replace("-", "_"), button)


def _photo(page: SimpleNamespace) -> None:
    with gr.Column(elem_classes=["ld-card"], min_width=300):
        heading(1, "Photo", "Whose subject is kept. Click on it; right click takes away.")
        page.photo_board = clicks_board(
            "photo", "the subject", "Drop a photo here", "Click on the subject of the photo"
        )
        _uploads(page, "photo")


def _background(page: SimpleNamespace) -> None:
    with gr.Column(elem_classes=["ld-card"], min_width=300):
        heading(2, "Background", "Where the subject will be.")
        page.background = gr.Radio(
            [("Keep the photo's", "keep"), ("From a picture", "reference"), ("Paint one", "generate")],
            value="keep",
            label="Background",
            show_label=False,
            container=False,
            elem_id="background",
        )
        with gr.Group(visible=True, elem_classes=["ld-panel"]) as page.keep_panel:
            page.keep_view = gr.HTML(elem_id="keep-view", value=EMPTY_KEEP)
        with gr.Group(visible=False, elem_classes=["ld-panel"]) as page.reference_panel:
            page.reference_board = clicks_board(
                "reference",
                "the reference's own subject",
                "Drop a picture of the place here",
                "Click on what does not belong to the background",
            )
            _uploads(page, "reference")
            page.swap = gr.Checkbox(
                False,
                label="Swap: subject from this picture, background from the photo",
                container=False,
                elem_id="swap",
            )
        with gr.Group(visible=False, elem_classes=["ld-panel"]) as page.generate_panel:
            page.backgrounds = _gallery("Backgrounds to choose from", elem_id="backgrounds")
            page.paint = gr.Button("Paint backgrounds", elem_id="paint")
            page.paint_cancel = gr.Button("Cancel", variant="stop", elem_id="paint-cancel", visible=False)
            page.paint_note = gr.HTML(
                '<p class="ld-hint">Painted from the background’s words by the untouched model; then pick one.</p>',
                elem_id="paint-note",
            )


EMPTY_KEEP = (
    '<div class="ld-view ld-view-empty"><p>The photo’s own scene stays.<br>Its subject is painted out behind.</p></div>'
)


def _together(page: SimpleNamespace) -> None:
    with gr.Column(elem_classes=["ld-card"], min_width=300):
        heading(3, "Together", "What the model will learn from. Drag the subject to place it.")
        page.place_board = place_board()


def _words(page: SimpleNamespace, defaults: Settings) -> None:
    with gr.Column(elem_classes=["ld-card"], min_width=320, scale=5):
        heading(4, "Words", "Say what the picture should show; the split follows as you type.")
        page.prompt = gr.Textbox(
            label="The whole picture",
            placeholder="a dog jumping on the beach",
            lines=1,
            max_lines=3,
            max_length=1000,
            elem_id="prompt",
        )
        with gr.Row(elem_classes=["ld-split"]):
            page.object_prompt = gr.Textbox(
                label="Subject", placeholder="a dog jumping", max_length=1000, min_width=140, elem_id="object-prompt"
            )
            page.background_prompt = gr.Textbox(
                label="Background", placeholder="on the beach", max_length=1000, min_width=140,
                elem_id="background-prompt",
            )  # fmt: skip
        page.count = gr.Slider(
            1,
            presets.MOST_SEEDS,
            value=len(defaults.seeds),
            step=1,
            label="Pictures",
            info=presets.SEEDS_HINT,
            elem_id="dial-count",
        )
        page.plan = gr.HTML(elem_id="plan", value="")
        with gr.Row(elem_classes=["ld-run"]):
            page.run = gr.Button("Run", variant="primary", elem_id="run", scale=3)
            page.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", visible=False, scale=3)
        page.progress = gr.HTML(elem_id="progress", value="")


def _dials(page: SimpleNamespace, defaults: Settings) -> None:
    with gr.Column(elem_classes=["ld-card"], min_width=320, scale=7):
        heading(5, "Dials", "The defaults are the model's own; change one thing at a time.")
        with gr.Row(elem_classes=["ld-presets"]):
            page.presets = {
                name: gr.Button(name, size="sm", elem_id=f"preset-{name.split()[0].lower()}", min_width=90)
                for name in presets.PRESETS
            }
        page.dial = {"count": page.count}
        with gr.Row(elem_classes=["ld-dials"]):
            for dial in presets.DIALS:
                page.dial[dial.name] = _slider(dial, defaults)
        with gr.Accordion("Advanced", open=False, elem_id="advanced"), gr.Row(elem_classes=["ld-dials"]):
            for dial in presets.ADVANCED:
                page.dial[dial.name] = _number(dial, defaults)
            for dial in presets.WORDS:
                page.dial[dial.name] = gr.Dropdown(
                    [(label, value) for value, label in dial.choices.items()],
                    value=getattr(defaults, dial.name),
                    label=dial.label,
                    info=dial.help,
                    min_width=170,
                    elem_id=f"dial-{dial.name.replace('_', '-')}",
                )
            page.dial["first"] = gr.Number(
                defaults.seeds[0],
                label="First seed",
                info="The first picture's number.",
                precision=0,
                minimum=0,
                maximum=2**32 - 20,
                min_width=170,
                elem_id="dial-first",
            )
            page.dial["exact"] = gr.Textbox(
                "",
                label="Exact seeds",
                info="As in 3, 17; in place of the two above.",
                min_width=170,
                max_length=200,
                elem_id="dial-exact",
            )


def _slider(dial: Setting, defaults: Settings) -> gr.Slider:
    return gr.Slider(
        dial.limit.low,
        dial.slider_high or dial.limit.high,
        value=getattr(defaults, dial.name),
        step=1 if dial.limit.whole else dial.limit.step,
        label=dial.label,
        info=dial.help,
        min_width=170,
        elem_id=f"dial-{dial.name.replace('_', '-')}",
    )


def _number(dial: Setting, defaults: Settings) -> gr.Number:
    return gr.Number(
        getattr(defaults, dial.name),
        label=dial.label,
        info=dial.help,
        precision=0 if dial.limit.whole else None,
        minimum=dial.limit.low,
        maximum=dial.slider_high or dial.limit.high,
        min_width=170,
        elem_id=f"dial-{dial.name.replace('_', '-')}",
    )


def _results(page: SimpleNamespace) -> None:
    with gr.Column(elem_id="results", elem_classes=["ld-card"], visible=False) as page.results:
        heading(6, "Results", "Click on a picture to compare it with the photo.")
        page.gallery = _gallery("Results", elem_id="gallery")
        page.others_rows = []
        for name in OTHERS:
            with gr.Column(visible=False, elem_id=f"row-{name}") as row:
                gr.HTML(f"<h3>{LABELS[name]}</h3>", elem_classes=["ld-heading"])
                gallery = _gallery(LABELS[name], elem_classes=["ld-gallery"])
            page.others_rows += [row, gallery]
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                page.compare = gr.ImageSlider(
                    label="Photo and result",
                    show_label=False,
                    format="png",
                    interactive=False,
                    max_height=460,
                    buttons=["fullscreen"],
                    elem_id="compare",
                )
            with gr.Column(scale=3, min_width=300):
                page.report = gr.HTML(elem_id="report")
                page.best = gr.Checkbox(False, label="Best first", container=False, elem_id="best", min_width=110)
                with gr.Row(elem_classes=["ld-actions"]):
                    page.more = gr.Button("More seeds", size="sm", elem_id="more", min_width=110)
                    page.as_photo = gr.Button("Use as photo", size="sm", elem_id="as-photo", min_width=110)
                    page.as_reference = gr.Button("Use as reference", size="sm", elem_id="as-reference", min_width=130)
                    page.zip = gr.Button("Download all", size="sm", elem_id="zip", min_width=110)
                    page.zip_file = gr.DownloadButton("zip", elem_id="zip-file", visible="hidden")
                _others(page)


def _gallery(label: str, **names: Any) -> gr.Gallery:
    """Pictures side by side, to be clicked and not opened; how many in a row, `page.css` says."""
    return gr.Gallery(
        label=label,
        show_label=False,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=False,
        interactive=False,
        buttons=[],
        **names,
    )


def _others(page: SimpleNamespace) -> None:
    """Other methods on the same photo, words and seeds, on request."""
    with gr.Accordion("Compare with other methods", open=False, elem_id="others"):
        gr.HTML('<p class="ld-hint">The same photo, words and seeds on the same model, each as its authors run it.</p>')
        with gr.Row(elem_classes=["ld-actions"]):
            page.others_methods = gr.CheckboxGroup(
                [(LABELS[name], name) for name in OTHERS],
                value=list(OTHERS),
                label="Methods",
                show_label=False,
                container=False,
                elem_id="others-methods",
            )
            page.others_run = gr.Button("Compare", size="sm", elem_id="others-run", min_width=110)
            page.others_cancel = gr.Button(
                "Cancel", size="sm", variant="stop", elem_id="others-cancel", visible=False, min_width=110
            )
        page.others_progress = gr.HTML(elem_id="others-progress", value="")
