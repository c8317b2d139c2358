"""Backgrounds that the model generates, and other methods beside ours."""

import io
import zipfile

import pytest

from layerdiffusion.ui.bundle import open_bundle


def test_generating_backgrounds_is_cancelled_and_goes_on_and_one_is_picked(tab, page, pace, pictures):
    tab.begin(pictures["photo"])
    tab.page.click("#background label:has-text('Generate one')")
    tab.dial("sampling-steps", 200)
    pace.seconds = 0.2
    tab.page.click("#generate-run")
    tab.page.wait_for_selector("#generate-note .ld-bar")
    assert page.backend.editor.turns.taken
    tab.page.click("#generate-cancel")
    tab.page.wait_for_selector("#generate-note :text('Cancelled')")
    tab.page.wait_for_selector("#generate-run:visible")
    assert not page.backend.editor.turns.taken and not tab.page.is_visible("#generate-cancel")
    assert tab.page.locator("#backgrounds .thumbnail-item").count() == 0
    pace.seconds = 0
    tab.dial("sampling-steps", 4)
    tab.page.click("#generate-run")
    tab.page.wait_for_selector("#backgrounds .thumbnail-item >> nth=3")
    tab.page.wait_for_selector("#generate-run:visible")
    tab.page.locator("#backgrounds .thumbnail-item").nth(2).click()
    tab.page.wait_for_selector(":text('Background 2 is used')")
    tab.ready("the background")
    tab.page.click("#run")
    tab.done()
    data = tab.packed()
    assert open_bundle(data).recipe.edit.background_seed == 2
    assert "generated.png" in zipfile.ZipFile(io.BytesIO(data)).namelist()


def compare_with(tab, *methods):
    for name in ("SDEdit", "Imagic", "Plug-and-Play"):
        tab.page.locator(f"#baselines-methods label:has-text('{name}') input").set_checked(name in methods)
    tab.page.click("#baselines-run")


@pytest.mark.slow
def test_other_methods_stand_beside_ours_on_the_same_seeds(tabs, pictures, tmp_path):
    tab = tabs()
    page = tab.page
    tab.begin(pictures["photo"])
    page.click("#run")
    tab.done()
    page.click("#baselines > button")
    compare_with(tab)
    assert "No method is chosen" in tab.toast()
    compare_with(tab, "SDEdit")
    page.wait_for_selector("#row-sdedit .thumbnail-item >> nth=1")
    page.wait_for_selector("#baselines-run:visible")
    shown = page.inner_text("#row-sdedit")
    assert "SDEdit" in shown and "seed 0 · CLIP" in shown and "seed 1 · CLIP" in shown
    assert not page.is_visible("#row-imagic")
    page.click("#more")
    page.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    tab.done()
    compare_with(tab, "SDEdit")
    page.wait_for_selector("#row-sdedit .thumbnail-item >> nth=3")
    assert "seed 3 · CLIP" in page.inner_text("#row-sdedit")
    data = tab.packed()
    assert sorted(open_bundle(data).baselines["sdedit"]) == [0, 1, 2, 3]
    (tmp_path / "all.zip").write_bytes(data)

    other = tabs()
    assert not other.page.is_visible("#row-sdedit")
    other.upload("restore", tmp_path / "all.zip")
    other.page.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    other.page.click("#baselines > button")
    other.page.wait_for_selector("#row-sdedit .thumbnail-item >> nth=3")
    page.click("#run")  # a new result, of which there is no comparison yet
    tab.done()
    page.wait_for_selector("#row-sdedit", state="hidden")
    assert other.page.locator("#row-sdedit .thumbnail-item").count() == 4


@pytest.mark.slow
def test_a_comparison_is_cancelled_and_goes_on(tab, page, pace, pictures):
    # No other test's words: nothing of it is there from before.
    tab.begin(pictures["photo"], "a dog waiting for the others on ice")
    tab.dial("sampling-steps", 20)
    tab.ready("about")
    tab.page.click("#run")
    tab.done()
    pace.seconds = 1
    tab.page.click("#baselines > button")
    compare_with(tab, "SDEdit")
    tab.page.wait_for_selector("#baselines-progress .ld-bar")
    tab.page.click("#baselines-cancel")
    tab.page.wait_for_selector("#baselines-progress :text('Cancelled')")
    tab.page.wait_for_selector("#baselines-run:visible")
    assert not page.backend.editor.turns.taken and not tab.page.is_visible("#row-sdedit")
    pace.seconds = 0
    compare_with(tab, "SDEdit")
    tab.page.wait_for_selector("#row-sdedit .thumbnail-item >> nth=1")
