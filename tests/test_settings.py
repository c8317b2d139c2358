"""The table of settings: one entry is all that a new setting costs."""

from __future__ import annotations

import argparse
import dataclasses

import gradio as gr
import pytest
from PIL import Image
from tiny import QUICK

from layerdiffusion.cache import Work, stage
from layerdiffusion.commands.terminal import add_setting
from layerdiffusion.editor import Editor
from layerdiffusion.errors import RecipeError, SettingsError
from layerdiffusion.method import layerdiffusion
from layerdiffusion.recipe import recipe_from_dict, recipe_to_dict
from layerdiffusion.settings import SAMPLING, Limit, Settings, preset, setting, setting_table
from layerdiffusion.ui.widgets.dials import dial_values, dials_card, seed_count, settings_of


@dataclasses.dataclass(frozen=True)
class WithSharpness(Settings):
    """The settings, and one more: this entry, and its use in `edit`, is the whole of it."""

    sharpness: float = setting(0.5, limit=Limit(0.0, 2.0, 0.1), label="Sharpness", help="Higher has harder edges.")


@pytest.fixture
def sharp() -> WithSharpness:
    return WithSharpness(**QUICK.to_dict(), sharpness=0.75)


def test_a_new_setting_is_in_the_help_with_its_range():
    parser = argparse.ArgumentParser()
    add_setting(parser.add_argument_group("settings"), setting_table(WithSharpness)["sharpness"])
    text = " ".join(parser.format_help().split())
    assert "--sharpness" in text and "Higher has harder edges; 0 to 2" in text
    assert parser.parse_args(["--sharpness", "1.5"]).sharpness == 1.5


def test_a_new_setting_is_checked_and_has_its_default(sharp):
    with pytest.raises(SettingsError, match="sharpness must be a number from 0 to 2, not 3"):
        WithSharpness(sharpness=3)
    assert WithSharpness().resolve().sharpness == 0.5
    assert sharp.resolve(Settings(alpha=0.2)).sharpness == 0.75


def test_a_new_setting_is_in_the_recipe(edit, sharp):
    data = recipe_to_dict(edit, sharp)
    assert data["settings"]["sharpness"] == 0.75
    assert recipe_from_dict(data, settings=WithSharpness).settings == sharp
    with pytest.raises(RecipeError, match='unknown field "sharpness"'):
        recipe_from_dict(data)


@stage(lambda steps, **_: Work(steps, 1))
def sharpened(models, report, sharpness, steps, **inputs):
    return [Image.new("RGB", (64, 64), (round(100 * sharpness),) * 3)]


def test_a_new_setting_is_in_the_key_of_the_stage_that_uses_it_and_of_no_stage_before(
    tiny_v_models, edit, sharp, monkeypatch
):
    edit_before = layerdiffusion.edit

    def edit_with_sharpness(task, run):
        def changed(name, function, **inputs):
            more = {"sharpness": task.settings.sharpness} if name == SAMPLING else {}
            return run(name, sharpened if more else function, **inputs, **more)

        return edit_before(task, changed)

    monkeypatch.setattr(layerdiffusion, "edit", edit_with_sharpness)
    editor = Editor(tiny_v_models)
    editor.run(edit, sharp)
    assert set(editor.plan(edit, sharp).values()) == {"reuse"}
    harder = dataclasses.replace(sharp, sharpness=1.0)
    assert editor.plan(edit, harder) == {"embeddings": "reuse", "finetune": "reuse", "sampling": "run"}


FIRST_STAGE = {  # that a setting changes; not those whose other words take longer than a test should, nor the shape
    **dict.fromkeys(("embedding_steps", "embedding_lr", "training_seed", "noise_offset", "draws"), "embeddings"),
    **dict.fromkeys(("alpha", "object_weight", "background_weight", "finetune_steps", "finetune_lr"), "finetune"),
    **dict.fromkeys(("sampling_steps", "guidance_scale", "schedule", "solver", "seeds"), "sampling"),
}


@pytest.mark.parametrize("name", FIRST_STAGE)
def test_a_setting_invalidates_the_first_stage_that_reads_it_and_what_comes_after(tiny_v_models, edit, name):
    others = {"schedule": "edit", "solver": "dpmpp", "seeds": (5,)}
    value = getattr(QUICK.resolve(tiny_v_models.defaults), name)
    changed = dataclasses.replace(QUICK, **{name: others.get(name, value + 1 if isinstance(value, int) else 0.05)})
    editor = Editor(tiny_v_models)
    editor.run(edit, QUICK)
    stages = ["embeddings", "finetune", "sampling"]
    first = stages.index(FIRST_STAGE[name])
    assert list(editor.plan(edit, changed).values()) == ["reuse"] * first + ["run"] * (len(stages) - first)


def test_a_new_setting_is_on_the_page(sharp):
    shown = sharp.resolve()
    with gr.Blocks():
        dials = dials_card(shown, seed_count(shown)).dials
    dial = dials["sharpness"]
    assert (dial.label, dial.info, dial.value) == ("Sharpness", "Higher has harder edges.", 0.75)
    assert (dial.minimum, dial.maximum) == (0.0, 2.0)
    assert settings_of(tuple(dial_values(shown)), WithSharpness) == shown


def test_a_preset_is_made_of_the_models_own_settings():
    own = Settings(embedding_steps=60, finetune_steps=151, sampling_steps=50, seeds=(7,), alpha=0.4).resolve()
    assert preset("paper", own) == own
    assert preset("small subject", own) == dataclasses.replace(own, object_weight=3.0)
    quick = preset("quick", own)
    assert (quick.tune, quick.draws, quick.solver) == ("lora", 4, "dpmpp")
    assert (quick.embedding_steps, quick.finetune_steps, quick.sampling_steps) == (5, 31, 20)
    assert (quick.seeds, quick.alpha) == ((7,), 0.4)
    assert preset("quick", dataclasses.replace(own, embedding_steps=0)).embedding_steps == 0
    of_its_own = Settings(finetune_steps=70, tune="full")
    assert preset("quick", own, of_its_own) == dataclasses.replace(own, finetune_steps=70, tune="full")
    assert preset("paper", own, of_its_own) == own
    with pytest.raises(SettingsError, match="preset is 'fast'"):
        preset("fast", own)
