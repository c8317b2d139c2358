"""Board and session agree, whichever response is late or lost; closed tabs are forgotten, open ones are not."""

import gc
import time
import weakref

import numpy as np
import pytest
from PIL import Image
from serving import save_page_model, served
from tab import Tab

from layerdiffusion.ui.handlers import boards
from layerdiffusion.ui.launch import OpenTabs
from layerdiffusion.ui.marks import MarkedPicture
from layerdiffusion.ui.session import Session

SOON = 5000  # milliseconds in which board and session have to agree
KEEP = 2  # seconds


@pytest.fixture
def mask(tmp_path):
    """The mask of a 96 × 64 photo, and how many pixels it marks."""
    marked = np.zeros((64, 96), np.uint8)
    marked[20:40, 30:70] = 255
    Image.fromarray(marked).save(tmp_path / "mask.png")
    return tmp_path / "mask.png", 20 * 40


def agrees(tab, area: int) -> None:
    tab.page.wait_for_function(
        f"() => document.querySelector('#photo-board [data-version]').dataset.area == {area}", timeout=SOON
    )


def test_an_older_board_that_arrives_late_is_refused(tab, pictures, mask, monkeypatch):
    """The photo's own response is slow, and the mask's, sent at once after it, overtakes it."""
    path, area = mask
    plain, sent, late = MarkedPicture.picture, [], []

    def slow(marked: MarkedPicture) -> str:
        if not sent:
            sent.append(marked)
            time.sleep(1.5)
            late.append(marked)
        return plain(marked)

    monkeypatch.setattr(MarkedPicture, "picture", slow)
    tab.upload("photo-upload", pictures["photo"])
    while not sent:
        tab.page.wait_for_timeout(20)
    tab.upload("photo-mask-upload", path)
    tab.missing("Say what the picture should show")
    tab.page.wait_for_selector("#photo-board .ld-has-picture")
    agrees(tab, area)
    tab.until(lambda: bool(late))
    tab.page.wait_for_timeout(500)  # the slow one has come by now
    assert tab.data("photo-board").area == area


def test_a_board_whose_update_got_lost_asks_for_it(tab, pictures, mask, monkeypatch):
    path, area = mask
    tab.upload("photo-upload", pictures["photo"])
    tab.page.wait_for_selector("#photo-board .ld-has-picture")
    plain, lost = boards.board_of, []

    def lose_one(*args, **kwargs):
        update = plain(*args, **kwargs)
        if lost:
            return update
        lost.append(update)
        return boards.gr.skip()

    monkeypatch.setattr(boards, "board_of", lose_one)
    tab.upload("photo-mask-upload", path)
    tab.missing("Say what the picture should show")
    agrees(tab, area)
    assert lost


@pytest.fixture
def short_page(tmp_path, monkeypatch):
    """The page with a short memory."""
    monkeypatch.setattr("serving.launch_arguments", with_tabs(OpenTabs(KEEP)))
    with served(save_page_model(tmp_path / "model")) as page:
        assert page.backend.editor
        yield page


def with_tabs(tabs: OpenTabs):
    from layerdiffusion.ui.launch import launch_arguments

    return lambda options: launch_arguments(options, tabs)


@pytest.mark.slow
def test_a_closed_tab_is_forgotten_and_an_open_one_is_not(chromium, short_page, pictures):
    contexts = [chromium.new_context() for _ in range(2)]
    closed, resting = (Tab(context, short_page.url) for context in contexts)
    for tab in (closed, resting):
        tab.upload("photo-upload", pictures["photo"])
        tab.page.wait_for_selector("#photo-board .ld-has-picture")
        tab.missing("No subject is marked")
    sessions = short_page.blocks.app.state_holder.session_data
    states = [state for session in sessions.values() for state in session.state_data.values()]
    held = [weakref.ref(state.photo) for state in states if isinstance(state, Session)]
    del states
    assert len(held) == 2
    time.sleep(2 * KEEP)  # both rest for longer than a closed tab is remembered
    assert all(one() is not None for one in held)
    contexts[0].close()

    def remembered() -> int:
        gc.collect()
        return sum(one() is not None for one in held)

    resting.until(lambda: len(sessions) == 1 == remembered())
    resting.brush("photo-board", (0.35, 0.45), (0.65, 0.55))
    assert resting.data("photo-board").area > 0
    contexts[1].close()
    assert not resting.complaints
