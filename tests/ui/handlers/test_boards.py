"""The boards' own events: what the browser has is compared with what the session has."""

import json
from types import SimpleNamespace

import gradio as gr
import numpy as np
from serving import photo

from layerdiffusion.ui.handlers.boards import act, asked, loaded, on_board
from layerdiffusion.ui.session import Session


def event(**data) -> SimpleNamespace:
    return SimpleNamespace(_data=data)


def shown() -> tuple[Session, dict]:
    session = Session()
    session.photo.show(photo(32, 32))
    return session, {"version": session.photo.version, "picture": session.photo.picture_version}


def test_a_board_that_is_behind_gets_what_it_lacks():
    session, before = shown()
    assert asked("photo", session, event(**before)) == gr.skip()
    session.photo.load_mask(np.ones((32, 32), bool))
    marks = asked("photo", session, event(**before))
    assert json.loads(marks["value"])["version"] == session.photo.version > before["version"]
    assert "picture" not in marks
    session.photo.show(photo(16, 16))
    everything = asked("photo", session, event(**before))
    picture = json.loads(everything["picture"])
    assert picture["version"] == json.loads(everything["value"])["picture_version"] and picture["url"]
    assert asked("photo", session, event(version="<script>"))["value"]


def test_a_new_sessions_board_is_newer_than_that_of_a_forgotten_one():
    old, _ = shown()
    assert Session().photo.version > old.photo.version


def test_what_is_refused_shows_again_what_holds(monkeypatch):
    warned = []
    monkeypatch.setattr("layerdiffusion.ui.handlers.boards.warn", warned.append)
    session, before = shown()
    again = json.loads(on_board("photo", act, session, event(name="explode"))["value"])
    assert "use its buttons" in str(warned[0])
    assert again["version"] > before["version"] and again["picture_version"] == before["picture"]


def test_an_upload_is_shown_before_any_network_looks_at_it():
    def look(image):
        raise AssertionError("the device is not to be used here: an edit may be on it")

    session = Session()
    backend = SimpleNamespace(is_miniature=True, out_of_distribution=look)
    with open(__file__.replace("test_boards.py", "../../../assets/examples/lie-down/object.png"), "rb") as file:
        board, notice, inspection = loaded("photo", backend, session, file.read())
    assert json.loads(board["value"])["version"] == session.photo.version
    assert notice == "" and inspection != gr.skip()
