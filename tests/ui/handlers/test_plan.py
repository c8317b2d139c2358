"""The layers' board and the line above Run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from serving import photo

from layerdiffusion.edit import Placement
from layerdiffusion.models.memory import Need
from layerdiffusion.models.parts import window_size
from layerdiffusion.models.profile import GIB
from layerdiffusion.settings import PAPER
from layerdiffusion.ui.handlers import plan as handlers
from layerdiffusion.ui.handlers.plan import ready_html, together
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import dial_values

WORDS = ("a dog on ice", "a dog", "on ice")
BACKEND = SimpleNamespace(
    ready=True, loading=False, defaults=lambda: PAPER, window=lambda shape, photo: window_size(shape, photo, 64, 16)
)


@pytest.fixture
def session() -> Session:
    session, mask = Session(), np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    session.photo.show(photo(64, 64))
    session.photo.load_mask(mask)
    return session


def board(session: Session, shape: str = "photo", background: str = "keep", swap: bool = False) -> dict:
    dials = tuple(dial_values(replace(PAPER, shape=shape)))
    return json.loads(together(session, WORDS, background, swap, dials, BACKEND)[0]["value"])


def test_each_board_is_newer_than_the_last_and_names_the_others_versions(session):
    first, second = board(session), board(session)
    assert second["version"] > first["version"]
    assert second["versions"] == {"photo": session.photo.version, "reference": session.reference.version}
    assert "composite" in second


def test_the_board_has_the_shape_and_the_windows_that_the_dials_ask_for(session):
    assert [board(session)[name] for name in ("width", "height", "windows")] == [64, 64, {"photo": [0, 0, 64, 64]}]
    session.reference.show(photo(64, 96))
    wide = board(session, "4:3", "reference")
    assert (wide["width"], wide["height"]) == (64, 48)
    assert wide["windows"] == {"photo": [0, 8, 64, 56], "reference": [0, 24, 64, 72]}
    session.reference.move_window(0.5, 1)
    assert board(session, "4:3", "reference")["windows"]["reference"] == [0, 48, 64, 96]
    session.photo.move_window(0, 0.25)
    assert board(session, "4:3", "reference")["windows"]["photo"] == [0, 4, 64, 52]


def test_while_an_edit_runs_the_line_says_so_and_nothing_else(session):
    session.running = True
    backend = SimpleNamespace(ready=False, loading=True)
    assert "running" in handlers.plan(session, WORDS, "keep", False, (), backend)


def test_only_a_placement_off_the_picture_gets_a_warning(session, monkeypatch):
    warned = []
    monkeypatch.setattr(handlers, "warn", warned.append)
    session.photo.clear()
    assert "empty" in board(session) and not warned
    session.photo.undo()
    session.placement = Placement(dx=1, dy=1, scale=0.2)
    assert "empty" in board(session)
    assert [str(error).split(";")[0] for error in warned] == ["The subject is placed outside the picture"]


@pytest.mark.parametrize(
    ("statuses", "seconds", "count", "text"),
    [
        ({"embeddings": "run", "finetune": "run", "sampling": "run"}, 5.2, 4, "4 pictures, about 5 s."),
        ({"embeddings": "reuse", "finetune": "reuse", "sampling": "run"}, 1, 1, "about 1 s · reuses stage 1 and stage"),
        ({"embeddings": "reuse", "sampling": "run"}, None, 2, "</b> 2 pictures · reuses stage 1."),
        ({"embeddings": "skip", "finetune": "reuse", "sampling": "reuse"}, 0, 2, "Nothing to compute"),
    ],
)
def test_the_line_says_what_run_would_do(statuses, seconds, count, text):
    assert text in ready_html(statuses, seconds, count)


def test_the_line_says_what_the_edit_takes_of_a_card():
    need = Need(int(8.9 * GIB), 16 * GIB, saving=True)
    line = ready_html({"finetune": "run"}, 60, 1, need=need)
    assert "needs about 9 of 16 GB; low-memory way chosen" in line
