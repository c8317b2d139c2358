"""FLUX.2 klein base through the page, in Chromium."""

import pytest
from serving import SETTINGS, save_page_model, served
from tab import Tab
from tiny_klein import save_tiny_klein

from layerdiffusion.settings import setting_table
from layerdiffusion.ui.bundle import open_bundle


@pytest.fixture
def page(tmp_path):
    with served(save_page_model(tmp_path / "some-klein", save_tiny_klein, SETTINGS)) as page:
        yield page


@pytest.mark.slow
def test_a_whole_edit_on_klein_and_its_own_editing_beside_it(page, tab: Tab, pictures):
    """Its badge, defaults and methods; upload, brush, words, run; its pictures, what they say of it, and a row more."""
    window = tab.page
    badge = window.inner_text(".ld-badge")
    assert "some-klein" in badge and "FLUX.2 klein base, 64 × 64 pixels" in badge
    tab.upload("photo-upload", pictures["photo"])
    window.wait_for_selector("#photo-board .ld-has-picture")
    tab.brush("photo-board", (0.4, 0.45), (0.6, 0.55))
    tab.say("a dog jumping on ice")
    tab.ready("2 pictures")
    window.click("#run")
    tab.done()
    window.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    assert all(f"seed {seed} · CLIP" in window.inner_text("#gallery") for seed in range(2))
    window.click("#advanced > button")
    lora = setting_table()["tune"].choices["lora"]
    assert window.input_value("#dial-tune input") == lora and float(tab.field("dial-guidance-scale").input_value()) == 4
    window.click("#baselines > button")
    window.wait_for_selector("#baselines-methods label >> nth=2")
    methods = window.locator("#baselines-methods label").all_inner_texts()
    assert [name.strip() for name in methods] == ["Imagic", "FLUX.2 klein's own editing", "SDEdit"]
    for name in ("Imagic", "SDEdit"):
        window.locator(f"#baselines-methods label:has-text('{name}') input").set_checked(False)
    window.click("#baselines-run")
    window.wait_for_selector("#row-klein_picture .thumbnail-item >> nth=1")
    window.wait_for_selector("#baselines-run:visible")
    assert "seed 1 · CLIP" in window.inner_text("#row-klein_picture")
    opened = open_bundle(tab.packed())
    settings = opened.recipe.settings
    assert (settings.tune, settings.guidance_scale, settings.seeds) == ("lora", 4.0, (0, 1))
    assert opened.recipe.model == str(page.backend.editor.models.name)
    assert len({image.tobytes() for image in opened.pictures.values()}) == 2
    assert sorted(opened.baselines["klein_picture"]) == [0, 1]
