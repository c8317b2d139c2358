"""The dials: a component for each entry of the table of settings, and the presets that set several at once."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from layerdiffusion.errors import SettingsError
from layerdiffusion.settings import MAX_SEEDS, PRESETS, Setting, Settings, setting_table
from layerdiffusion.ui.widgets.drawing import heading

MOST_SEEDS = min(8, MAX_SEEDS)


@dataclass(frozen=True)
class DialsCard:
    presets: dict[str, gr.Button]
    names: gr.Dropdown  # of the user's own presets, with a button to keep and one to remove the one chosen
    keep: gr.Button
    remove: gr.Button
    stored: gr.BrowserState  # settings by name, in the user's own browser
    dials: dict[str, Any]  # by name, in the order of `dial_names`

    @property
    def components(self) -> list[Any]:
        return [*self.dials.values()]


def seed_count(defaults: Settings) -> gr.Slider:
    """How many pictures; among the words, so it is rendered there."""
    return gr.Slider(
        1,
        MOST_SEEDS,
        value=len(defaults.seeds),
        step=1,
        label="Pictures",
        info="How many versions to make at once.",
        elem_id="dial-count",
        render=False,
    )


def dials_card(defaults: Settings, count: gr.Slider) -> DialsCard:
    """The presets, the dials in sight, and those under Advanced; `count` stands among the words."""
    with gr.Column(elem_id="dials", elem_classes=["ld-card"], min_width=320, scale=7):
        heading(5, "Dials", "The defaults are the model's own; change one thing at a time.")
        with gr.Row(elem_classes=["ld-presets"]):
            presets = {
                name: gr.Button(name.capitalize(), size="sm", elem_id=f"preset-{name.split()[0].lower()}", min_width=90)
                for name in PRESETS
            }
            names, keep, remove, stored = _own_presets()
        dials: dict[str, Any] = {"count": count}
        in_sight, advanced = split_table(type(defaults))
        with gr.Row(elem_classes=["ld-dials"]):
            dials |= {name: _dial(entry, defaults) for name, entry in in_sight.items()}
        with gr.Accordion("Advanced", open=False, elem_id="advanced"), gr.Row(elem_classes=["ld-dials"]):
            dials |= {name: _dial(entry, defaults) for name, entry in advanced.items()}
            dials |= _seeds(defaults)
    return DialsCard(presets, names, keep, remove, stored, dials)


def _own_presets() -> tuple[Any, ...]:
    """A list to choose from and to type a new name into."""
    names = gr.Dropdown(
        [],
        value=None,
        allow_custom_value=True,
        label="Your presets",
        min_width=150,
        elem_id="own-presets",
    )
    keep = gr.Button("Keep", size="sm", elem_id="preset-keep", min_width=70)
    remove = gr.Button("Remove", size="sm", elem_id="preset-remove", min_width=70)
    # A secret of its own would be another after the next start.
    stored = gr.BrowserState({}, storage_key="layerdiffusion-presets", secret="presets")
    return names, keep, remove, stored


def split_table(settings: Any) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """The entries of a class of settings in sight, and those under Advanced, numbers first; not the seeds."""
    entries = {name: entry for name, entry in setting_table(settings).items() if name != "seeds"}
    in_sight = {name: entry for name, entry in entries.items() if not entry.advanced}
    advanced = {name: entry for name, entry in entries.items() if entry.advanced}
    return in_sight, dict(sorted(advanced.items(), key=lambda item: item[1].limit is None))


def _dial(entry: Setting, defaults: Settings) -> Any:
    """A slider for a number in sight, a field for one under Advanced, a list for words."""
    common = {"value": getattr(defaults, entry.name), "label": entry.label, "info": entry.help, "min_width": 170}
    common["elem_id"] = _elem_id(entry.name)
    if entry.choices is not None:
        choices = [(label, value) for value, label in entry.choices.items()]
        return gr.Dropdown(choices, allow_custom_value=entry.check_text is not None, **common)
    limit = entry.limit
    assert limit is not None
    high = limit.high if entry.slider_high is None else entry.slider_high
    if entry.advanced:
        return gr.Number(precision=0 if limit.whole else None, minimum=limit.low, maximum=limit.high, **common)
    return gr.Slider(limit.low, high, step=1 if limit.whole else limit.step, **common)


def _seeds(defaults: Settings) -> dict[str, Any]:
    """The first of `count` seeds, and seeds that are no row of numbers."""
    first = gr.Number(
        defaults.seeds[0],
        label="First seed",
        info="The first picture's number.",
        precision=0,
        minimum=0,
        maximum=2**32 - 20,
        min_width=170,
        elem_id=_elem_id("first"),
    )
    exact = gr.Textbox(
        "",
        label="Exact seeds",
        info="As in 3, 17; in place of the two above.",
        min_width=170,
        max_length=200,
        elem_id=_elem_id("exact"),
    )
    return {"first": first, "exact": exact}


def _elem_id(name: str) -> str:
    return f"dial-{name.replace('_', '-')}"


def dial_names(settings: type[Settings] = Settings) -> list[str]:
    """The dials in the order in which the page hands them over."""
    in_sight, advanced = split_table(settings)
    return ["count", *in_sight, *advanced, "first", "exact"]


def dial_values(settings: Settings) -> list[Any]:
    """The dials as the settings have them; every field must be set."""
    seeds = settings.seeds
    plain = seeds == tuple(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) <= MOST_SEEDS
    extra = {
        "count": min(len(seeds), MOST_SEEDS),
        "first": seeds[0] if plain else 0,
        "exact": "" if plain else ", ".join(map(str, seeds)),
    }
    return [extra[name] if name in extra else getattr(settings, name) for name in dial_names(type(settings))]


def settings_of(values: tuple[Any, ...], settings: type[Settings] = Settings) -> Settings:
    """The settings that the dials show; raises a `SettingsError`."""
    named = dict(zip(dial_names(settings), values, strict=True))
    count, first, exact = named.pop("count"), named.pop("first"), named.pop("exact")
    return settings(**named, seeds=seeds_of(count, first, exact or ""))


def shape_of(values: tuple[Any, ...], settings: type[Settings] = Settings) -> str:
    """The shape that the dials show, whatever the others do; raises a `SettingsError`."""
    return Settings(shape=values[dial_names(settings).index("shape")]).shape


def seeds_of(count: int, first: int, exact: str) -> tuple[int, ...]:
    """The seeds: those written out in `exact`, else `count` of them from `first` on."""
    if exact.strip():
        parts = [part for part in exact.replace(",", " ").split() if part]
        if not all(part.isascii() and part.isdigit() and len(part) <= 20 for part in parts):
            raise SettingsError(f"The seeds must be whole numbers with commas, as in 3, 17, not “{exact[:40]}”.")
        return tuple(int(part) for part in parts)
    return tuple(range(int(first), int(first) + int(count)))
