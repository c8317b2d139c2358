"""SDXL through the page, in Chromium."""

import pytest
from serving import SETTINGS, save_page_model, served
from tab import Tab
from tiny import save_tiny_xl

from layerdiffusion.settings import setting_table
from layerdiffusion.ui.bundle import open_bundle

FOUR = SETTINGS.replace("[0, 1]", "[0, 1, 2, 3]")


@pytest.fixture
def page(tmp_path):
    with served(save_page_model(tmp_path / "some-xl", save_tiny_xl, FOUR)) as page:
        yield page


@pytest.mark.slow
def test_a_whole_edit_on_sdxl(page, tab: Tab, pictures):
    """Its badge and its own defaults; upload, click, words, run; four pictures, and what they say of it."""
    window = tab.page
    badge = window.inner_text(".ld-badge")
    assert "some-xl" in badge and "SDXL, 64 × 64 pixels" in badge
    tab.upload("photo-upload", pictures["photo"])
    window.wait_for_selector("#photo-board .ld-has-picture")
    window.mouse.click(*tab.at("photo-board", 0.5, 0.5))
    tab.wait("photo-board", "data.points == 1")
    window.click("#photo-board [data-act=clear]")
    tab.wait("photo-board", "data.area == 0")
    tab.brush("photo-board", (0.4, 0.45), (0.6, 0.55))
    tab.say("a dog jumping on ice")
    tab.ready("4 pictures")
    window.click("#run")
    tab.done()
    window.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    assert all(f"seed {seed} · CLIP" in window.inner_text("#gallery") for seed in range(4))
    window.click("#advanced > button")
    lora = setting_table()["tune"].choices["lora"]
    assert window.input_value("#dial-tune input") == lora and float(tab.field("dial-guidance-scale").input_value()) == 5
    opened = open_bundle(tab.packed())
    settings = opened.recipe.settings
    assert (settings.tune, settings.guidance_scale, settings.seeds) == ("lora", 5.0, (0, 1, 2, 3))
    assert opened.recipe.model == str(page.backend.editor.models.name)
    assert len({image.tobytes() for image in opened.pictures.values()}) == 4
