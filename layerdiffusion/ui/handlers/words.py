"""The words, which split as one types."""

from typing import Any

import gradio as gr

from layerdiffusion.prompts import split_prompt
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.handlers.events import QUIET
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the words and the dials."""
    words, dials = page.words, page.dials
    # `change` and not `input`, which Gradio leaves out when text is pasted or dictated.
    words.prompt.change(
        friendly(split),
        [page.state, words.prompt],
        [words.object_prompt, words.background_prompt],
        trigger_mode="always_last",
        queue=False,
        **QUIET,
    ).then(**refresh)
    parts = [words.object_prompt.change, words.background_prompt.change]
    gr.on(parts, trigger_mode="always_last", **refresh)
    gr.on([dial.change for dial in dials.components], trigger_mode="always_last", **refresh)


def split(session: Session, prompt: str) -> tuple[Any, Any]:
    """The two parts of a prompt that was typed; one that was opened with a saved edit keeps the parts it had."""
    if prompt == session.prompt:
        return gr.skip(), gr.skip()
    session.prompt = prompt
    return split_prompt(prompt)
