"""The page as people use it, in Chromium."""

import io
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from serving import photo

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.settings import Settings
from layerdiffusion.ui import examples
from layerdiffusion.ui.bundle import open_bundle, save_zip


def begin(tab, picture, words="a dog jumping on ice"):
    """A photo with its subject brushed in, and the words."""
    tab.upload("photo-upload", picture)
    tab.page.wait_for_selector("#photo-board .ld-has-picture")
    tab.brush("photo-board", (0.35, 0.45), (0.65, 0.55))
    tab.wait("photo-board", "Number(data.area) > 0")
    tab.say(words)
    tab.ready()


def packed(tab) -> bytes:
    with tab.page.expect_download() as download:
        tab.page.click("#zip")
    with open(download.value.path(), "rb") as file:
        return file.read()


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
    assert page.locator("#report .ld-fits tbody tr").count() == 2 and page.locator("#report .ld-fit").count() == 6
    tab.ready("Nothing to compute")
    page.locator("#gallery .thumbnail-item").nth(1).click()
    page.wait_for_function("() => document.querySelector('#report').innerText.startsWith('Seed 1')")
    page.click("#more")
    page.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    tab.done()

    data = packed(tab)
    edit = open_bundle(data).recipe.edit
    assert edit.background == "reference" and edit.background_prompt == "on thick ice"
    (width, height), whole = edit.object_image.size, np.asarray(photo(96, 64))
    parts = (whole[y : y + height, x : x + width] for y in range(65 - height) for x in range(97 - width))
    assert any(np.array_equal(edit.object_image, part) for part in parts)
    (pictures["photo"].parent / "all.zip").write_bytes(data)
    area = tab.data("photo-board").area
    tab.open()
    tab.upload("restore", pictures["photo"].parent / "all.zip")
    page.wait_for_selector("#gallery .thumbnail-item >> nth=3")
    tab.wait("photo-board", f"data.area == {area}")
    assert tab.field("background-prompt").input_value() == "on thick ice"
    assert packed(tab) and open_bundle(packed(tab)).recipe.edit == edit


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


def test_the_subject_is_moved_by_hand_and_by_key(tab, pictures):
    begin(tab, pictures["photo"])
    page = tab.page
    page.wait_for_selector("#place-board .ld-has-picture")
    page.mouse.move(*tab.at("place-board", 0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*tab.at("place-board", 0.6, 0.4), steps=4)
    page.mouse.up()
    page.locator("#place-board .ld-stage").press("f")
    page.locator("#place-board .ld-stage").press("+")
    page.wait_for_timeout(1500)
    page.click("#run")
    tab.done()
    placement = open_bundle(packed(tab)).recipe.edit.placement
    assert placement.flip and placement.scale == pytest.approx(1.05, abs=0.01)
    assert placement.dx == pytest.approx(0.1, abs=0.02) and placement.dy == pytest.approx(-0.1, abs=0.02)


def test_cancel_and_closing_the_tab_free_the_device(tab, page, pictures):
    begin(tab, pictures["photo"])
    tab.dial("finetune-steps", 2000)
    tab.ready("about")
    tab.page.click("#run")
    tab.page.wait_for_selector(".ld-stages .ld-now")
    began = time.perf_counter()
    tab.page.click("#cancel")
    tab.page.wait_for_function("() => document.querySelector('#progress').innerText.startsWith('Cancelled')")
    assert time.perf_counter() - began < 5
    assert not page.backend.editor.runtime._device.locked()
    tab.dial("finetune-steps", 2)
    tab.ready("about")
    tab.page.click("#run")
    tab.done()
    tab.dial("finetune-steps", 2000)
    tab.ready("about")
    tab.page.click("#run")
    tab.page.wait_for_selector(".ld-stages .ld-now")
    assert page.backend.editor.runtime._device.locked()
    tab.page.close()
    for _ in range(50):
        if not page.backend.editor.runtime._device.locked():
            return
        time.sleep(0.2)
    pytest.fail("the edit of a closed tab still runs")


def test_two_people_get_their_own_pixels(tabs, pictures):
    first, second = tabs(), tabs()
    begin(first, pictures["photo"], "a dog jumping on ice")
    begin(second, pictures["other"], "a cat asleep in the snow")
    first.dial("finetune-steps", 400)
    first.ready("about")
    first.page.click("#run")
    first.page.wait_for_selector(".ld-stages .ld-now")
    second.page.click("#run")
    second.page.wait_for_selector("#progress :text('queue: 1/1')")
    first.page.click("#cancel")
    second.done()
    first.open()
    assert first.page.locator("#gallery .thumbnail-item").count() == 0
    begin(first, pictures["photo"], "a dog jumping on ice")
    first.page.click("#run")
    first.done()
    for tab, wide, words in ((first, True, "a dog jumping"), (second, False, "a cat asleep")):
        edit = open_bundle(packed(tab)).recipe.edit
        assert (edit.object_image.width > edit.object_image.height) is wide and edit.object_prompt == words


def sees(tab, words):
    """Until the words are on the screen, and not cut off by what holds them."""
    tab.page.wait_for_function(
        """(words) => {
          const text = document.querySelector("#progress .progress-text");
          if (!text?.innerText.includes(words)) return false;
          const [inner, outer] = [text, text.parentElement].map((element) => element.getBoundingClientRect());
          return inner.height > 10 && outer.top <= inner.top && inner.bottom <= outer.bottom;
        }""",
        arg=words,
    )


def test_everybody_sees_their_place_in_the_queue(tabs):
    """Three people, one device: the second is next, the third is after that, and moves up."""
    people = [tabs() for _ in range(3)]
    for tab in people:
        tab.page.locator("#examples .ld-example").first.click()
        tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
        tab.dial("finetune-steps", 2000)
        tab.ready("about")
    first, second, third = people
    first.page.click("#run")
    first.page.wait_for_selector(".ld-stages .ld-now")
    second.page.click("#run")
    sees(second, "queue: 1/1")
    third.page.click("#run")
    sees(third, "queue: 2/2")
    assert not first.page.locator("#progress :text('queue')").count()
    first.page.click("#cancel")
    sees(third, "queue: 1/1")
    second.page.wait_for_selector(".ld-stages .ld-now")
    third.page.click("#cancel")  # while it waits
    second.page.click("#cancel")
    for tab in (second, third):
        tab.page.wait_for_selector("#progress :text('Cancelled')")
        tab.page.wait_for_selector("#run:visible")


def test_generating_backgrounds_is_cancelled_and_goes_on_and_one_is_picked(tab, page, pictures):
    begin(tab, pictures["photo"])
    tab.page.click("#background label:has-text('Generate one')")
    tab.dial("sampling-steps", 200)
    tab.page.click("#generate-run")
    tab.page.wait_for_selector("#generate-note .ld-bar")
    assert page.backend.editor.runtime._device.locked()
    tab.page.click("#generate-cancel")
    tab.page.wait_for_selector("#generate-note :text('Cancelled')")
    tab.page.wait_for_selector("#generate-run:visible")
    assert not page.backend.editor.runtime._device.locked() and not tab.page.is_visible("#generate-cancel")
    assert tab.page.locator("#backgrounds .thumbnail-item").count() == 0
    tab.dial("sampling-steps", 4)
    tab.page.click("#generate-run")
    tab.page.wait_for_selector("#backgrounds .thumbnail-item >> nth=3")
    tab.page.wait_for_selector("#generate-run:visible")
    tab.page.locator("#backgrounds .thumbnail-item").nth(2).click()
    tab.page.wait_for_selector(":text('Background 2 is used')")
    tab.ready("the background")
    tab.page.click("#run")
    tab.done()
    data = packed(tab)
    assert open_bundle(data).recipe.edit.background_seed == 2
    assert "generated.png" in zipfile.ZipFile(io.BytesIO(data)).namelist()


def compare_with(tab, *methods):
    for name in ("SDEdit", "Imagic", "Plug-and-Play"):
        tab.page.locator(f"#baselines-methods label:has-text('{name}') input").set_checked(name in methods)
    tab.page.click("#baselines-run")


def test_other_methods_stand_beside_ours_on_the_same_seeds(tabs, pictures, tmp_path):
    tab = tabs()
    page = tab.page
    begin(tab, pictures["photo"])
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
    data = packed(tab)
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


def test_a_comparison_is_cancelled_and_goes_on(tab, page, pictures):
    begin(tab, pictures["photo"])
    tab.dial("sampling-steps", 200)
    tab.ready("about")
    tab.page.click("#run")
    tab.done()
    tab.page.click("#baselines > button")
    compare_with(tab, "SDEdit")
    tab.page.wait_for_selector("#baselines-progress .ld-bar")
    tab.page.click("#baselines-cancel")
    tab.page.wait_for_selector("#baselines-progress :text('Cancelled')")
    tab.page.wait_for_selector("#baselines-run:visible")
    assert not page.backend.editor.runtime._device.locked() and not tab.page.is_visible("#row-sdedit")
    compare_with(tab, "SDEdit")
    tab.page.wait_for_selector("#row-sdedit .thumbnail-item >> nth=1")


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
    begin(tab, pictures["photo"], "<img src=x onerror='window.harm=1'> dog on ice")
    tab.page.click("#run")
    tab.done()
    tab.page.wait_for_timeout(500)
    assert tab.page.evaluate("() => window.harm") is None
    assert "<img" in tab.page.inner_text("#report")


@pytest.fixture(scope="module")
def saved(page, tmp_path_factory):
    """A finished edit and the files that may be dropped to have it back."""
    mask, own = np.zeros((64, 96), bool), np.zeros((80, 64), bool)
    mask[20:40, 30:70], own[30:50, 10:40] = True, True
    edit = Edit(
        photo(96, 64),
        mask,
        photo(64, 80, seed=1),
        ~own,
        object_prompt="a dog that jumps high",
        background_prompt="on thick ice",
        placement=Placement(scale=1.2, flip=True),
    )
    settings = Settings(embedding_steps=3, finetune_steps=2, sampling_steps=4, alpha=0.55, seeds=(3, 7))
    result, tmp_path = page.backend.editor.run(edit, settings), tmp_path_factory.mktemp("saved")
    folder = result.save(tmp_path / "saved")
    save_zip([result], {}, tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        archive.extract("edit.json", tmp_path)
    files = {"zip": tmp_path / "all.zip", "recipe": tmp_path / "edit.json", "result": folder / "seed-7.png"}
    return result, files


@pytest.mark.parametrize(("kind", "seeds"), [("zip", (3, 7)), ("recipe", ()), ("result", (7,))])
def test_a_dropped_file_brings_everything_back(tab, saved, kind, seeds):
    result, files = saved
    page, edit = tab.page, result.seen
    tab.drop(files[kind])
    tab.wait("photo-board", f"data.area == {edit.object_mask.sum()}")
    page.wait_for_selector("#reference-board .ld-has-picture")
    tab.wait("reference-board", f"data.area == {edit.background_mask.sum()}")
    page.wait_for_selector("#place-board .ld-has-picture")
    assert tab.field("object-prompt").input_value() == "a dog that jumps high"
    assert tab.field("dial-alpha").input_value() == "0.55"
    tab.ready()
    shown = page.locator("#gallery .thumbnail-item")
    assert shown.count() == len(seeds) and all(f"seed {seed} ·" in page.inner_text("#gallery") for seed in seeds)
    if not seeds:
        page.click("#run")
        tab.done()
    opened = open_bundle(packed(tab))
    assert opened.recipe.edit == edit
    for seed, image in opened.pictures.items():
        assert np.array_equal(image, result.images[result.seeds.index(seed)])


def test_a_file_that_is_no_edit_is_refused_and_the_page_stays(tab, pictures, tmp_path):
    (tmp_path / "x.json").write_text('{"<script>": 1}')
    tab.upload("restore", tmp_path / "x.json")
    tab.page.wait_for_selector(".toast-body:has-text('no recipe')")
    tab.drop(pictures["photo"])
    tab.page.wait_for_selector(".toast-body:has-text('carries no recipe')")
    tab.drop(pictures["photo"], "#photo-board .ld-stage")  # there it is a photo
    tab.page.wait_for_selector("#photo-board .ld-has-picture")


def test_an_example_opens_finished_and_all_are_presented_with_the_arrow_keys(tab):
    tab.page.locator("#examples .ld-example").nth(1).click()
    tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    tab.wait("photo-board", "Number(data.area) > 0")
    assert tab.page.input_value("#prompt textarea") == "a giraffe standing in the snow"
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
    begin(tab, pictures["photo"])
    for width in (1024, 390):
        tab.page.set_viewport_size({"width": width, "height": 844})
        assert tab.page.evaluate("() => document.documentElement.scrollWidth") <= width
