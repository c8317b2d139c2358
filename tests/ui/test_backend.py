"""What runs a network waits for its turn on the device; clicks go on beside an edit."""

import threading

import numpy as np
import pytest
from serving import photo

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import lay_out
from layerdiffusion.ui.backend import Backend


@pytest.fixture
def backend(page) -> Backend:
    assert page.backend.editor
    return page.backend


EDIT = Edit(photo(48, 48), np.eye(48, dtype=bool), prompt="a dog on ice")
CALLS = {
    "out_of_distribution": lambda backend: backend.out_of_distribution(photo(48, 48)),
    "scores": lambda backend: backend.scores([photo(64, 64)], EDIT, lay_out(EDIT, (64, 64))),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_waits_while_an_edit_runs(backend, name):
    CALLS[name](backend)  # what is loaded once is loaded now
    done = threading.Event()

    def call() -> None:
        CALLS[name](backend)
        done.set()

    with backend.editor.turn():
        thread = threading.Thread(target=call)
        thread.start()
        assert not done.wait(1.0), "it ran beside the edit"
    assert done.wait(30)
    thread.join()


def test_a_click_is_answered_while_an_edit_runs(backend):
    with backend.editor.turn():
        assert len(backend.candidates(np.asarray(photo(48, 48, seed=9)), [[24, 24]], None, None)) == 3


def test_jobs_share_one_queue_and_clicks_another(page):
    """Edits, backgrounds, comparisons and /edit, one at a time; clicks, boxes, words on two boards, and /segment."""
    fns = page.blocks.fns.values()
    assert sum(fn.concurrency_id == "device" for fn in fns) == 2 + 1 + 1 + 1
    assert {fn.concurrency_limit for fn in fns if fn.concurrency_id == "device"} == {1}
    assert sum(fn.concurrency_id == "clicks" for fn in fns) == 3 * 2 + 1
