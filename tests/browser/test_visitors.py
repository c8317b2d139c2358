"""Several people at one page, and one who leaves."""

import time

import pytest

from layerdiffusion.ui.bundle import open_bundle


def test_cancel_and_closing_the_tab_free_the_device(tab, page, pace, pictures):
    tab.begin(pictures["photo"])
    tab.dial("finetune-steps", 2000)
    pace.seconds = 0.1
    tab.ready("about")
    tab.page.click("#run")
    tab.page.wait_for_selector(".ld-stages .ld-now")
    began = time.perf_counter()
    tab.page.click("#cancel")
    tab.page.wait_for_function("() => document.querySelector('#progress').innerText.startsWith('Cancelled')")
    assert time.perf_counter() - began < 10  # of 200
    assert not page.backend.editor.turns.taken
    pace.seconds = 0
    tab.dial("finetune-steps", 3)
    tab.ready("about")
    tab.page.click("#run")
    tab.done()
    pace.seconds = 0.1
    tab.dial("finetune-steps", 2000)
    tab.ready("about")
    tab.page.click("#run")
    tab.page.wait_for_selector(".ld-stages .ld-now")
    assert page.backend.editor.turns.taken
    tab.page.close()
    for _ in range(600):
        if not page.backend.editor.turns.taken:
            return
        time.sleep(0.05)
    pytest.fail("the edit of a closed tab still runs")


@pytest.mark.slow
def test_two_people_get_their_own_pixels(tabs, pace, pictures):
    first, second = tabs(), tabs()
    first.begin(pictures["photo"], "a dog jumping on ice")
    second.begin(pictures["other"], "a cat asleep in the snow")
    first.dial("finetune-steps", 2000)
    first.ready("about")
    pace.seconds = 0.1
    first.page.click("#run")
    first.page.wait_for_selector(".ld-stages .ld-now")
    second.page.click("#run")
    second.page.wait_for_selector("#progress :text('queue: 1/1')")
    first.page.click("#cancel")
    pace.seconds = 0
    second.done()
    first.open()
    assert first.page.locator("#gallery .thumbnail-item").count() == 0
    first.begin(pictures["photo"], "a dog jumping on ice")
    first.page.click("#run")
    first.done()
    for tab, wide, words in ((first, True, "a dog jumping"), (second, False, "a cat asleep")):
        edit = open_bundle(tab.packed()).recipe.edit
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


@pytest.mark.slow
def test_everybody_sees_their_place_in_the_queue(tabs, pace):
    """Three people, one device: the second is next, the third is after that, and moves up."""
    people = [tabs() for _ in range(3)]
    for tab in people:
        tab.page.locator("#examples .ld-example").first.click()
        tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
        tab.dial("finetune-steps", 2000)
        tab.ready("about")
    first, second, third = people
    pace.seconds = 0.1
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
