"""Presets that a user names: what the browser keeps comes back, and whatever else it holds does no harm."""

from dataclasses import replace

import gradio as gr
import pytest

from layerdiffusion.errors import EditError
from layerdiffusion.settings import PAPER
from layerdiffusion.ui.handlers.dials import MOST, listed, removed, save, taken
from layerdiffusion.ui.widgets.dials import dial_values, settings_of

MINE = replace(PAPER, alpha=0.55, finetune_steps=40, tune="lora", seeds=(5, 6))


def test_a_kept_preset_comes_back_without_its_seeds():
    names, presets = save("  soft ", {}, *dial_values(MINE))
    assert names["value"] == "soft" and names["choices"] == ["soft"] and "seeds" not in presets["soft"]
    now = replace(PAPER, seeds=(9,))
    assert settings_of(tuple(taken("soft", presets, *dial_values(now)))) == replace(MINE, seeds=(9,))
    assert taken("another", presets, *dial_values(now)) == gr.skip()


def test_a_preset_is_replaced_under_its_name_and_removed():
    _, presets = save("soft", {}, *dial_values(MINE))
    _, presets = save("soft", presets, *dial_values(PAPER))
    assert list(presets) == ["soft"] and presets["soft"]["alpha"] == PAPER.alpha
    assert removed("soft", presets)[1] == {}
    with pytest.raises(EditError, match="No preset of yours is chosen"):
        removed("hard", presets)


@pytest.mark.parametrize("name", [None, "", "  ", "x" * 41, 3])
def test_a_preset_needs_a_name(name):
    with pytest.raises(EditError, match="Type a name of 1 to 40"):
        save(name, {}, *dial_values(MINE))


def test_there_is_an_end_to_presets():
    full = {str(number): {} for number in range(MOST)}
    with pytest.raises(EditError, match="remove one first"):
        save("one more", full, *dial_values(MINE))


@pytest.mark.parametrize("values", [None, 3, "x", ["a"], {"a": 1, "b": None}])
def test_what_else_a_browser_may_hold_is_no_preset(values):
    assert listed(values)["choices"] == []


def test_a_preset_of_another_version_takes_what_there_still_is_and_what_is_wrong_is_named():
    dials = dial_values(MINE)
    assert settings_of(tuple(taken("old", {"old": {"forget": "none", "alpha": 0.2}}, *dials))).alpha == 0.2
    with pytest.raises(EditError, match="alpha must be"):
        taken("bad", {"bad": {"alpha": "<script>"}}, *dials)
