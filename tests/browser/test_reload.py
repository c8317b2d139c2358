"""What a person finds who opens the page, and who opens it again."""

import time
from dataclasses import replace

from layerdiffusion.ui import examples


def heights(tab, *names: str) -> list[float]:
    return [tab.page.locator(f"#{name}").bounding_box()["y"] for name in names]


def test_the_page_opens_on_a_finished_example_and_new_edit_clears_it(tab, page, monkeypatch):
    monkeypatch.setattr(page.backend, "options", replace(page.backend.options, no_example=False))
    example = examples.examples()[0]
    began = time.perf_counter()
    tab.goto()
    tab.page.wait_for_selector(f"#gallery .thumbnail-item >> nth={len(example.pictures) - 1}")
    assert time.perf_counter() - began < 10  # three on an idle machine
    tab.wait("photo-board", "Number(data.area) > 0")
    tab.shows("prompt", example.prompt)
    tab.page.wait_for_selector("#compare img >> nth=1")
    tab.page.set_viewport_size({"width": 390, "height": 844})
    assert heights(tab, "run", "results", "dials", "privacy") == sorted(
        heights(tab, "run", "results", "dials", "privacy")
    )
    tab.page.click("#new")
    tab.page.wait_for_selector("#results", state="hidden")
    tab.shows("prompt", "")
    tab.missing("no photo yet")


def test_unsaved_results_are_asked_for_and_come_back_after_a_reload(tab, pictures):
    asked = []

    def answer(dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    tab.page.on("dialog", answer)
    tab.begin(pictures["photo"])
    tab.page.click("#run")
    tab.done()
    tab.page.wait_for_selector("#edits .ld-example")
    tab.ready("Nothing to compute")
    area = tab.data("photo-board").area
    tab.open()
    assert asked == ["beforeunload"]
    tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    tab.shows("prompt", "a dog jumping on ice")
    tab.wait("photo-board", f"data.area == {area}")
    tab.ready("Nothing to compute")
    assert tab.packed()
    tab.page.wait_for_selector("#report [data-unsaved]", state="detached")
    tab.open()
    assert len(asked) == 1, "what is downloaded is not asked for"
    tab.page.remove_listener("dialog", answer)  # the next test has this tab
    tab.page.click("#new")
    tab.page.wait_for_selector("#results", state="hidden")
    tab.page.click("#edits .ld-example")
    tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    tab.shows("prompt", "a dog jumping on ice")


def test_a_named_preset_is_there_after_a_reload(tab):
    tab.dial("finetune-steps", 33)
    names = tab.page.locator("#own-presets input")
    names.fill("soft")
    stored = "localStorage.getItem('layerdiffusion-presets')"
    before = tab.page.evaluate(stored)
    tab.page.click("#preset-keep")
    tab.page.wait_for_function(f"before => {stored} !== before", arg=before)
    tab.open()
    assert tab.field("dial-finetune-steps").input_value() != "33"
    names.click()
    tab.page.click("[role=option]:has-text('soft')")
    tab.page.wait_for_function("() => document.querySelector('#dial-finetune-steps input').value === '33'")
    tab.page.click("#preset-remove")
    tab.page.wait_for_function("() => document.querySelector('#own-presets input').value === ''")


def test_who_stays_while_an_edit_runs_sees_its_results(tab, pictures, pace):
    asked = []

    def stay(dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    tab.page.on("dialog", stay)
    tab.begin(pictures["photo"])
    pace.seconds = 0.1
    tab.page.click("#run")
    tab.page.wait_for_selector("#cancel", state="visible")
    tab.page.evaluate("setTimeout(() => location.reload())")
    tab.until(lambda: bool(asked))
    pace.seconds = 0.0
    tab.done()
    assert asked == ["beforeunload"]
    tab.page.remove_listener("dialog", stay)
    assert tab.packed()
