"""Whatever runs a network waits for its turn on the device."""

import threading

import numpy as np
import pytest
from serving import photo

from layerdiffusion.ui.backend import Backend


@pytest.fixture
def backend(page) -> Backend:
    assert page.backend.editor
    return page.backend


CALLS = {
    "candidates": lambda backend: backend.candidates(np.asarray(photo(48, 48)), [[24, 24]], None, None),
    "out_of_distribution": lambda backend: backend.out_of_distribution(photo(48, 48)),
    "scores": lambda backend: backend.scores([photo(48, 48)], "a dog on ice"),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_waits_while_an_edit_runs(backend, name):
    CALLS[name](backend)  # what is loaded once is loaded now
    done = threading.Event()

    def call() -> None:
        CALLS[name](backend)
        done.set()

    with backend.editor.runtime.turn():
        thread = threading.Thread(target=call)
        thread.start()
        assert not done.wait(1.0), "it ran beside the edit"
    assert done.wait(30)
    thread.join()


def test_events_that_use_the_device_share_one_queue(page):
    """Clicks, edits, backgrounds, comparisons, inspections and the two endpoints, one at a time."""
    fns = page.blocks.fns.values()
    assert sum(fn.concurrency_id == "device" for fn in fns) == 2 + 2 + 1 + 1 + 1 + 2
    assert {fn.concurrency_limit for fn in fns if fn.concurrency_id == "device"} == {1}
