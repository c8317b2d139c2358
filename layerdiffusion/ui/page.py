"""The page's components, in the order a person reads them: layers, words, dials, run, results."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from layerdiffusion.settings import Settings
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.board import MarkedBoard
from layerdiffusion.ui.widgets.cards import (
    BackgroundCard,
    Header,
    WordsCard,
    background_card,
    header,
    photo_card,
    together_card,
    words_card,
)
from layerdiffusion.ui.widgets.dials import DialsCard, dials_card, seed_count
from layerdiffusion.ui.widgets.results import ResultsCard, results_card
from layerdiffusion.ui.widgets.showcase import slides, strips


@dataclass(frozen=True)
class Page:
    """The page's components, by what they are for."""

    state: gr.State  # the tab's `Session`
    inspection: gr.State  # a new number asks for what `handlers.inspection` does
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
