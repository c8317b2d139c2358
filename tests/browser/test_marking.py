"""Other ways than clicks to mark a subject, in Chromium: words, a box, a lasso under a finger."""

import numpy as np

from layerdiffusion.models.find import Found
from layerdiffusion.models.segmenter import Candidate


def square(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((64, 96), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_words_a_box_and_a_lasso_mark_the_subject(tabs, page, pictures, monkeypatch):
    boxes = []

    def candidates(image, points, labels, box):
        boxes.append(box)
        return [Candidate(square(*box), 0.9)] * 3

    def find(image, words):
        assert words == "a small dog"
        return [Found(square(*box), 0.9, 0.1, (), box) for box in ((10, 10, 30, 30), (50, 10, 60, 20), (0, 0, 9, 9))]

    monkeypatch.setattr(page.backend, "candidates", candidates)
    monkeypatch.setattr(page.backend, "find", find)
    tab = tabs(has_touch=True)
    browser = tab.page
    tab.upload("photo-upload", pictures["photo"])
    browser.wait_for_selector("#photo-board .ld-has-picture")
    tab.say("a small dog jumping on ice")
    browser.wait_for_function("() => document.querySelector('#photo-board .ld-find input').value === 'a small dog'")
    browser.click("#photo-board .ld-find button")
    tab.wait("photo-board", "data.area == 400")
    assert browser.locator("#photo-board [data-pick]").all_inner_texts() == ["Best", "Second", "Third"]
    browser.click("#photo-board [data-pick='1']")
    tab.wait("photo-board", "data.area == 100")

    def at(x: float, y: float) -> tuple[float, float]:
        """The screen's place of a pixel of the photo, 96 × 64, which is fitted into the stage."""
        browser.locator("#photo-board .ld-stage").scroll_into_view_if_needed()
        box = browser.locator("#photo-board .ld-stage").bounding_box()
        scale = min(box["width"] / 96, box["height"] / 64)
        left, top = box["x"] + (box["width"] - 96 * scale) / 2, box["y"] + (box["height"] - 64 * scale) / 2
        return left + x * scale, top + y * scale

    browser.click("#photo-board [data-tool=box]")
    browser.mouse.move(*at(70, 50))
    browser.mouse.down()
    browser.mouse.move(*at(20, 20), steps=4)
    browser.mouse.up()
    tab.wait("photo-board", "data.area != 100")
    assert all(abs(one - wanted) <= 1 for one, wanted in zip(boxes[-1], (20, 20, 70, 50), strict=True))
    area = tab.data("photo-board").area

    browser.click("#photo-board [data-tool=lasso-out]")
    touch = browser.context.new_cdp_session(browser)
    path = [at(10, 10), at(45, 10), at(45, 60), at(10, 60)]
    for kind, points in (("touchStart", path[:1]), *(("touchMove", [point]) for point in path[1:]), ("touchEnd", [])):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
        browser.wait_for_timeout(50)
    tab.wait("photo-board", f"data.area < {area}")
    assert abs(tab.data("photo-board").area - 25 * 30) < 60
    tab.say("a (dog:1.3) jumping on ice")
    tab.missing("“(dog:1.3)” changes no word's weight")
