"""The user study as a rater meets it, in Chromium."""

import csv
import re

import pytest
from bench_folder import METHODS, bench_folder
from serving import save_page_model, served

from layerdiffusion.evaluation.study import REVEAL_AFTER, Study


@pytest.fixture(scope="module")
def study_page(chromium, tmp_path_factory):
    folder = bench_folder(tmp_path_factory.mktemp("study") / "bench", edits=1)
    with served(save_page_model(tmp_path_factory.mktemp("study-model")), study=str(folder)) as page:
        yield page.url + "study", Study(folder)


def rate(page, score=4):
    """Every picture on both scales, and on to the next."""
    before = page.inner_text("#study-asked h2 + p")
    for at in range(len(METHODS)):
        for scale in ("background", "action"):
            page.click(f"#study-{scale}-{at} label:has-text('{score}')")
    page.click("#study-save")
    page.wait_for_function("before => document.querySelector('#study-asked h2 + p')?.innerText !== before", arg=before)


def fits(page) -> bool:
    """Whether nothing sticks out sideways, on a desk and on a phone."""
    fitting = []
    for width, scheme in ((390, "dark"), (1440, "light")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        fitting.append(page.evaluate("document.documentElement.scrollWidth") <= width)
    return all(fitting)


@pytest.mark.slow
def test_a_study_from_the_first_picture_to_the_results(window, study_page):
    url, study = study_page
    complaints = []
    page = window.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(url)
    page.wait_for_selector("#study-trial img >> nth=3")
    assert page.is_disabled("#study-show")
    assert "Background: is it the wanted place?" in page.locator("#study-background-0").inner_text()
    drawn = re.sub(r'base64,[^"]+', "", page.inner_html("main")).lower()
    assert not any(name.lower() in drawn for name in (*METHODS[1:], "Plug-and-Play", "seed"))
    assert fits(page)

    page.click("#study-save")
    assert "both scales" in page.wait_for_selector(".toast-body").inner_text()
    rate(page)
    assert "2 of 6" in page.inner_text("#study-asked") and page.locator("#study-trial input:checked").count() == 0
    page.reload()
    page.wait_for_function("() => document.querySelector('#study-asked')?.innerText.includes('2 of 6')")

    page.locator("#study-background-0 input").nth(1).focus()
    page.keyboard.press("Space")  # as good as a click
    page.wait_for_selector("#study-background-0 input[value='2']:checked", state="attached")

    for _ in range(REVEAL_AFTER - 1):
        rate(page)
    page.wait_for_selector("#study-show:enabled")
    page.click("#study-show")
    page.wait_for_selector("#study-found svg >> nth=7")
    assert "Plug-and-Play" in page.inner_text("#study-found")
    with page.expect_download() as download:
        page.click("#study-found a[download]")
    with open(download.value.path(), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.ratings()) == REVEAL_AFTER * len(METHODS)
    assert fits(page)

    rate(page)
    page.wait_for_function("() => document.querySelector('#study-asked').innerText.includes('Thank you')")
    assert not page.is_visible("#study-save")
    page.goto(url.removesuffix("study"))
    page.wait_for_selector("#photo-board canvas")
    page.close()
    assert not [words for words in complaints if "both scales" not in words]
