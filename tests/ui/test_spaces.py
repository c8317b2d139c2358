"""ZeroGPU, stood in for: a `spaces` package that runs what it is given on pickled copies, as its workers do."""

import inspect
import pickle
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from serving import photo

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError, SegmentError
from layerdiffusion.settings import Settings
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.options import Options
from layerdiffusion.ui.spaces import LEAST, MOST, booked


@pytest.fixture
def bookings(monkeypatch) -> list[int]:
    """The seconds of every GPU that was booked."""
    seconds: list[int] = []

    def elsewhere(value):
        return pickle.loads(pickle.dumps(value))

    def gpu(duration):
        def decorate(task):
            def generate(*args):
                seconds.append(duration(*args))
                try:
                    for value in task(*elsewhere(args)):
                        yield elsewhere(value)
                except Exception as error:
                    raise RuntimeError(type(error).__name__) from None  # all that comes back of an error's words

            def call(*args):
                seconds.append(duration(*args))
                try:
                    return elsewhere(task(*elsewhere(args)))
                except Exception as error:
                    raise RuntimeError(type(error).__name__) from None

            return generate if inspect.isgeneratorfunction(task) else call

        return decorate

    package = ModuleType("spaces")
    package.__spec__, package.GPU = ModuleSpec("spaces", None), gpu
    monkeypatch.setitem(sys.modules, "spaces", package)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    return seconds


@pytest.fixture
def backend(bookings, page_model) -> Backend:
    backend = Backend(Options(model=str(page_model), offline=True))
    backend.start()
    assert backend.ready, "on ZeroGPU it is loaded before the first request"
    return backend


@pytest.fixture
def edit() -> Edit:
    mask = np.zeros((48, 48), bool)
    mask[12:36, 12:36] = True
    return Edit(object_image=photo(48, 48), object_mask=mask, prompt="a dog in the snow", background="keep")


def test_a_gpu_is_booked_for_a_little_longer_than_the_edit():
    assert booked(100) > 100
    assert booked(0.1) == LEAST and booked(10_000) == MOST


def test_nothing_runs_on_the_device_before_a_gpu_is_booked(bookings, page_model, monkeypatch):
    monkeypatch.setattr("layerdiffusion.editor.Editor.measure", lambda editor: pytest.fail("there is no GPU yet"))
    backend = Backend(Options(model=str(page_model), offline=True))
    backend.start()
    assert backend.ready and not bookings


def test_an_edit_books_by_its_settings(backend, bookings, edit):
    short, long = (backend.seconds(edit, Settings(embedding_steps=steps)) for steps in (500, 1000))
    assert long > short > LEAST
    events = list(backend.run(edit, Settings(), None))
    assert [kind for kind, _ in events][-1] == "done" and len(events[-1][1].images) == 2
    assert bookings == [booked(backend.seconds(edit, Settings(training_seed=1)))]
    assert len(backend.scores(events[-1][1].images, edit.prompt)) == 2 and len(bookings) == 2


def test_what_is_wrong_comes_back_in_its_own_words(backend, bookings):
    with pytest.raises(SegmentError, match="click"):
        backend.candidates(np.asarray(photo(48, 48)), [], None, None)
    with pytest.raises(EditError, match="no words"):
        list(backend.generate(" ", (0,), Settings(), (1, 1), None))
    assert len(bookings) == 2
