"""The dials: a component for each setting, and presets that change what they say."""

from dataclasses import dataclass

import gradio as gr
import pytest

from layerdiffusion.errors import SettingsError
from layerdiffusion.settings import PAPER, Limit, Settings, setting, setting_table
from layerdiffusion.ui.page import page_of
from layerdiffusion.ui.widgets.dials import dial_names, dial_values, seeds_of, settings_of


@dataclass(frozen=True)
class MoreSettings(Settings):
    """A table with one more number in sight, and one more word under Advanced."""

    glow: float = setting(0.5, limit=Limit(0.0, 2.0, 0.25), label="Glow", help="How much it glows.")
    grain: str = setting(
        "fine", advanced=True, label="Grain", help="How it is grained.",
        choices={"fine": "fine grain", "coarse": "coarse grain"},
    )  # fmt: skip


def components(defaults: Settings) -> dict[str, dict]:
    """The page's dials by name, as the browser gets them."""
    with gr.Blocks():
        page = page_of(defaults)
    assert page.inputs[-len(page.dials.components) :] == page.dials.components
    return {name: dial.get_config() for name, dial in page.dials.dials.items()}


def test_the_pages_dials_are_the_tables_entries():
    dials, table = components(PAPER), setting_table()
    assert set(dials) == set(table) - {"seeds"} | {"count", "first", "exact"}
    for name in set(dials) & set(table):
        dial, entry = dials[name], table[name]
        assert (dial["label"], dial["info"], dial["value"]) == (entry.label, entry.help, entry.default)
        if entry.choices:
            assert dial["choices"] == [(label, value) for value, label in entry.choices.items()]
        else:
            assert entry.limit.low == dial["minimum"] < dial["maximum"] <= entry.limit.high


def test_a_new_setting_in_the_table_is_a_dial_on_the_page():
    defaults = MoreSettings().resolve()
    dials = components(defaults)
    glow, grain = dials["glow"], dials["grain"]
    assert (glow["label"], glow["minimum"], glow["maximum"], glow["step"]) == ("Glow", 0.0, 2.0, 0.25)
    assert grain["elem_id"] == "dial-grain" and grain["choices"][1] == ("coarse grain", "coarse")
    values = dial_values(defaults)
    values[dial_names(MoreSettings).index("glow")] = 1.25
    assert settings_of(tuple(values), MoreSettings).glow == 1.25


def test_the_dials_give_back_the_settings_they_were_given():
    for seeds in ((0, 1, 2, 3), (7, 8), (3, 17), tuple(range(12))):
        settings = Settings(seeds=seeds).resolve(PAPER)
        assert settings_of(tuple(dial_values(settings))) == settings


@pytest.mark.parametrize("text", ["a", "1.5", "-1", "1;2", "٣"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(SettingsError):
        seeds_of(4, 0, text)
