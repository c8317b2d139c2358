"""The page as a person uses it, in Chromium."""

import numpy as np
import pytest
from PIL import Image
from serving import photo

from layerdiffusion.edit import Placement
from layerdiffusion.ui import examples
from layerdiffusion.ui.bundle import open_bundle


def test_a_whole_edit(tab, pictures):
    """Upload, click, subtract, brush, undo, reference, words, run, compare, take home, open again."""
    page = tab.page
    tab.upload("photo-upload", pictures["photo"])
    page.wait_for_selector("#photo-board .ld-has-picture")
    page.mouse.click(*tab.at("photo-board", 0.5, 0.5))
    tab.wait("photo-board", "data.points == 1")
    page.click("#photo-board [data-tool=subtract]")
    page.mouse.click(*tab.at("photo-board", 0.1, 0.5))
    tab.wait("photo-board", "data.points == 2")
    page.click("#photo-board [data-act=undo]")
    tab.wait("photo-board", "data.points == 1")
    page.click("#photo-board [data-act=clear]")
    tab.wait("photo-board", "data.area == 0")
    tab.brush("photo-board", (0.35, 0.45), (0.65, 0.55))
    area = tab.data("photo-board").area
    tab.brush("photo-board", (0.65, 0.55), tool="erase", size=4)
    assert 0 < tab.data("photo-board").area < area
    page.click("#photo-board [data-act=grow]")
    page.click("#background label:has-text('From a picture')")
    page.wait_for_selector("#reference-board canvas")
    tab.upload("reference-upload", pictures["reference"])
    page.wait_for_selector("#reference-board .ld-has-picture")
    tab.brush("reference-board", (0.2, 0.2))
    page.wait_for_selector("#place-board .ld-has-picture")

    tab.say("a dog jumping on ice")
    assert tab.field("object-prompt").input_value() == "a dog jumping"
    tab.field("background-prompt").fill("on thick ice")
    tab.ready("2 pictures")
    page.click("#run")
    page.wait_for_selector(".ld-bar")
    tab.done()
    page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    assert "seed 0 · CLIP" in page.inner_text("#gallery") and "best" in page.inner_text("#gallery")
    assert page.locator("#report .ld-scores tbody tr").count() == 2 and page.locator("#report .ld-score").count() == 6
    tab.ready("Nothing to compute")
    page.locator("#gallery .thumbnail-item").nth(1).click()
    page.wait_for_function("() => document.querySelector('#report').innerText.startsWith('Seed 1')")
    page.click("#more")
    page.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    tab.done()

    data = tab.packed()
    edit = open_bundle(data).recipe.edit
    assert edit.background == "reference" and edit.background_prompt == "on thick ice"
    (width, height), whole = edit.object_image.size, np.asarray(photo(96, 64))
    parts = (whole[y : y + height, x : x + width] for y in range(65 - height) for x in range(97 - width))
    assert any(np.array_equal(edit.object_image, part) for part in parts)
    (pictures["photo"].parent / "all.zip").write_bytes(data)
    area = tab.data("photo-board").area
    tab.open()  # on this edit, again
    page.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    page.click("#new")
    page.wait_for_selector("#results", state="hidden")
    tab.upload("restore", pictures["photo"].parent / "all.zip")
    page.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    tab.wait("photo-board", f"data.area == {area}")
    tab.shows("background-prompt", "on thick ice")
    assert tab.packed() and open_bundle(tab.packed()).recipe.edit == edit


def test_the_saved_mask_is_where_it_was_painted_and_loads_again(tab, pictures, tmp_path):
    tab.upload("photo-upload", pictures["photo"])
    tab.page.wait_for_selector("#photo-board .ld-has-picture")
    tab.brush("photo-board", (0.5, 0.5), size=5)
    with tab.page.expect_download() as download:
        tab.page.click("#photo-board [data-act=download]")
    download.value.save_as(tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png").convert("L")) > 127
    assert mask.shape == (64, 96) and mask.sum() == tab.data("photo-board").area
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - 47.5) < 1 and abs(rows.mean() - 31.5) < 1
    tab.page.click("#photo-board [data-act=clear]")
    tab.wait("photo-board", "data.area == 0")
    tab.upload("photo-mask-upload", tmp_path / "mask.png")
    tab.wait("photo-board", f"data.area == {mask.sum()}")


def test_the_subject_is_moved_by_hand_and_by_key(tab, page, tmp_path):
    photo(90, 60).save(tmp_path / "photo.png")  # no other test's size
    tab.begin(tmp_path / "photo.png")
    tab.page.wait_for_selector("#place-board .ld-has-picture")
    mouse = tab.page.mouse
    mouse.move(*tab.at("place-board", 0.5, 0.5))
    mouse.down()
    for width in (1400, 1440):  # drawn anew while the subject is held and has not moved yet
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.page.wait_for_timeout(300)
    mouse.move(*tab.at("place-board", 0.6, 0.4), steps=4)
    mouse.up()
    tab.page.locator("#place-board .ld-stage").press("f")
    tab.page.locator("#place-board .ld-stage").press("+")
    session = page.session((90, 60))
    tab.until(lambda: session.placement.flip and session.placement.scale > 1.04 and session.placement.dx > 0.08)
    board = tab.page.locator("#place-board .ld-stage")
    for key in ("z", "z", "z"):  # larger, mirrored, dragged
        board.press(key)
    tab.until(lambda: session.placement == Placement())
    for _ in range(3):
        tab.page.click("#place-board [data-act=redo]")
    assert tab.page.is_disabled("#place-board [data-act=redo]")
    tab.until(lambda: session.placement.flip and session.placement.scale > 1.04 and session.placement.dx > 0.08)
    tab.page.click("#run")
    tab.done()
    placement = open_bundle(tab.packed()).recipe.edit.placement
    assert placement.flip and placement.scale == pytest.approx(1.05, abs=0.01)
    assert placement.dx == pytest.approx(0.1, abs=0.02) and placement.dy == pytest.approx(-0.1, abs=0.02)


def test_what_is_missing_is_shown_and_the_keyboard_marks_and_another_photo_is_unmarked(tab, pictures):
    tab.missing("no photo yet")
    tab.page.click("#run")
    assert "no photo yet" in tab.toast()
    tab.page.wait_for_selector("#run:visible")
    tab.upload("photo-upload", pictures["photo"])
    tab.missing("No subject is marked")
    tab.page.wait_for_selector("#photo-board .ld-has-picture")
    stage = tab.page.locator("#photo-board .ld-stage")
    stage.press("b")
    stage.press("ArrowRight")
    stage.press("Enter")
    tab.wait("photo-board", "Number(data.area) > 0")
    stage.press("z")
    tab.wait("photo-board", "data.area == 0")
    stage.press("Enter")
    tab.wait("photo-board", "Number(data.area) > 0")
    tab.upload("photo-upload", pictures["other"])
    tab.wait("photo-board", "data.area == 0")
    tab.missing("No subject is marked")


def test_html_in_words_stays_words(tab, pictures):
    tab.begin(pictures["photo"], "<img src=x onerror='window.harm=1'> dog on ice")
    tab.page.click("#run")
    tab.done()
    tab.page.wait_for_timeout(500)
    assert tab.page.evaluate("() => window.harm") is None
    assert "<img" in tab.page.inner_text("#report")


def test_an_example_opens_finished_and_all_are_presented_with_the_arrow_keys(tab):
    tab.page.locator("#examples .ld-example").nth(1).click()
    tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    tab.wait("photo-board", "Number(data.area) > 0")
    tab.shows("prompt", "a giraffe standing in the snow")
    assert "CLIP" in tab.page.inner_text("#gallery")
    tab.page.wait_for_selector("#reference-board .ld-has-picture")
    page = tab.page
    first, second = (example.prompt for example in examples.examples())
    page.click("#present")
    page.wait_for_selector(f".ld-slide:visible >> text={first}")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f".ld-slide:visible >> text={second}")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f".ld-slide:visible >> text={first}")
    page.keyboard.press("Escape")
    page.wait_for_selector(".ld-slides", state="hidden")


def test_nothing_sticks_out_sideways(tab, pictures):
    tab.begin(pictures["photo"])
    for width in (1024, 390):
        tab.page.set_viewport_size({"width": width, "height": 844})
        tab.page.wait_for_function(f"() => document.documentElement.scrollWidth <= {width}", timeout=10_000)
