"""Switching the page to the model for photographs: who may, how far it is, and what the page has afterwards."""

import threading

import pytest

from layerdiffusion.errors import EditError, ModelError
from layerdiffusion.hub import LAPTOP
from layerdiffusion.models.load import LAPTOP_SIDE
from layerdiffusion.progress import Cancelled
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.handlers.jobs import switch
from layerdiffusion.ui.launch import build_page
from layerdiffusion.ui.options import PageOptions, parse_options
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import dial_values


@pytest.fixture
def backend() -> Backend:
    """The miniature, on a page whose owner allows downloads."""
    backend = Backend(PageOptions(model="miniature", allow_download=True))
    backend.start()
    assert backend.editor.models.name == "miniature"
    return backend


@pytest.fixture
def hub(monkeypatch, page_model):
    """What the hub does; by itself it sends a random model with a SAM, in two pieces."""
    state = {"download": lambda on_bytes: [on_bytes(done, 100) for done in (40, 100)]}

    def download_model(repository, on_bytes=None):
        assert repository == LAPTOP[0]
        if on_bytes:
            state["download"](on_bytes)
        return page_model

    monkeypatch.setattr("layerdiffusion.hub.download_model", download_model)
    return state


def ids(backend: Backend) -> set[str]:
    return {getattr(block, "elem_id", None) for block in build_page(backend).blocks.values()}


def test_only_an_owner_who_allows_it_has_the_button_and_never_on_a_space_or_offline(monkeypatch):
    assert parse_options(["--allow-download"]).allow_download and not parse_options([]).allow_download
    allowed = Backend(PageOptions(model="miniature", allow_download=True))
    assert allowed.may_download and "laptop-run" in ids(allowed)
    for options in (PageOptions(model="miniature"), PageOptions(model="miniature", allow_download=True, offline=True)):
        assert not Backend(options).may_download
    monkeypatch.setenv("SPACE_ID", "someone/layerdiffusion")
    assert not allowed.may_download and "laptop-run" not in ids(allowed)
    with pytest.raises(EditError, match="start the page with --allow-download"):
        list(allowed.switch(None))


def test_after_the_switch_every_tab_has_the_model_with_its_settings(backend, hub):
    session = Session()
    session.cancel = threading.Event()
    lines = [*switch(backend, session)]
    assert "40" in str(lines[1]) or "Loading the model" in str(lines[1])
    assert all(len(line) == 1 for line in lines[:-1])
    line, badge, notice, *dials = lines[-1]
    models = backend.editor.models
    assert (line, notice) == ("", "") and "tiny-sd" in badge and models.name == LAPTOP[0]
    assert not backend.is_miniature and models.size == LAPTOP_SIDE
    assert dials == dial_values(backend.opening()) and backend.opening().tune == "lora"


def test_a_download_that_fails_or_is_cancelled_leaves_the_model_that_was_there(backend, hub):
    before, cancel = backend.editor, threading.Event()

    def fail(on_bytes):
        raise ModelError("The disk is full.")

    hub["download"] = fail
    with pytest.raises(ModelError, match="disk is full"):
        list(backend.switch(cancel))

    def endless(on_bytes):
        while True:
            on_bytes(1, 100)

    hub["download"] = endless
    with pytest.raises(Cancelled):
        for _ in backend.switch(cancel):
            cancel.set()
    assert backend.editor is before and backend.is_miniature
