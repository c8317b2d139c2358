"""The words, the dials, and their presets: the program's, and those that a user names and the browser keeps."""

from functools import partial
from typing import Any

import gradio as gr

from layerdiffusion.errors import SettingsError
from layerdiffusion.prompts import split_prompt
from layerdiffusion.settings import Settings, setting_table
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import listen
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import dial_values, settings_of

MOST = 20
LONGEST = 40  # letters of a name


def connect(page: Page, backend: Backend, refresh: dict[str, Any], blocks: gr.Blocks) -> None:
    """Wire the words, the dials, the buttons of presets, and the list of the user's own."""
    words, card, dials = page.words, page.dials, page.dials.components
    parts, lazy = [words.object_prompt, words.background_prompt], {"trigger_mode": "always_last"}
    # `change` and not `input`, which Gradio leaves out when text is pasted or dictated.
    listen(words.prompt.change, split, [page.state, words.prompt], parts, refresh, queue=False, **lazy)
    gr.on([part.change for part in parts], **lazy, **refresh)
    gr.on([dial.change for dial in dials], **lazy, **refresh)
    for name, button in card.presets.items():
        listen(button.click, partial(preset_values, name, backend), None, dials, queue=False)
    kept = [card.names, card.stored]
    listen(blocks.load, listed, card.stored, card.names, queue=False)
    listen(card.names.input, taken, [*kept, *dials], dials, queue=False)
    listen(card.keep.click, save, [*kept, *dials], kept, queue=False)
    listen(card.remove.click, removed, kept, kept, queue=False)


def split(session: Session, prompt: str) -> Any:
    """The two parts of a prompt that was typed; one that was opened with a saved edit keeps the parts it had."""
    if prompt == session.prompt:
        return gr.skip()
    session.prompt = prompt
    return split_prompt(prompt)


def preset_values(name: str, backend: Backend) -> list[Any]:
    return dial_values(backend.preset(name))


def own_presets(values: Any) -> dict[str, dict]:
    """What a browser has kept, which may be anything, as settings by name."""
    items = values.items() if isinstance(values, dict) else ()
    return {name: preset for name, preset in items if isinstance(preset, dict)}


def listed(values: Any, chosen: str | None = None) -> dict[str, Any]:
    return gr.update(choices=[*own_presets(values)], value=chosen)


def taken(name: Any, values: Any, *dials: Any) -> Any:
    """The dials as the preset has them, but for the seeds; as they are where there is none of that name yet."""
    preset = own_presets(values).get(name)
    if preset is None:
        return gr.skip()
    known = {name: value for name, value in preset.items() if name in setting_table() and name != "seeds"}
    return dial_values(Settings.from_dict(known).resolve(settings_of(dials)))


def save(name: Any, values: Any, *dials: Any) -> tuple[Any, dict[str, dict]]:
    name = name.strip() if isinstance(name, str) else ""
    if not 1 <= len(name) <= LONGEST:
        raise SettingsError(f"Type a name of 1 to {LONGEST} letters into “Your presets”, then keep the dials under it.")
    preset = {key: value for key, value in settings_of(dials).to_dict().items() if key != "seeds"}
    presets = {**own_presets(values), name: preset}
    if len(presets) > MOST:
        raise SettingsError(f"There are {MOST} presets already; remove one first.")
    return listed(presets, name), presets


def removed(name: Any, values: Any) -> tuple[Any, dict[str, dict]]:
    presets = own_presets(values)
    if presets.pop(name, None) is None:
        raise SettingsError("No preset of yours is chosen; choose the one to remove.")
    return listed(presets), presets
