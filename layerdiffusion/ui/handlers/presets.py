"""The presets of the dials: the program's, and those that a user names and the browser keeps."""

from functools import partial
from typing import Any

import gradio as gr

from layerdiffusion.errors import SettingsError
from layerdiffusion.settings import Settings, setting_table
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.events import QUIET, friendly
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.widgets.dials import dial_values, settings_of

MOST = 20
LONGEST = 40  # letters of a name


def connect(page: Page, backend: Backend, blocks: gr.Blocks) -> None:
    """Wire the buttons, and the list of the user's own."""
    card, dials = page.dials, page.dials.components
    own = card.own
    for name, button in card.presets.items():
        button.click(friendly(partial(preset_values, name, backend)), None, dials, queue=False, **QUIET)
    blocks.load(friendly(listed), own.stored, own.names, queue=False, **QUIET)
    own.names.input(friendly(taken), [own.names, own.stored, *dials], dials, queue=False, **QUIET)
    own.keep.click(friendly(save), [own.names, own.stored, *dials], [own.names, own.stored], queue=False, **QUIET)
    own.remove.click(friendly(removed), [own.names, own.stored], [own.names, own.stored], queue=False, **QUIET)


def preset_values(name: str, backend: Backend) -> list[Any]:
    return dial_values(backend.preset(name))


def own_presets(values: Any) -> dict[str, dict]:
    """What a browser has kept, which may be anything, as settings by name."""
    items = values.items() if isinstance(values, dict) else ()
    return {name: preset for name, preset in items if isinstance(preset, dict)}


def listed(values: Any, chosen: str | None = None) -> dict[str, Any]:
    return gr.update(choices=[*own_presets(values)], value=chosen)


def taken(name: Any, values: Any, *dials: Any) -> list[Any]:
    """The dials as the preset has them, but for the seeds; as they are where there is none of that name yet."""
    preset = own_presets(values).get(name)
    if preset is None:
        return [gr.skip()] * len(dials)
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
