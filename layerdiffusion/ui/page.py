"""The page's components, in the order a person reads them: layers, words, dials, run, results."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from layerdiffusion.settings import Settings
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.spaces import with_login
from layerdiffusion.ui.widgets.board import MarkedBoard, marked_board, place_board
from layerdiffusion.ui.widgets.dials import DialsCard, dials_card, seed_count
from layerdiffusion.ui.widgets.drawing import heading, picture_gallery
from layerdiffusion.ui.widgets.progress import JobControls
from layerdiffusion.ui.widgets.results import ResultsCard, results_card, slides, strips

TAGLINE = "Change what the subject does, and where it is, in one go."
EMPTY_SCENE = (
    '<div class="ld-view ld-view-empty"><p>The photo’s own scene stays.<br>The gap behind its subject is '
    "inpainted.</p></div>"
)
GENERATE_HINT = (
    '<p class="ld-hint">Generated from the background’s words by the model as it was loaded; then pick one.</p>'
)


@dataclass(frozen=True)
class Header:
    badge: gr.HTML
    new: gr.Button
    restore: gr.UploadButton
    notice: gr.HTML
    laptop: JobControls | None  # switches to the model for photographs; in sight beneath a notice


@dataclass(frozen=True)
class BackgroundCard:
    """Where the background comes from: each mode has a panel."""

    mode: gr.Radio
    panels: dict[str, gr.Group]  # by mode
    scene: gr.HTML  # of the photo, for "keep"
    reference: MarkedBoard
    swap: gr.Checkbox
    gallery: gr.Gallery  # generated ones
    job: JobControls


@dataclass(frozen=True)
class WordsCard:
    prompt: gr.Textbox
    object_prompt: gr.Textbox
    background_prompt: gr.Textbox
    seed_count: gr.Slider
    plan: gr.HTML
    job: JobControls

    @property
    def texts(self) -> list[gr.Textbox]:
        return [self.prompt, self.object_prompt, self.background_prompt]


def header(downloads: bool = False) -> Header:
    with gr.Row(elem_id="top", elem_classes=["ld-top"]):
        gr.HTML(f"<h1>Layer<b>Diffusion</b></h1><p>{TAGLINE}</p>", elem_classes=["ld-brand"])
        badge = gr.HTML("", elem_id="badge")
        new = gr.Button("New edit", size="sm", elem_id="new")
        restore = gr.UploadButton(
            "Open a saved edit",
            type="binary",
            size="sm",
            elem_id="restore",
            file_types=[".json", ".zip", ".png", ".safetensors"],
        )
        if with_login():
            gr.LoginButton(size="sm", elem_id="login")
        gr.Button("Present", size="sm", elem_id="present")
        gr.Button("Light / dark", size="sm", elem_id="shade")
    notice, laptop = gr.HTML("", elem_id="notice"), None
    if downloads:
        with gr.Row(elem_id="laptop", elem_classes=["ld-run"]):
            laptop = JobControls(
                gr.Button("Download it and switch", size="sm", elem_id="laptop-run", scale=0, min_width=190),
                gr.Button("Cancel", size="sm", variant="stop", elem_id="laptop-cancel", visible=False, scale=0),
                gr.HTML("", elem_id="laptop-progress"),
            )
    return Header(badge, new, restore, notice, laptop)


def photo_card() -> MarkedBoard:
    with gr.Column(elem_classes=["ld-card"], min_width=300):
        heading(1, "Photo", "Whose subject is kept. Click on it, or name it; right click takes away.")
        return marked_board("photo", "the subject", "Drop a photo here", "Click on the subject of the photo", "a dog")


def background_card() -> BackgroundCard:
    with gr.Column(elem_classes=["ld-card"], min_width=300):
        heading(2, "Background", "Where the subject will be.")
        mode = gr.Radio(
            [("Keep the photo's", "keep"), ("From a picture", "reference"), ("Generate one", "generate")],
            value="keep",
            label="Background",
            show_label=False,
            container=False,
            elem_id="background",
        )
        with gr.Group(visible=True, elem_classes=["ld-panel"]) as keep:
            scene = gr.HTML(elem_id="keep-view", value=EMPTY_SCENE)
        with gr.Group(visible=False, elem_classes=["ld-panel"]) as from_picture:
            reference = marked_board(
                "reference",
                "the reference's own subject",
                "Drop a picture of the place here",
                "Click on what does not belong to the background",
                "what to leave out",
            )
            swap = gr.Checkbox(
                False,
                label="Swap: subject from this picture, background from the photo",
                container=False,
                elem_id="swap",
            )
        with gr.Group(visible=False, elem_classes=["ld-panel"]) as generate:
            gallery = picture_gallery("Backgrounds to choose from", elem_id="backgrounds")
            job = JobControls(
                gr.Button("Generate backgrounds", elem_id="generate-run"),
                gr.Button("Cancel", variant="stop", elem_id="generate-cancel", visible=False),
                gr.HTML(GENERATE_HINT, elem_id="generate-note"),
            )
    panels = {"keep": keep, "reference": from_picture, "generate": generate}
    return BackgroundCard(mode, panels, scene, reference, swap, gallery, job)


def together_card() -> gr.HTML:
    with gr.Column(elem_classes=["ld-card"], min_width=300):
        heading(3, "Together", "What the model will learn from. Drag the subject to place it.")
        return place_board()


def words_card(seed_count: gr.Slider) -> WordsCard:
    """The prompt and its two parts, how many pictures, and Run; `seed_count` is rendered here."""
    with gr.Column(elem_classes=["ld-card"], min_width=320, scale=5):
        heading(4, "Words", "Say what the picture should show; the split follows as you type.")
        prompt = gr.Textbox(
            label="The whole picture",
            placeholder="a dog jumping on the beach",
            lines=1,
            max_lines=3,
            max_length=1000,
            elem_id="prompt",
        )
        with gr.Row(elem_classes=["ld-split"]):
            object_prompt = _part("Subject", "a dog jumping", "object-prompt")
            background_prompt = _part("Background", "on the beach", "background-prompt")
        seed_count.render()
        plan = gr.HTML(elem_id="plan", value="")
        with gr.Row(elem_classes=["ld-run"]):
            start = gr.Button("Run", variant="primary", elem_id="run", scale=3)
            cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", visible=False, scale=3)
        line = gr.HTML(elem_id="progress", value="")
    job = JobControls(start, cancel, line)
    return WordsCard(prompt, object_prompt, background_prompt, seed_count, plan, job)


def _part(label: str, example: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder=example, max_length=1000, min_width=140, elem_id=elem_id)


@dataclass(frozen=True)
class Page:
    """The page's components, by what they are for."""

    state: gr.State  # the tab's `Session`
    inspection: gr.State  # a new number asks for what `handlers.model.inspect` does
    timer: gr.Timer  # runs until the model is loaded
    header: Header
    examples: gr.HTML
    slides: gr.HTML
    photo: MarkedBoard
    background: BackgroundCard
    place_board: gr.HTML
    words: WordsCard
    dials: DialsCard
    results: ResultsCard

    @property
    def boards(self) -> dict[str, MarkedBoard]:
        """The boards of pictures, by the session's attribute that they show."""
        return {"photo": self.photo, "reference": self.background.reference}

    @property
    def inputs(self) -> list[Any]:
        """What an edit is made of: the session, three texts, the background's mode, the swap, and the dials."""
        background = self.background
        return [self.state, *self.words.texts, background.mode, background.swap, *self.dials.components]


def page_of(defaults: Settings, downloads: bool = False) -> Page:
    """All components; to be called inside a `gr.Blocks`. With `downloads`, visitors may switch the model."""
    state, inspection, timer = gr.State(Session()), gr.State(0), gr.Timer(0.7)
    top, (edits, examples), presentation = header(downloads), strips(), slides()
    with gr.Row(elem_id="layers", equal_height=True, elem_classes=["ld-row"]):
        photo, background, place_board = photo_card(), background_card(), together_card()
    with gr.Row(elem_id="work", equal_height=True, elem_classes=["ld-row"]):
        words = words_card(seed_count(defaults))
        dials = dials_card(defaults, words.seed_count)
    return Page(
        state=state,
        inspection=inspection,
        timer=timer,
        header=top,
        examples=examples,
        slides=presentation,
        photo=photo,
        background=background,
        place_board=place_board,
        words=words,
        dials=dials,
        results=results_card(edits),
    )
